package arm

import (
	"context"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"golang.org/x/time/rate"
)

// Limits of ARM for one principal in one subscription (Microsoft Learn,
// "Understand how Azure Resource Manager throttles requests"): bucket sizes and
// refills per second.
const (
	readBucket, readRefill   = 250, 25
	writeBucket, writeRefill = 200, 10
)

// Budget keeps all calls of the process within ARM's limits. It is a policy of
// the clients' pipelines: each try takes a token of its subscription's bucket,
// waiting if there is none. Reads, to which the polling of operations belongs,
// and writes are separate, as in ARM.
//
// Once ARM has asked to wait, calls to that subscription fail at once as
// Throttled until then, so that waiting work goes back to its queue instead of
// holding workers. After the wait the bucket is empty and fills by its rate: a
// full one would send everything that has piled up in one instant, which is how
// one pause becomes the next.
type Budget struct {
	now     func() time.Time
	observe func(Request)

	mu      sync.Mutex
	buckets map[bucketKey]*bucket
}

// Request is a call that the budget let through, for metrics.
type Request struct {
	// Write or read.
	Write bool
	// Status of the answer; 0 if there was none.
	Status int
	// Waited is how long it stood in line for a token.
	Waited time.Duration
}

type bucketKey struct {
	subscription string
	write        bool
}

type bucket struct {
	limiter *rate.Limiter
	size    int
	// until is the end of the pause that ARM asked for.
	until time.Time
}

// NewBudget returns full buckets.
func NewBudget() *Budget {
	return &Budget{now: time.Now, observe: func(Request) {}, buckets: map[bucketKey]*bucket{}}
}

// Observe sets whom to tell of each request that was sent. It must be called
// before the first one.
func (b *Budget) Observe(observe func(Request)) { b.observe = observe }

// Do implements policy.Policy.
func (b *Budget) Do(req *policy.Request) (*http.Response, error) {
	raw := req.Raw()
	key := bucketKey{subscriptionOf(raw.URL.Path), raw.Method != http.MethodGet && raw.Method != http.MethodHead}
	began := b.now()
	if err := b.take(raw.Context(), key); err != nil {
		return nil, err
	}
	done := Request{Write: key.write, Waited: b.now().Sub(began)}
	response, err := req.Next()
	if err != nil {
		b.observe(done)
		return response, err
	}
	done.Status = response.StatusCode
	b.observe(done)
	if after := pause(response); after > 0 {
		b.pause(key, after)
	} else if left, told := remaining(response.Header, key.write); told {
		b.lower(key, left)
	}
	return response, nil
}

func (k bucketKey) verb() string {
	if k.write {
		return "write"
	}
	return "read"
}

// take waits for a token. It fails if there is a pause, also one that begins
// while it waits.
func (b *Budget) take(ctx context.Context, key bucketKey) error {
	limiter, paused := b.limiter(key)
	if paused == 0 {
		if err := limiter.Wait(ctx); err != nil {
			if ctx.Err() != nil {
				return fmt.Errorf("waiting for the ARM budget of subscription %s: %w", key.subscription, err)
			}
			return clientThrottled(backlog(limiter), "%ss in subscription %s are queued beyond the time that a call may take", key)
		}
		_, paused = b.limiter(key)
	}
	if paused == 0 {
		return nil
	}
	return clientThrottled(paused, "Azure asked to wait before the next %s in subscription %s", key)
}

func clientThrottled(after time.Duration, format string, key bucketKey) error {
	return &Error{Kind: Throttled, Code: "ClientThrottled", RetryAfter: after, Message: fmt.Sprintf(format, key.verb(), key.subscription)}
}

// backlog is how long it takes until nobody stands in line any more.
func backlog(l *rate.Limiter) time.Duration {
	return time.Duration(max(1, 1-l.Tokens()) / float64(l.Limit()) * float64(time.Second))
}

// limiter returns the limiter, and how long it is still paused.
func (b *Budget) limiter(key bucketKey) (*rate.Limiter, time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	k, ok := b.buckets[key]
	if !ok {
		k = &bucket{limiter: rate.NewLimiter(readRefill, readBucket), size: readBucket}
		if key.write {
			k = &bucket{limiter: rate.NewLimiter(writeRefill, writeBucket), size: writeBucket}
		}
		b.buckets[key] = k
	}
	return k.limiter, max(0, k.until.Sub(b.now()))
}

// pause stops a bucket for d, and empties it as of then.
func (b *Budget) pause(key bucketKey, d time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	k := b.buckets[key]
	until := b.now().Add(d)
	if !until.After(k.until) {
		return
	}
	k.until = until
	k.limiter = rate.NewLimiter(k.limiter.Limit(), k.size)
	k.limiter.AllowN(until, k.size)
}

// lower takes from a bucket what others who sign in as the same principal have
// used, such as a former leader or the cloud controller manager.
func (b *Budget) lower(key bucketKey, left int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	k := b.buckets[key]
	now := b.now()
	// Calls in flight have their token and are not in ARM's count yet, so a little
	// more than ARM says is no contradiction.
	if surplus := int(k.limiter.TokensAt(now)) - left; left < k.size/2 && surplus > 0 {
		k.limiter.AllowN(now, surplus)
	}
}

// remaining is how many calls ARM says are left for the subscription.
func remaining(h http.Header, write bool) (int, bool) {
	name := "x-ms-ratelimit-remaining-subscription-reads"
	if write {
		name = "x-ms-ratelimit-remaining-subscription-writes"
	}
	left, err := strconv.Atoi(h.Get(name))
	return left, err == nil && left >= 0
}

// pause is how long a response asks everybody to wait. Retry-After of a
// successful answer is about polling an operation, not about the budget.
func pause(r *http.Response) time.Duration {
	after := RetryAfter(r.Header)
	switch {
	case r.StatusCode == http.StatusTooManyRequests && after == 0:
		return defaultRetryAfter
	case r.StatusCode == http.StatusTooManyRequests, r.StatusCode >= http.StatusInternalServerError:
		return after
	}
	return 0
}

func subscriptionOf(path string) string {
	segments := strings.SplitN(strings.TrimPrefix(path, "/"), "/", 3)
	if len(segments) < 2 || !strings.EqualFold(segments[0], "subscriptions") {
		return ""
	}
	return strings.ToLower(segments[1])
}
