package azure

import (
	"fmt"
	"math"
	"net/http"
	"strconv"
	"time"

	"golang.org/x/time/rate"
)

// buckets are ARM's token buckets, guarded by Emulator.mu. They are made on first use and dropped when the settings change.
type buckets map[string]*rate.Limiter

func newBuckets() buckets { return buckets{} }

// take uses one request of a bucket. When there is none, it returns how long to wait, in whole seconds.
func (b buckets) take(name string, size Bucket, now time.Time) (remaining int, wait time.Duration) {
	l, ok := b[name]
	if !ok {
		l = rate.NewLimiter(rate.Limit(size.PerSecond), size.Size)
		b[name] = l
	}
	if l.AllowN(now, 1) {
		return int(l.TokensAt(now)), 0
	}
	missing := 1 - l.TokensAt(now)
	return 0, time.Duration(math.Ceil(missing/size.PerSecond)) * time.Second
}

// throttle charges a request to the buckets of its subscription, principal and resource. The caller holds mu.
func (e *Emulator) throttle(h http.Header, who caller, subscription, resource string, write bool) *apiError {
	now := time.Now()
	limits := e.settings.Throttle
	kind, size := "reads", limits.Reads
	if write {
		kind, size = "writes", limits.Writes
	}
	if size.Size > 0 {
		remaining, wait := e.buckets.take(key(kind+"/"+subscription+"/"+who.objectID), size, now)
		h.Set("x-ms-ratelimit-remaining-subscription-"+kind, strconv.Itoa(remaining))
		if wait > 0 {
			return &apiError{
				Status: http.StatusTooManyRequests, Code: "SubscriptionRequestsThrottled", RetryAfter: wait,
				Message: fmt.Sprintf("Number of requests for subscription '%s' and operation '%s' exceeded the backend storage limit. Please try again after '%d' seconds.", subscription, kind, seconds(wait)),
			}
		}
	}
	if limits.Resource.Size > 0 && resource != "" {
		if _, wait := e.buckets.take(key("resource/"+resource), limits.Resource, now); wait > 0 {
			return &apiError{
				Status: http.StatusTooManyRequests, Code: "TooManyRequests", RetryAfter: wait,
				Message: fmt.Sprintf("Too many requests for resource '%s'. Retry after %d seconds.", resource, seconds(wait)),
			}
		}
	}
	return nil
}
