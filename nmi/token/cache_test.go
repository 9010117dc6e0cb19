package token

import (
	"context"
	"errors"
	"maps"
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
	request    = Request{ClientID: "a", Resource: "https://r"}
	errOutage  = &Error{Code: "unavailable", Description: "no route to host"}
	errRefusal = &Error{Refused: true, Status: 400, Code: "invalid_request", Description: "Identity not found"}
	dayLong    = 24 * time.Hour
	shortLived = 10 * time.Minute
)

// inBubble runs a test of a cache in fake time and ends the cache after it.
func inBubble(t *testing.T, source *fakeSource, size int, test func(t *testing.T, c *Cache)) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		c := NewCache(ctx, source, size, nil)
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
		<-time.After(failureLife)
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
			if tok, err := c.Token(t.Context(), request); !refusedBy(err) {
				t.Errorf("after the refusal: token %q, error %v", tok.AccessToken, err)
			}
		}
		if n := s.count(); n != 2 {
			t.Errorf("%d calls", n)
		}
	})
}

func refusedBy(err error) bool {
	var e *Error
	return errors.As(err, &e) && e.Refused
}

func TestCacheKeepsFailuresForAMoment(t *testing.T) {
	wait := &Error{Code: "too_many_requests", RetryAfter: 10 * time.Second}
	long := &Error{Code: "too_many_requests", RetryAfter: time.Hour}
	tests := map[string]struct {
		err   error
		kept  time.Duration
		retry time.Duration // what the error says
	}{
		"a refusal":                     {err: errRefusal, kept: refusalLife},
		"an outage":                     {err: errOutage, kept: failureLife},
		"as long as IMDS asked for":     {err: wait, kept: 10 * time.Second, retry: 10 * time.Second},
		"but not for an hour":           {err: long, kept: maxFailureLife, retry: time.Hour},
		"the caller's own end is not":   {err: context.Canceled},
		"an error of another kind, too": {err: errors.New("a mistake")},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			s := &fakeSource{lifetime: dayLong, err: tc.err}
			inBubble(t, s, 10, func(t *testing.T, c *Cache) {
				retry := func(want time.Duration) {
					t.Helper()
					_, err := c.Token(t.Context(), request)
					var e *Error
					if err == nil || errors.As(err, &e) && e.RetryAfter != want {
						t.Errorf("error %v, want one with retry after %v", err, want)
					}
				}
				retry(tc.retry)
				if tc.kept == 0 {
					retry(0)
					if n := s.count(); n != 2 {
						t.Errorf("%d calls", n)
					}
					return
				}
				half := tc.kept / 2
				<-time.After(half)
				retry(max(0, tc.retry-half))
				<-time.After(tc.kept - half - time.Nanosecond)
				retry(max(0, tc.retry-tc.kept+time.Nanosecond))
				if n := s.count(); n != 1 {
					t.Errorf("%d calls", n)
				}
				s.set(func(s *fakeSource) { s.err = nil })
				<-time.After(time.Nanosecond)
				expect(t, c, "when it may be asked again", "2")
			})
		})
	}
}

func TestCacheDoesNotWaitForAHangingRenewalNearTheEnd(t *testing.T) {
	s := &fakeSource{lifetime: shortLived}
	inBubble(t, s, 10, func(t *testing.T, c *Cache) {
		expect(t, c, "first", "1")
		s.set(func(s *fakeSource) { s.hang = make(chan struct{}) })
		<-time.After(shortLived - 30*time.Second)
		start := time.Now()
		expect(t, c, "while IMDS hangs", "1")
		if waited := time.Since(start); waited != nearExpiryPatience {
			t.Errorf("waited %v", waited)
		}
		s.set(func(s *fakeSource) { close(s.hang); s.hang = nil })
		synctest.Wait()
		expect(t, c, "the request to IMDS went on, and brought a token", "2")
	})
}

// TestCacheWaitsOnWhenTheTokenExpiresMeanwhile: the old token is no way out then, and
// that its time was up is not the answer.
func TestCacheWaitsOnWhenTheTokenExpiresMeanwhile(t *testing.T) {
	for name, tc := range map[string]struct {
		err  error
		want string
	}{"IMDS comes back": {want: "2"}, "and fails": {err: errOutage}, "and refuses": {err: errRefusal}} {
		t.Run(name, func(t *testing.T) {
			s := &fakeSource{lifetime: shortLived}
			inBubble(t, s, 10, func(t *testing.T, c *Cache) {
				expect(t, c, "first", "1")
				hang := make(chan struct{})
				s.set(func(s *fakeSource) { s.hang, s.err = hang, tc.err })
				<-time.After(shortLived - nearExpiryPatience + time.Second)
				time.AfterFunc(2*nearExpiryPatience, func() { close(hang) })
				if tok, err := c.Token(t.Context(), request); !errors.Is(err, tc.err) || tok.AccessToken != tc.want {
					t.Errorf("token %q, error %v", tok.AccessToken, err)
				}
				if n := s.count(); n != 2 {
					t.Errorf("%d calls", n)
				}
			})
		})
	}
}

func TestCacheDropsTokensOfAnEarlierCredential(t *testing.T) {
	s := &fakeSource{lifetime: dayLong}
	inBubble(t, s, 10, func(t *testing.T, c *Cache) {
		ask := func(version, want string) {
			t.Helper()
			tok, err := c.Token(t.Context(), Request{ClientID: "a", Resource: "r", Principal: Principal{Credential: CredentialSecret}, version: version})
			if err != nil || tok.AccessToken != want {
				t.Errorf("version %s: token %q, %v, want %q", version, tok.AccessToken, err, want)
			}
		}
		ask("1", "1")
		ask("1", "1")
		ask("2", "2")
		if n := c.tokens.len(); n != 1 {
			t.Errorf("%d tokens kept", n)
		}
		ask("1", "3")
	})
}

func TestCacheTellsItsResults(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &fakeSource{lifetime: shortLived}
		ctx, cancel := context.WithCancel(t.Context())
		results := map[string]int{}
		c := NewCache(ctx, s, 10, func(r string) { results[r]++ })
		expect(t, c, "miss", "1")
		expect(t, c, "hit", "1")
		s.set(func(s *fakeSource) { s.err = errOutage })
		<-time.After(shortLived - 30*time.Second)
		expect(t, c, "stale", "1")
		_, _ = c.Token(ctx, Request{ClientID: "b"})
		_, _ = c.Token(ctx, Request{ClientID: "b"})
		<-time.After(shortLived) // the token has expired
		_, _ = c.Token(ctx, request)
		_, _ = c.Token(ctx, request)
		want := map[string]int{ResultHit: 1, ResultStale: 1, ResultFailure: 2, ResultMiss: 3} // one for each request
		if !maps.Equal(results, want) {
			t.Errorf("results %v, want %v", results, want)
		}
		cancel()
		c.Wait()
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
		if n := c.tokens.len(); n != 3 {
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
