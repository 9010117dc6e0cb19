package compute

import (
	"math/rand/v2"
	"time"
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
	d := b.First
	for i := b.Quick + 1; i < n && d < b.Max; i++ {
		d *= 2
	}
	return min(d, b.Max)
}

// jitter spreads a duration by a tenth to both sides, so that targets do not
// come in step.
func jitter(d time.Duration) time.Duration {
	if d <= 0 {
		return d
	}
	return d - d/10 + rand.N(d/5+1)
}

// Failure is ARM's refusal of an identity.
type Failure struct {
	// Code, Message and RequestID are ARM's.
	Code, Message, RequestID string
	// Attempts is how often it was refused in a row.
	Attempts int
	// RetryAt is when it is tried again.
	RetryAt time.Time
	// Fresh: it was refused in this very pass, not in an earlier one.
	Fresh bool
}
