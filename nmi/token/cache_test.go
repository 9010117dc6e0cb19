package token

import (
	"context"
	"errors"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// fakeSource gives numbered tokens and can hang or fail.
type fakeSource struct {
	mu       sync.Mutex
	calls    int
	err      error
	hang     chan struct{} // when set, requests wait for it or their context
	lifetime time.Duration
	refresh  time.Duration
	given    int // requests that were cancelled
}

func (f *fakeSource) Token(ctx context.Context, req Request) (Token, error) {
	f.mu.Lock()
	f.calls++
	n, err, hang, life, refresh := f.calls, f.err, f.hang, f.lifetime, f.refresh
	f.mu.Unlock()
	if hang != nil {
		select {
		case <-hang:
		case <-ctx.Done():
			f.mu.Lock()
			f.given++
			f.mu.Unlock()
			return Token{}, ctx.Err()
		}
	}
	if err != nil {
		return Token{}, err
	}
	return Token{AccessToken: strconv.Itoa(n), Resource: req.Resource, ExpiresOn: time.Now().Add(life), RefreshIn: refresh}, nil
}

func (f *fakeSource) set(change func(*fakeSource)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change(f)
}

func (f *fakeSource) count() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.calls
}

var (
	request     = Request{ClientID: "a", Resource: "https://r"}
	errOutage   = &Error{Code: "unavailable", Description: "no route to host"}
	errRefusal  = &Error{Refused: true, Status: 400, Code: "invalid_request", Description: "Identity not found"}
	dayLong     = 24 * time.Hour
	shortLived  = 10 * time.Minute
	afterFlight = time.Millisecond
)

// inBubble runs a test of a cache in fake time and ends the cache after it.
func inBubble(t *testing.T, source *fakeSource, size int, test func(t *testing.T, c *Cache)) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		c := NewCache(ctx, source, size)
		test(t, c)
		cancel()
		c.Wait()
	})
}

func expect(t *testing.T, c *Cache, when, want string) {
	t.Helper()
	tok, err := c.Token(t.Context(), request)
	if err != nil || tok.AccessToken != want {
		t.Errorf("%s: token %q, error %v, want token %q", when, tok.AccessToken, err, want)
	}
}

func TestCacheRenewsAheadInTheBackground(t *testing.T) {
	tests := map[string]struct {
		lifetime, hint time.Duration
		renewedAfter   time.Duration
	}{
		"a day-long token at half its life":      {lifetime: dayLong, renewedAfter: 12 * time.Hour},
		"IMDS's hint is taken":                   {lifetime: dayLong, hint: time.Hour, renewedAfter: time.Hour},
		"a hint beyond the end is not":           {lifetime: dayLong, hint: 25 * time.Hour, renewedAfter: 12 * time.Hour},
		"an hour's token five minutes ahead":     {lifetime: time.Hour, renewedAfter: 55 * time.Minute},
		"a short token at half its life":         {lifetime: 8 * time.Minute, renewedAfter: 4 * time.Minute},
		"never within half a minute of the last": {lifetime: 40 * time.Second, renewedAfter: 30 * time.Second},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			s := &fakeSource{lifetime: tc.lifetime, refresh: tc.hint}
			inBubble(t, s, 10, func(t *testing.T, c *Cache) {
				expect(t, c, "first", "1")
				<-time.After(tc.renewedAfter - time.Second)
				expect(t, c, "before", "1")
				synctest.Wait()
				if n := s.count(); n != 1 {
					t.Fatalf("renewed too early: %d calls", n)
				}
				<-time.After(time.Second)
				expect(t, c, "the request that starts the renewal does not wait for it", "1")
				synctest.Wait()
				expect(t, c, "afterwards", "2")
			})
		})
	}
}

func TestCacheSharesOneFlight(t *testing.T) {
	s := &fakeSource{lifetime: dayLong}
	inBubble(t, s, 10, func(t *testing.T, c *Cache) {
		s.hang = make(chan struct{})
		var wg sync.WaitGroup
		for range 10000 {
			wg.Go(func() {
				if tok, err := c.Token(t.Context(), request); err != nil || tok.AccessToken != "1" {
					t.Errorf("token %q, error %v", tok.AccessToken, err)
				}
			})
		}
		synctest.Wait()
		close(s.hang)
		wg.Wait()
		if n := s.count(); n != 1 {
			t.Errorf("%d calls, want 1", n)
		}
	})
}

