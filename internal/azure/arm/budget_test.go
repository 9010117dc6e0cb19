package arm

import (
	"context"
	"errors"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/runtime"
	"golang.org/x/time/rate"
)

// transport answers without a network.
type transport func(*http.Request) (*http.Response, error)

func (t transport) Do(r *http.Request) (*http.Response, error) { return t(r) }

func send(t *testing.T, budget *Budget, method, path string, answer transport) error {
	t.Helper()
	pipeline := runtime.NewPipeline("test", "v0", runtime.PipelineOptions{PerRetry: []policy.Policy{budget}}, &policy.ClientOptions{
		Transport: answer, Retry: policy.RetryOptions{MaxRetries: -1},
	})
	request, err := runtime.NewRequest(t.Context(), method, "https://arm.example"+path)
	if err != nil {
		t.Fatal(err)
	}
	answered, err := pipeline.Do(request)
	if err != nil {
		return err
	}
	return answered.Body.Close()
}

func ok(r *http.Request) (*http.Response, error) {
	a := response(200, "{}")
	a.Request = r
	return a, nil
}

func TestAPauseHoldsForItsKindAndSubscriptionOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := NewBudget()
		slow := func(*http.Request) (*http.Response, error) { return response(429, "{}", "Retry-After", "30"), nil }
		if err := send(t, b, http.MethodPatch, "/subscriptions/One/x", slow); err != nil {
			t.Fatal(err)
		}
		calls := 0
		count := func(r *http.Request) (*http.Response, error) { calls++; return ok(r) }
		err := send(t, b, http.MethodPatch, "/subscriptions/one/other", count)
		var e *Error
		if after, throttled := IsThrottled(err); !throttled || after != 30*time.Second || !errors.As(err, &e) || calls != 0 {
			t.Errorf("a write of the subscription: %v, %d calls", err, calls)
		}
		for _, other := range []struct{ method, path string }{
			{http.MethodGet, "/subscriptions/one/other"}, {http.MethodPatch, "/subscriptions/two/x"}, {http.MethodGet, "/tenants"},
		} {
			if err := send(t, b, other.method, other.path, count); err != nil {
				t.Errorf("%s %s: %v", other.method, other.path, err)
			}
		}
		<-time.After(30 * time.Second)
		if err := send(t, b, http.MethodPatch, "/subscriptions/one/other", count); err != nil || calls != 4 {
			t.Errorf("after the pause: %v, %d calls", err, calls)
		}
	})
}

func TestWritesStayWithinTheBudget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := NewBudget()
		start := time.Now()
		for range writeBucket + 50 {
			if err := send(t, b, http.MethodPatch, "/subscriptions/one/x", ok); err != nil {
				t.Fatal(err)
			}
		}
		// The bucket is empty after 200, and refills by 10 a second.
		if took := time.Since(start); took < 4900*time.Millisecond || took > 5100*time.Millisecond {
			t.Errorf("250 writes took %s, want 5 s", took)
		}
	})
}

func TestAfterAPauseTheBucketFillsGradually(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := NewBudget()
		slow := func(*http.Request) (*http.Response, error) { return response(429, "{}", "Retry-After", "30"), nil }
		if err := send(t, b, http.MethodPatch, "/subscriptions/one/x", slow); err != nil {
			t.Fatal(err)
		}
		<-time.After(30 * time.Second)
		// A hundred targets come back in the instant the pause ends.
		start := time.Now()
		var sent []time.Duration
		var mu sync.Mutex
		var g sync.WaitGroup
		for range 100 {
			g.Go(func() {
				if err := send(t, b, http.MethodPatch, "/subscriptions/one/x", func(r *http.Request) (*http.Response, error) {
					mu.Lock()
					defer mu.Unlock()
					sent = append(sent, time.Since(start))
					return ok(r)
				}); err != nil {
					t.Error(err)
				}
			})
		}
		g.Wait()
		for second := range 10 {
			n := 0
			for _, at := range sent {
				if at.Truncate(time.Second) == time.Duration(second)*time.Second {
					n++
				}
			}
			if n > writeRefill+1 {
				t.Errorf("%d writes in second %d after the pause", n, second+1)
			}
		}
	})
}

