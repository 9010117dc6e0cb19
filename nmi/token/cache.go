package token

import (
	"context"
	"errors"
	"sync"
	"time"

	"go.opentelemetry.io/otel/trace"
	"k8s.io/klog/v2"
)

const (
	// fetchTimeout bounds one flight to the source. It covers the 70 s an update
	// of IMDS can take.
	fetchTimeout = 80 * time.Second
	// longLifetime is from when on a token without a hint is renewed at half its
	// remaining life; shorter ones are renewed renewAhead before their end.
	longLifetime = 2 * time.Hour
	renewAhead   = 5 * time.Minute
	// nearExpiry is how close to its end a token is no longer handed out without
	// having tried for a new one: the pod has to have time to use it.
	nearExpiry = time.Minute
	// nearExpiryPatience is how long that new one is waited for at most while there
	// still is the old one.
	nearExpiryPatience = 3 * time.Second
	// renewPause is the least time between two attempts to renew one token. IMDS
	// gives the same token again for most of its life.
	renewPause = 30 * time.Second
	// refusalLife is how long a refusal is kept. It spares IMDS pods that ask again
	// and again, and is short since what was wrong may be put right: IMDS learns of
	// an assignment seconds after ARM.
	refusalLife = 5 * time.Second
	// A failure is kept for failureLife, or as long as the endpoint asked to be left
	// alone, up to maxFailureLife.
	failureLife    = time.Second
	maxFailureLife = 30 * time.Second
	// perIdentity bounds what is kept of one identity.
	perIdentity = 128
	// maxFailures bounds the failures that are kept.
	maxFailures = 512
)

// Results of a request to a Cache, for metrics.
const (
	ResultHit     = "hit"     // a token from the cache
	ResultStale   = "stale"   // one that could not be renewed in time
	ResultMiss    = "miss"    // the source was asked, or a flight to it joined
	ResultFailure = "failure" // an error from the cache
)

// Cache keeps tokens of the source below it.
//
// Concurrent requests for one token share one flight, which goes on as long as
// anyone waits for it. A token is renewed ahead of its end by one flight in the
// background while it goes on being served; when that fails it is served until it
// expires. A refusal drops it at once. Refusals and failures are kept for seconds.
// The least recently used tokens are dropped beyond the size.
type Cache struct {
	ctx      context.Context // of flights; ends with the process, not with a request
	next     Source
	tokens   *store[*entry]
	failures *store[failure]
	observe  func(result string)

	mu      sync.Mutex
	flights map[Key]*flight
	running sync.WaitGroup
}

// entry is a cached token. It is replaced, never changed.
type entry struct {
	token   Token
	renewAt time.Time
	soft    time.Time // nearExpiry before the end
}

// failure is a cached error.
type failure struct {
	err   *Error
	until time.Time
}

// flight is a request to the source under way.
type flight struct {
	done    chan struct{}
	cancel  context.CancelFunc
	waiters int  // guarded by Cache.mu
	renewal bool // goes on without waiters; guarded by Cache.mu
	ahead   bool // nobody had asked when it began
	token   Token
	err     error
}

// NewCache makes a cache of at most size tokens. Flights end with ctx. Observe, if
// not nil, is told the result of each request.
func NewCache(ctx context.Context, next Source, size int, observe func(result string)) *Cache {
	if observe == nil {
		observe = func(string) {}
	}
	return &Cache{
		ctx: ctx, next: next, observe: observe, flights: map[Key]*flight{},
		tokens: newStore[*entry](size, perIdentity), failures: newStore[failure](maxFailures, perIdentity),
	}
}

// Wait returns when no flight is under way. It is called after the context of
// NewCache has ended.
func (c *Cache) Wait() { c.running.Wait() }

// Token implements Source.
func (c *Cache) Token(ctx context.Context, req Request) (Token, error) {
	t, result, err := c.get(ctx, req)
	c.observe(result)
	if err == nil || ctx.Err() == nil { // who has left learns of nothing
		note(ctx, result, t, err)
	}
	return t, err
}

func (c *Cache) get(ctx context.Context, req Request) (t Token, result string, err error) {
	key := req.Key()
	now := time.Now()
	cached, ok := c.tokens.get(key)
	switch {
	case !ok || !now.Before(cached.token.ExpiresOn):
		return c.fetch(ctx, key, req)
	case !now.Before(cached.soft):
		return c.nearItsEnd(ctx, key, req, cached)
	case !now.Before(cached.renewAt):
		c.renew(c.ctx, key, req) //nolint:contextcheck // not for this request, nor part of its trace
	}
	return cached.token, ResultHit, nil
}

// nearItsEnd gives a new token in place of one that is about to expire, or that
// one: short-lived is better than none during an outage.
func (c *Cache) nearItsEnd(ctx context.Context, key Key, req Request, cached *entry) (t Token, result string, err error) {
	c.renew(ctx, key, req)
	patience, cancel := context.WithTimeout(ctx, nearExpiryPatience)
	defer cancel()
	t, result, err = c.fetch(patience, key, req)
	expired := !time.Now().Before(cached.token.ExpiresOn)
	var e *Error
	switch {
	case err == nil:
		return t, result, nil
	case ctx.Err() != nil:
		return Token{}, result, ctx.Err()
	case expired && patience.Err() != nil:
		return c.fetch(ctx, key, req) // nothing is left to be served instead
	case expired, errors.As(err, &e) && e.Refused:
		return Token{}, result, err
	}
	return cached.token, ResultStale, nil
}

