package token

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// imdsDouble counts what reaches IMDS, by time, and answers after a while.
type imdsDouble struct {
	takes time.Duration

	mu        sync.Mutex
	arrivals  []time.Time
	busy, max int
	status    int
	header    http.Header
}

func (d *imdsDouble) RoundTrip(r *http.Request) (*http.Response, error) {
	d.mu.Lock()
	d.arrivals = append(d.arrivals, time.Now())
	d.busy++
	d.max = max(d.max, d.busy)
	status, header := d.status, d.header
	d.mu.Unlock()
	defer func() {
		d.mu.Lock()
		d.busy--
		d.mu.Unlock()
	}()
	select {
	case <-time.After(d.takes):
	case <-r.Context().Done():
		return nil, r.Context().Err()
	}
	if status == 0 {
		status = http.StatusOK
	}
	return &http.Response{StatusCode: status, Header: header, Body: io.NopCloser(strings.NewReader("{}"))}, nil
}

// most is the largest number of arrivals within any second.
func (d *imdsDouble) most() int {
	most := 0
	for i, from := range d.arrivals {
		n := 0
		for _, at := range d.arrivals[i:] {
			if at.Sub(from) < time.Second {
				n++
			}
		}
		most = max(most, n)
	}
	return most
}

func send(ctx context.Context, tr http.RoundTripper, path string) error {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://imds"+path, nil)
	if err != nil {
		return err
	}
	resp, err := tr.RoundTrip(r)
	if err != nil {
		return err
	}
	return resp.Body.Close()
}

func TestBudget(t *testing.T) {
	for name, takes := range map[string]time.Duration{"a quick IMDS": 0, "a slow one": 700 * time.Millisecond} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := &imdsDouble{takes: takes}
				tr := NewBudget(15, 3, 4).Transport(d)
				var wg sync.WaitGroup
				for range 100 {
					wg.Go(func() {
						if err := send(t.Context(), tr, tokenPath); err != nil {
							t.Error(err)
						}
					})
				}
				wg.Wait()
				if most := d.most(); most >= 20 || d.max >= 5 || len(d.arrivals) != 100 {
					t.Errorf("%d within a second, %d at a time, %d in all", most, d.max, len(d.arrivals))
				}
			})
		})
	}
}

func TestBudgetIsForIdentityRequests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &imdsDouble{}
		tr := NewBudget(1, 1, 1).Transport(d)
		start := time.Now()
		for range 50 {
			if err := send(t.Context(), tr, "/metadata/instance"); err != nil {
				t.Fatal(err)
			}
		}
		if took := time.Since(start); took != 0 {
			t.Errorf("instance metadata waited %v", took)
		}
	})
}

// TestBudgetPauses: a 429 says for how long not to ask.
func TestBudgetPauses(t *testing.T) {
	tests := map[string]struct {
		header http.Header
		want   time.Duration
	}{
		"as it asks":            {http.Header{"Retry-After": {"4"}}, 4 * time.Second},
		"a while, if it is mum": {nil, time.Second},
		"not for ever":          {http.Header{"Retry-After": {"3600"}}, maxPause},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := &imdsDouble{status: http.StatusTooManyRequests, header: tc.header}
				tr := NewBudget(1000, 1000, 4).Transport(d)
				if err := send(t.Context(), tr, tokenPath); err != nil {
					t.Fatal(err)
				}
				d.mu.Lock()
				d.status = http.StatusOK
				d.mu.Unlock()
				start := time.Now()
				if err := send(t.Context(), tr, tokenPath); err != nil || time.Since(start) != tc.want {
					t.Errorf("after %v, %v", time.Since(start), err)
				}
			})
		})
	}
}

func TestBudgetGivesPlacesBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &imdsDouble{takes: time.Hour}
		b := NewBudget(1000, 1000, 1)
		tr := b.Transport(d)
		start := time.Now()
		if err := send(t.Context(), tr, tokenPath); !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != tryTimeout {
			t.Errorf("a hanging request ended after %v with %v", time.Since(start), err)
		}
		ctx, leave := context.WithCancel(t.Context())
		left := make(chan error, 2)
		go func() { left <- send(ctx, tr, tokenPath) }()
		synctest.Wait()
		go func() { left <- send(ctx, tr, tokenPath) }()
		synctest.Wait()
		leave()
		for range 2 {
			if err := <-left; !errors.Is(err, context.Canceled) {
				t.Errorf("error %v", err)
			}
		}
		if n := len(b.slots); n != 0 {
			t.Errorf("%d places are not given back", n)
		}
	})
}

// TestOtherPodsDoNotHoldUpExceptedPods: MIC is one of these, and any pod may ask about
// the node's identities.
func TestOtherPodsDoNotHoldUpExceptedPods(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &imdsDouble{takes: time.Second}
		tr := Passing(NewBudget(15, 3, 4), NewBudget(5, 2, 1), NewBudget(2, 2, 1), d)
		asking, stop := context.WithCancel(t.Context())
		var others sync.WaitGroup
		for i := range 100 {
			others.Go(func() {
				_ = send(asking, tr, []string{"/metadata/identity/info", "/Identity"}[i%2]) // until it is stopped
			})
		}
		synctest.Wait()
		start := time.Now()
		if err := send(WithException(t.Context()), tr, tokenPath); err != nil || time.Since(start) != d.takes {
			t.Errorf("an excepted pod's request took %v, %v", time.Since(start), err)
		}
		<-time.After(9 * time.Second)
		stop()
		others.Wait()
		if n := len(d.arrivals) - 1; n < 9 || n > 11 || d.max != 2 {
			t.Errorf("%d requests of other pods in ten seconds, %d at a time", n, d.max)
		}
	})
}

// TestPassingKeepsWithinAll: excepted pods and others together ask no more than IMDS allows.
func TestPassingKeepsWithinAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &imdsDouble{takes: time.Second}
		tr := Passing(NewBudget(15, 3, 1), NewBudget(5, 2, 4), NewBudget(5, 2, 4), d)
		var wg sync.WaitGroup
		for _, ctx := range []context.Context{t.Context(), WithException(t.Context())} {
			for range 4 {
				wg.Go(func() {
					if err := send(ctx, tr, tokenPath); err != nil {
						t.Error(err)
					}
				})
			}
		}
		wg.Wait()
		if d.max != 1 || len(d.arrivals) != 8 {
			t.Errorf("%d at a time, %d in all", d.max, len(d.arrivals))
		}
	})
}