func TestWhoStandsInLineWhenAPauseBeginsIsTurnedAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := NewBudget()
		for range writeBucket {
			if err := send(t, b, http.MethodPatch, "/subscriptions/one/x", ok); err != nil {
				t.Fatal(err)
			}
		}
		calls, refused := 0, 0
		var mu sync.Mutex
		var g sync.WaitGroup
		for range 50 {
			g.Go(func() {
				err := send(t, b, http.MethodPatch, "/subscriptions/one/x", func(*http.Request) (*http.Response, error) {
					mu.Lock()
					defer mu.Unlock()
					calls++
					return response(429, "{}", "Retry-After", "60"), nil
				})
				if _, throttled := IsThrottled(err); throttled {
					mu.Lock()
					defer mu.Unlock()
					refused++
				}
			})
		}
		g.Wait()
		if calls != 1 || refused != 49 {
			t.Errorf("%d calls sent, %d turned away, want 1 and 49", calls, refused)
		}
	})
}

func TestCallsOfOthersCount(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := NewBudget()
		told := func(r *http.Request) (*http.Response, error) {
			a := response(200, "{}", "x-ms-ratelimit-remaining-subscription-writes", "0", "x-ms-ratelimit-remaining-subscription-reads", "0")
			a.Request = r
			return a, nil
		}
		if err := send(t, b, http.MethodPatch, "/subscriptions/one/x", told); err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		for range 20 {
			if err := send(t, b, http.MethodPatch, "/subscriptions/one/x", ok); err != nil {
				t.Fatal(err)
			}
		}
		if took := time.Since(start); took < 1800*time.Millisecond {
			t.Errorf("20 writes took %s although ARM said that none were left", took)
		}
	})
}

func TestALineThatIsTooLongIsThrottling(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := NewBudget()
		for range writeBucket {
			if err := send(t, b, http.MethodPatch, "/subscriptions/one/x", ok); err != nil {
				t.Fatal(err)
			}
		}
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		if after, throttled := IsThrottled(b.take(ctx, bucketKey{"one", true})); !throttled || after <= 0 || after > time.Second {
			t.Errorf("throttled %v, after %s", throttled, after)
		}
	})
}

func TestWhichAnswersPauseEverybody(t *testing.T) {
	for name, test := range map[string]struct {
		status     int
		retryAfter string
		want       time.Duration
	}{
		"throttled":                              {429, "7", 7 * time.Second},
		"throttled without a time":               {429, "", defaultRetryAfter},
		"server error with a time":               {503, "7", 7 * time.Second},
		"server error without one":               {500, "", 0},
		"an operation that asks to be polled so": {200, "7", 0},
		"a conflict":                             {409, "7", 0},
	} {
		t.Run(name, func(t *testing.T) {
			r := response(test.status, "", "Retry-After", test.retryAfter)
			defer r.Body.Close()
			if got := pause(r); got != test.want {
				t.Errorf("%s, want %s", got, test.want)
			}
		})
	}
}

// A hundred targets want five writes each, while others use half of what ARM
// allows the principal, so that the budget here is twice the real one.
func TestAClusterUnder429Progresses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := NewBudget()
		allowed := rate.NewLimiter(writeRefill/2, writeBucket/2)
		var sent, refused atomic.Int64
		server := func(r *http.Request) (*http.Response, error) {
			sent.Add(1)
			<-time.After(time.Second)
			a := response(200, "{}")
			if !allowed.Allow() {
				refused.Add(1)
				a = response(429, "{}", "Retry-After", "10")
			}
			a.Request = r
			return a, nil
		}
		start := time.Now()
		var g sync.WaitGroup
		for range 100 {
			g.Go(func() {
				for done := 0; done < 5; {
					err := send(t, b, http.MethodPatch, "/subscriptions/one/x", server)
					if after, throttled := IsThrottled(err); throttled {
						<-time.After(after)
						continue
					}
					if err != nil {
						t.Error(err)
						return
					}
					done++
				}
			})
		}
		g.Wait()
		took := time.Since(start)
		if limit := writeBucket + int64(took.Seconds()+1)*writeRefill; sent.Load() > limit {
			t.Errorf("%d writes in %s, the budget allows %d", sent.Load(), took, limit)
		}
		t.Logf("%d of %d writes refused in %s", refused.Load(), sent.Load(), took)
		if took > 3*time.Minute {
			t.Errorf("500 writes took %s, ARM allows them in %s", took, 400/(writeRefill/2)*time.Second)
		}
	})
}
