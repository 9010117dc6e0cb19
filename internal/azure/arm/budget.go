package arm

import (
	"fmt"
	"net/http"
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
// waiting if there is none. Once ARM has asked to wait, calls to that
// subscription fail at once as Throttled until then, so that waiting work goes
// back to its queue instead of holding workers. Reads and writes are separate,
// as in ARM.
type Budget struct {
	now func() time.Time

	mu      sync.Mutex
	buckets map[bucketKey]*bucket
}

type bucketKey struct {
	subscription string
	write        bool
}

type bucket struct {
	limiter *rate.Limiter
	// until is the end of the pause that ARM asked for.
	until time.Time
}

// NewBudget returns full buckets.
func NewBudget() *Budget {
	return &Budget{now: time.Now, buckets: map[bucketKey]*bucket{}}
}

// Do implements policy.Policy.
func (b *Budget) Do(req *policy.Request) (*http.Response, error) {
	raw := req.Raw()
	key := bucketKey{subscriptionOf(raw.URL.Path), raw.Method != http.MethodGet && raw.Method != http.MethodHead}
	bucket, wait := b.take(key)
	if wait > 0 {
		return nil, &Error{
			Kind: Throttled, Code: "ClientThrottled", RetryAfter: wait,
			Message: fmt.Sprintf("Azure asked to wait before the next %s in subscription %s", key.verb(), key.subscription),
		}
	}
	if err := bucket.limiter.Wait(raw.Context()); err != nil {
		return nil, fmt.Errorf("waiting for the ARM budget of subscription %s: %w", key.subscription, err)
	}
	response, err := req.Next()
	if err != nil {
		return response, err
	}
	if after := pause(response); after > 0 {
		b.pause(key, after)
	}
	return response, nil
}

func (k bucketKey) verb() string {
	if k.write {
		return "write"
	}
	return "read"
}

// take returns the bucket, and how long it is still paused.
func (b *Budget) take(key bucketKey) (*bucket, time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	k, ok := b.buckets[key]
	if !ok {
		k = &bucket{limiter: rate.NewLimiter(readRefill, readBucket)}
		if key.write {
			k.limiter = rate.NewLimiter(writeRefill, writeBucket)
		}
		b.buckets[key] = k
	}
	return k, k.until.Sub(b.now())
}

func (b *Budget) pause(key bucketKey, d time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if until := b.now().Add(d); until.After(b.buckets[key].until) {
		b.buckets[key].until = until
	}
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
