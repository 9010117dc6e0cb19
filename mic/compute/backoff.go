package compute

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"github.com/aad-pod-identity/aad-pod-identity/internal/azure/arm"
)

// Backoff says when an identity that ARM refused is tried again: Quick times
// after Interval, because ARM learns of a new identity or role with some delay,
// then after First, doubling up to Max.
type Backoff struct {
	Quick    int
	Interval time.Duration
	First    time.Duration
	Max      time.Duration
}

// after returns the wait after the n-th refusal, n from 1.
func (b Backoff) after(n int) time.Duration {
	if n <= b.Quick {
		return min(b.Interval, b.Max)
	}
	return doubling(b.First, b.Max, n-b.Quick)
}

// doubling returns the n-th wait, n from 1, of a series that doubles.
func doubling(first, last time.Duration, n int) time.Duration {
	d := first
	for i := 1; i < n && d < last; i++ {
		d *= 2
	}
	return min(d, last)
}

// jitter spreads a duration by a tenth to both sides, so that targets do not
// come in step.
func jitter(d time.Duration) time.Duration {
	if d <= 0 {
		return d
	}
	return d - d/10 + rand.N(d/5+1)
}

// upTo returns a random part of a duration.
func upTo(d time.Duration) time.Duration { return rand.N(d + 1) }

// Waits after a failure that concerns a target as a whole.
const (
	// conflictWait is for another update of the target to end, unless ARM asks for
	// more.
	conflictWait = 5 * time.Second
	// Outages end without anybody's doing, so they are looked at often; a missing
	// right or a refused request waits for people.
	firstHold, lastOutage, lastRefusal = time.Second, time.Minute, 5 * time.Minute
)

// hold is the circuit breaker of a target: after a failure that is the target's
// own, or everybody's, ARM is not asked about it until the hold is over,
// whatever events come.
type hold struct {
	until time.Time
	err   error
	// failures in a row.
	failures int
}

// open remembers a failure and says until when ARM is left alone. Jitter varies
// a wait, spread returns a random part of one.
func (h *hold) open(err error, now time.Time, jitter, spread func(time.Duration) time.Duration) {
	if err == nil {
		*h = hold{}
		return
	}
	if errors.Is(err, context.Canceled) {
		return // the process ends
	}
	h.err = err
	after, throttled := arm.IsThrottled(err)
	var e *arm.Error
	errors.As(err, &e)
	switch {
	case throttled:
		// Not a failure of this target. Never before ARM's time, and not all targets
		// at once after it.
		h.until = now.Add(after + spread(after/4+time.Second))
		return
	case arm.IsConflict(err):
		h.until = now.Add(jitter(max(conflictWait, e.RetryAfter)))
		return
	}
	h.failures++
	last := lastOutage
	if arm.IsForbidden(err) || arm.IsInvalid(err) || errors.As(err, new(refusalError)) {
		last = lastRefusal
	}
	h.until = now.Add(jitter(doubling(firstHold, last, h.failures)))
}

// on says whether the hold is in force.
func (h *hold) on(now time.Time) bool { return h.err != nil && now.Before(h.until) }

// refusalError says that ARM refused a request of which no single identity is
// to blame.
type refusalError struct{ cause error }

func (e refusalError) Error() string { return e.cause.Error() }
func (e refusalError) Unwrap() error { return e.cause }
