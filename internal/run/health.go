package run

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"
)

// checkTimeout bounds one round of checks, below the kubelet's usual patience.
const checkTimeout = 900 * time.Millisecond

// Check says what is wrong with a part of the component, or nil.
type Check func(ctx context.Context) error

type namedCheck struct {
	name  string
	check Check
}

// Health collects the checks of a component's parts. Live checks say whether a
// restart would help; ready checks say whether the component can do its job.
type Health struct {
	mu          sync.RWMutex
	live, ready []namedCheck
}

// NewHealth makes a Health without checks, which is live and ready.
func NewHealth() *Health { return &Health{} }

// AddLive adds a liveness check.
func (h *Health) AddLive(name string, c Check) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.live = append(h.live, namedCheck{name, c})
}

// AddReady adds a readiness check.
func (h *Health) AddReady(name string, c Check) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.ready = append(h.ready, namedCheck{name, c})
}

// Handler serves the probes:
//
//	/healthz  200 "Active" or "Not Active", as the 1.8 releases said, while the
//	          live checks pass, else 500 with the reasons
//	/livez    200 "ok" while the live checks pass, else 500 with the reasons
//	/readyz   200 "ok" while the live and ready checks pass, else 503 with the reasons
//
// Active tells whether this replica is the one at work, such as MIC's leader.
func (h *Health) Handler(active func() bool) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/healthz", func(w http.ResponseWriter, r *http.Request) {
		text := "Not Active"
		if active() {
			text = "Active"
		}
		answer(w, h.failures(r.Context(), false), http.StatusInternalServerError, text)
	})
	mux.HandleFunc("/livez", func(w http.ResponseWriter, r *http.Request) {
		answer(w, h.failures(r.Context(), false), http.StatusInternalServerError, "ok")
	})
	mux.HandleFunc("/readyz", func(w http.ResponseWriter, r *http.Request) {
		answer(w, h.failures(r.Context(), true), http.StatusServiceUnavailable, "ok")
	})
	return mux
}

// Ready returns what keeps the component from doing its job, or nil.
func (h *Health) Ready(ctx context.Context) error {
	if f := h.failures(ctx, true); len(f) > 0 {
		return fmt.Errorf("%s", strings.Join(f, "; "))
	}
	return nil
}

func (h *Health) failures(ctx context.Context, ready bool) []string {
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	h.mu.RLock()
	checks := append([]namedCheck(nil), h.live...)
	if ready {
		checks = append(checks, h.ready...)
	}
	h.mu.RUnlock()
	var failed []string
	for _, c := range checks {
		if err := c.check(ctx); err != nil {
			failed = append(failed, c.name+": "+err.Error())
		}
	}
	return failed
}

func answer(w http.ResponseWriter, failed []string, status int, ok string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	if len(failed) > 0 {
		w.WriteHeader(status)
		ok = strings.Join(failed, "\n") + "\n"
	}
	// The prober may have gone; there is nobody to tell.
	_, _ = w.Write([]byte(ok))
}
