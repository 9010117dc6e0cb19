package main

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/aad-pod-identity/aad-pod-identity/nmi/server"
)

func TestSelfTester(t *testing.T) {
	tests := map[string]struct {
		answer http.HandlerFunc
		want   string
	}{
		"NMI": {answer: func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == server.SelfTestPath {
				_, _ = w.Write([]byte(`{"nmi":"n1"}`))
			}
		}},
		"the real service": {
			answer: func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Server", "IMDS/150")
				http.Error(w, `{"error":"Not found"}`, http.StatusNotFound)
			},
			want: `the answer is not NMI's: status 404, Server "IMDS/150"`,
		},
		"an NMI that does not know the pod": {
			answer: func(w http.ResponseWriter, _ *http.Request) {
				http.Error(w, `{"error":"unknown_pod"}`, http.StatusInternalServerError)
			},
			want: "status 500",
		},
		"something that answers everything": {answer: func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("{}")) }, want: "not NMI's"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			s := httptest.NewServer(tc.answer)
			defer s.Close()
			tester := &selfTester{url: s.URL + server.SelfTestPath, interval: time.Millisecond}
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan error, 1)
			go func() { done <- tester.run(ctx) }()
			eventually(t, "a result", func() string {
				tester.mu.Lock()
				defer tester.mu.Unlock()
				if !tester.said {
					return "none"
				}
				return ""
			})
			err := tester.ready(ctx)
			if (err != nil) != (tc.want != "") || err != nil && !strings.Contains(err.Error(), tc.want) {
				t.Errorf("ready: %v", err)
			}
			cancel()
			if err := <-done; !errors.Is(err, context.Canceled) {
				t.Errorf("it ended with %v", err)
			}
		})
	}
}
