package token

import (
	"context"
	"errors"
	"sync"
	"time"

	"k8s.io/klog/v2"
	"k8s.io/utils/lru"
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
	// renewPause is the least time between two attempts to renew one token. IMDS
	// gives the same token again for most of its life.
	renewPause = 30 * time.Second
)

// Cache keeps tokens of the source below it.
//
// Concurrent requests for one token share one flight, which goes on as long as
// anyone waits for it. A token is renewed ahead of its end by one flight in the
// background while it goes on being served; when that fails it is served until it
// expires. A refusal drops it at once. Failures are not kept. The least recently
// used tokens are dropped beyond the size.
type Cache struct {
	ctx    context.Context // of flights; ends with the process, not with a request
	next   Source
	tokens *lru.Cache

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

// flight is a request to the source under way.
type flight struct {
	done    chan struct{}
	cancel  context.CancelFunc
	waiters int  // guarded by Cache.mu
	renewal bool // goes on without waiters
	token   Token
	err     error
}

// NewCache makes a cache of at most size tokens. Flights end with ctx.
func NewCache(ctx context.Context, next Source, size int) *Cache {
	return &Cache{ctx: ctx, next: next, tokens: lru.New(size), flights: map[Key]*flight{}}
}

// Wait returns when no flight is under way. It is called after the context of
// NewCache has ended.
func (c *Cache) Wait() { c.running.Wait() }

// Token implements Source.
func (c *Cache) Token(ctx context.Context, req Request) (Token, error) {
	key := req.Key()
	now := time.Now()
	cached := c.get(key)
	if cached != nil && now.Before(cached.soft) {
		if !now.Before(cached.renewAt) {
			c.renew(key, req) //nolint:contextcheck // a renewal outlives the request that starts it
		}
		return cached.token, nil
	}
	t, err := c.fetch(ctx, key, req)
	var e *Error
	if err != nil && errors.As(err, &e) && !e.Refused && cached != nil && time.Now().Before(cached.token.ExpiresOn) {
		return cached.token, nil // short-lived is better than none during an outage
	}
	return t, err
}

func (c *Cache) get(key Key) *entry {
	v, ok := c.tokens.Get(key)
	if !ok {
		return nil
	}
	e, _ := v.(*entry)
	return e
}

// renew starts a flight in the background unless one is under way.
func (c *Cache) renew(key Key, req Request) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, ok := c.flights[key]; !ok {
		c.start(key, req).renewal = true
	}
}

// fetch joins the flight for the token, or starts it, and waits for its end.
func (c *Cache) fetch(ctx context.Context, key Key, req Request) (Token, error) {
	c.mu.Lock()
	f, ok := c.flights[key]
	if !ok {
		// Another flight may have landed since the caller looked.
		if e := c.get(key); e != nil && time.Now().Before(e.soft) {
			c.mu.Unlock()
			return e.token, nil
		}
		f = c.start(key, req) //nolint:contextcheck // a flight outlives the request that starts it
	}
	f.waiters++
	c.mu.Unlock()
	select {
	case <-f.done:
		return f.token, f.err
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
	return Token{}, ctx.Err()
}

// start begins a flight. The caller holds the lock.
func (c *Cache) start(key Key, req Request) *flight {
	ctx, cancel := context.WithTimeout(c.ctx, fetchTimeout)
	f := &flight{done: make(chan struct{}), cancel: cancel}
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
	var e *Error
	switch {
	case f.err == nil:
		c.tokens.Add(key, newEntry(f.token, now))
	case errors.As(f.err, &e) && e.Refused:
		c.tokens.Remove(key)
	default:
		if old := c.get(key); old != nil {
			later := *old
			later.renewAt = now.Add(renewPause)
			if e != nil && e.RetryAfter > renewPause {
				later.renewAt = now.Add(e.RetryAfter)
			}
			c.tokens.Add(key, &later)
		}
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