func TestCacheFlightSurvivesItsFirstCaller(t *testing.T) {
	s := &fakeSource{lifetime: dayLong}
	inBubble(t, s, 10, func(t *testing.T, c *Cache) {
		s.hang = make(chan struct{})
		first, leave := context.WithCancel(t.Context())
		left := make(chan error, 1)
		go func() { _, err := c.Token(first, request); left <- err }()
		synctest.Wait()
		second := make(chan Token, 1)
		go func() { tok, _ := c.Token(t.Context(), request); second <- tok }()
		synctest.Wait()
		leave()
		if err := <-left; !errors.Is(err, context.Canceled) {
			t.Errorf("the caller that left got %v", err)
		}
		close(s.hang)
		if tok := <-second; tok.AccessToken != "1" {
			t.Errorf("the other one got %q", tok.AccessToken)
		}
	})
}

func TestCacheFlightEndsWithItsLastCaller(t *testing.T) {
	s := &fakeSource{lifetime: dayLong}
	inBubble(t, s, 10, func(t *testing.T, c *Cache) {
		s.hang = make(chan struct{})
		ctx, leave := context.WithCancel(t.Context())
		left := make(chan error, 1)
		go func() { _, err := c.Token(ctx, request); left <- err }()
		synctest.Wait()
		leave()
		if err := <-left; !errors.Is(err, context.Canceled) {
			t.Errorf("the caller that left got %v", err)
		}
		synctest.Wait()
		s.set(func(s *fakeSource) {
			if s.given != 1 {
				t.Error("the request to IMDS goes on")
			}
			s.hang = nil
		})
		expect(t, c, "the next caller starts afresh", "2")
	})
}

func TestCacheOutlivesAnOutage(t *testing.T) {
	s := &fakeSource{lifetime: shortLived}
	inBubble(t, s, 10, func(t *testing.T, c *Cache) {
		expect(t, c, "first", "1")
		s.set(func(s *fakeSource) { s.err = errOutage })
		for range 19 {
			<-time.After(30 * time.Second)
			expect(t, c, "during the outage", "1")
			synctest.Wait()
		}
		if n := s.count(); n < 5 || n > 15 {
			t.Errorf("%d attempts to renew in 5 minutes", n)
		}
		<-time.After(29 * time.Second)
		expect(t, c, "a second before its end", "1")
		<-time.After(time.Second)
		if tok, err := c.Token(t.Context(), request); !errors.Is(err, errOutage) {
			t.Errorf("after its end: token %q, error %v", tok.AccessToken, err)
		}
		s.set(func(s *fakeSource) { s.err = nil })
		<-time.After(afterFlight)
		if tok, err := c.Token(t.Context(), request); err != nil || tok.AccessToken == "1" {
			t.Errorf("after the outage: token %q, error %v", tok.AccessToken, err)
		}
	})
}

func TestCacheTriesForANewTokenNearExpiry(t *testing.T) {
	s := &fakeSource{lifetime: shortLived}
	inBubble(t, s, 10, func(t *testing.T, c *Cache) {
		expect(t, c, "first", "1")
		<-time.After(shortLived - 30*time.Second)
		expect(t, c, "a token about to end is not handed out while a new one can be had", "2")
	})
}

func TestCacheDropsARefusedToken(t *testing.T) {
	s := &fakeSource{lifetime: shortLived}
	inBubble(t, s, 10, func(t *testing.T, c *Cache) {
		expect(t, c, "first", "1")
		s.set(func(s *fakeSource) { s.err = errRefusal })
		<-time.After(6 * time.Minute)
		expect(t, c, "the request that starts the renewal", "1")
		synctest.Wait()
		for range 2 {
			if tok, err := c.Token(t.Context(), request); !errors.Is(err, errRefusal) {
				t.Errorf("after the refusal: token %q, error %v", tok.AccessToken, err)
			}
		}
		if n := s.count(); n != 4 {
			t.Errorf("%d calls: failures are not to be kept", n)
		}
	})
}

func TestCacheIsBounded(t *testing.T) {
	s := &fakeSource{lifetime: dayLong}
	inBubble(t, s, 3, func(t *testing.T, c *Cache) {
		for i := range 100 {
			if _, err := c.Token(t.Context(), Request{ClientID: "a", Resource: strconv.Itoa(i)}); err != nil {
				t.Fatal(err)
			}
		}
		if n := c.tokens.Len(); n != 3 {
			t.Errorf("%d tokens kept", n)
		}
		if len(c.flights) != 0 {
			t.Errorf("%d flights left", len(c.flights))
		}
	})
}

func TestCacheGivesUpOnAHangingSource(t *testing.T) {
	s := &fakeSource{}
	inBubble(t, s, 10, func(t *testing.T, c *Cache) {
		s.hang = make(chan struct{}) // never closed
		start := time.Now()
		_, err := c.Token(t.Context(), request)
		if err == nil || time.Since(start) != fetchTimeout {
			t.Errorf("error %v after %v", err, time.Since(start))
		}
	})
}
