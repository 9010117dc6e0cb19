package token

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// Budget keeps requests to IMDS below what it allows a VM: 20 identity requests a
// second and 5 at a time. What is beyond waits its turn here instead of being
// answered 429. Others on the node ask IMDS too, so it is not used up.
type Budget struct {
	slots chan struct{}
	rate  *rate.Limiter

	mu     sync.Mutex
	paused time.Time // until when IMDS asked to be left alone
}

const (
	// maxPause bounds what IMDS can ask for by Retry-After: it counts seconds.
	maxPause = 10 * time.Second
	// tryTimeout bounds one request to IMDS, its turn not counted.
	tryTimeout = 30 * time.Second
)

// NewBudget allows atOnce requests at a time, and so many a second: perSecond, and
// burst of them at once.
func NewBudget(perSecond float64, burst, atOnce int) *Budget {
	return &Budget{slots: make(chan struct{}, atOnce), rate: rate.NewLimiter(rate.Limit(perSecond), burst)}
}

// Transport sends identity requests within the budget, and others as they come:
// IMDS counts identity requests by themselves.
func (b *Budget) Transport(next http.RoundTripper) http.RoundTripper { return budgeted{b, next} }

// Rationed says whether IMDS counts a request for the path among identity requests.
func Rationed(path string) bool { return strings.Contains(strings.ToLower(path), "/identity") }

type budgeted struct {
	budget *Budget
	next   http.RoundTripper
}

// RoundTrip implements http.RoundTripper. The place is given back when the answer
// has been read.
func (b budgeted) RoundTrip(r *http.Request) (*http.Response, error) {
	if !Rationed(r.URL.Path) {
		return b.next.RoundTrip(r)
	}
	free, err := b.budget.take(r.Context())
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(r.Context(), tryTimeout)
	done := sync.OnceFunc(func() { cancel(); free() })
	resp, err := b.next.RoundTrip(r.WithContext(ctx))
	if err != nil {
		done()
		return nil, err
	}
	if resp.StatusCode == http.StatusTooManyRequests {
		b.budget.pause(max(time.Second, retryAfter(resp.Header.Get("Retry-After"))))
	}
	resp.Body = closing{resp.Body, done}
	return resp, nil
}

// Passing sends what pods ask IMDS themselves, within all. Excepted pods, of which MIC
// is one, have a budget of their own: of identity requests, other pods can make some,
// too, and as many as they like.
func Passing(all, excepted, others *Budget, next http.RoundTripper) http.RoundTripper {
	next = all.Transport(next)
	return passing{excepted.Transport(next), others.Transport(next)}
}

type passing struct{ excepted, others http.RoundTripper }

// RoundTrip implements http.RoundTripper.
func (p passing) RoundTrip(r *http.Request) (*http.Response, error) {
	if Excepted(r.Context()) {
		return p.excepted.RoundTrip(r)
	}
	return p.others.RoundTrip(r)
}

type exceptedKey struct{}

// WithException marks what is passed on with the context as an excepted pod's.
func WithException(ctx context.Context) context.Context {
	return context.WithValue(ctx, exceptedKey{}, true)
}

// Excepted says whether the context is marked by WithException.
func Excepted(ctx context.Context) bool { return ctx.Value(exceptedKey{}) != nil }

// take waits for a place and for the time to use it.
func (b *Budget) take(ctx context.Context) (free func(), err error) {
	select {
	case b.slots <- struct{}{}:
	case <-ctx.Done():
		return nil, fmt.Errorf("waiting for other requests to IMDS: %w", ctx.Err())
	}
	free = func() { <-b.slots }
	if err := b.turn(ctx); err != nil {
		free()
		return nil, fmt.Errorf("waiting for IMDS's limit: %w", err)
	}
	return free, nil
}

func (b *Budget) turn(ctx context.Context) error {
	if err := b.rate.Wait(ctx); err != nil {
		return err
	}
	for {
		b.mu.Lock()
		left := time.Until(b.paused)
		b.mu.Unlock()
		if left <= 0 {
			return nil
		}
		timer := time.NewTimer(left)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		}
	}
}

func (b *Budget) pause(d time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if until := time.Now().Add(min(d, maxPause)); until.After(b.paused) {
		b.paused = until
	}
}

// closing calls done when the body is closed.
type closing struct {
	io.ReadCloser
	done func()
}

// Close implements io.Closer.
func (c closing) Close() error {
	defer c.done()
	return c.ReadCloser.Close()
}