// renew starts a flight in the background unless one is under way, or has just
// failed. It is part of the trace of ctx.
func (c *Cache) renew(ctx context.Context, key Key, req Request) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if f, ok := c.flights[key]; ok {
		f.renewal = true
		return
	}
	if c.failed(key) == nil {
		c.start(ctx, key, req).renewal = true
	}
}

// failed returns the error that a request got lately, with what is left of the time
// that the endpoint asked to wait.
func (c *Cache) failed(key Key) *Error {
	f, ok := c.failures.get(key)
	if !ok {
		return nil
	}
	left := time.Until(f.until)
	if left <= 0 {
		c.failures.remove(key)
		return nil
	}
	again := *f.err
	if again.RetryAfter > 0 {
		again.RetryAfter = left + max(0, again.RetryAfter-maxFailureLife)
	}
	return &again
}

// fetch joins the flight for the token, or starts it, and waits for its end.
func (c *Cache) fetch(ctx context.Context, key Key, req Request) (t Token, result string, err error) {
	c.mu.Lock()
	f, ok := c.flights[key]
	if !ok {
		// Another flight may have landed since the caller looked.
		if e, ok := c.tokens.get(key); ok && time.Now().Before(e.soft) {
			c.mu.Unlock()
			return e.token, ResultHit, nil
		}
		if err := c.failed(key); err != nil {
			c.mu.Unlock()
			return Token{}, ResultFailure, err
		}
		f = c.start(ctx, key, req)
	}
	f.waiters++
	c.mu.Unlock()
	select {
	case <-f.done:
		return f.token, ResultMiss, f.err
	case <-ctx.Done():
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if f.waiters--; f.waiters == 0 && !f.renewal {
		// Nobody is interested any more: free IMDS, and let the next one start afresh.
		f.cancel()
		if c.flights[key] == f {
			delete(c.flights, key)
		}
	}
	return Token{}, ResultMiss, ctx.Err()
}

// start begins a flight. The caller holds the lock. A flight outlives the request that
// starts it; it is part of that one's trace if that one waits for it.
func (c *Cache) start(request context.Context, key Key, req Request) *flight { //nolint:contextcheck // see above
	ctx, cancel := context.WithTimeout(trace.ContextWithSpanContext(c.ctx, trace.SpanContextFromContext(request)), fetchTimeout)
	f := &flight{done: make(chan struct{}), cancel: cancel, ahead: req.Ahead}
	c.flights[key] = f
	c.running.Go(func() {
		defer cancel()
		f.token, f.err = c.next.Token(ctx, req)
		c.land(key, f)
		close(f.done)
	})
	return f
}

// land records the outcome of a flight.
func (c *Cache) land(key Key, f *flight) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.flights[key] != f {
		return // given up
	}
	delete(c.flights, key)
	now := time.Now()
	if f.err == nil {
		f.token = f.token.prepare()
		c.tokens.put(key, newEntry(f.token, now))
		c.failures.remove(key)
		return
	}
	var e *Error
	if errors.As(f.err, &e) && !f.ahead {
		c.failures.put(key, newFailure(e, now))
	}
	if e != nil && e.Refused {
		c.tokens.remove(key)
		return
	}
	if old, ok := c.tokens.get(key); ok {
		later := *old
		later.renewAt = now.Add(renewPause)
		if e != nil && e.RetryAfter > renewPause {
			later.renewAt = now.Add(e.RetryAfter)
		}
		c.tokens.put(key, &later)
		if f.renewal {
			klog.FromContext(c.ctx).Error(f.err, "Cannot renew a token; serving the present one until it expires")
		}
	}
}

// newEntry decides when a token is renewed and when it is no longer given out
// unasked.
func newEntry(t Token, now time.Time) *entry {
	left := t.ExpiresOn.Sub(now)
	e := &entry{token: t, soft: t.ExpiresOn.Add(-min(nearExpiry, left/10))}
	switch {
	case t.RefreshIn > 0 && t.RefreshIn < left:
		e.renewAt = now.Add(t.RefreshIn)
	case left > longLifetime:
		e.renewAt = now.Add(left / 2)
	default:
		e.renewAt = t.ExpiresOn.Add(-min(renewAhead, left/2))
	}
	if earliest := now.Add(renewPause); e.renewAt.Before(earliest) && earliest.Before(e.soft) {
		e.renewAt = earliest
	}
	return e
}

// newFailure decides how long an error is kept.
func newFailure(e *Error, now time.Time) failure {
	life := refusalLife
	if !e.Refused {
		life = min(max(failureLife, e.RetryAfter), maxFailureLife)
	}
	return failure{e, now.Add(life)}
}

// ended is the error of a context that has ended while something was waited for. A
// deadline is the source's failure; that the caller has left is not.
func ended(ctx context.Context, doing string) error {
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return &Error{Code: codeUnavailable, Description: doing + " took too long", err: ctx.Err()}
	}
	return ctx.Err()
}
