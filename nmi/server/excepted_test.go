package server

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/go-logr/logr/funcr"
	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/klog/v2"

	"github.com/aad-pod-identity/aad-pod-identity/internal/metric"
	"github.com/aad-pod-identity/aad-pod-identity/nmi/podindex"
	"github.com/aad-pod-identity/aad-pod-identity/nmi/token"
)

// busyService answers excepted pods, and others when it is told to.
type busyService struct{ others chan struct{} }

func (b busyService) RoundTrip(r *http.Request) (*http.Response, error) {
	if !token.Excepted(r.Context()) {
		<-b.others
	}
	return &http.Response{StatusCode: http.StatusOK, Header: http.Header{}, Body: io.NopCloser(strings.NewReader("{}"))}, nil
}

// askDirectly has a server answer a request without a connection.
func askDirectly(ctx context.Context, s *Server, from, target string) *answer {
	r := httptest.NewRequestWithContext(ctx, http.MethodGet, target, nil)
	r.RemoteAddr = from + ":1"
	rec := &answer{header: http.Header{}}
	s.ServeHTTP(rec, r)
	return rec
}

func exceptedWorld(t *testing.T, service http.RoundTripper) *world {
	w := &world{t: t, index: podindex.New("node-1")}
	o := Options{Metadata: &url.URL{Scheme: "http", Host: "127.0.0.1:1"}, MICNamespace: "default", MICServiceAccount: "mic"}
	w.server = New(o, w.index, fixed{}, metric.NewNMI(prometheus.NewRegistry()), service)
	w.setPod("mic", "10.0.0.1", func(p *corev1.Pod) { p.Spec.ServiceAccountName = "mic" })
	w.index.MarkSynced()
	return w
}

// TestExceptedPodsDoNotWaitForOthers that have as many requests passed on as they may.
func TestExceptedPodsDoNotWaitForOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		service := busyService{make(chan struct{})}
		w := exceptedWorld(t, service)
		var others sync.WaitGroup
		for i := range passing / passingEach {
			ip := fmt.Sprintf("10.0.1.%d", i+1)
			w.setPod(fmt.Sprintf("p%d", i), ip)
			for range passingEach {
				others.Go(func() { askDirectly(t.Context(), w.server, ip, "/metadata/instance") })
				others.Go(func() { askDirectly(t.Context(), w.server, ip, "/metadata/identity/info") })
			}
		}
		synctest.Wait()
		if n := w.server.passing.free + w.server.asking.free; n != 0 {
			t.Errorf("%d places are free", n)
		}
		targets := []string{tokenURL, "/metadata/identity/issuecredential", "/metadata/identity/info", "/metadata/instance"}
		got := make(chan *answer, len(targets))
		for _, target := range targets {
			go func() { got <- askDirectly(t.Context(), w.server, "10.0.0.1", target) }()
		}
		synctest.Wait()
		if len(got) != len(targets) {
			t.Errorf("%d requests of MIC are answered", len(got))
		}
		close(service.others)
		others.Wait()
		for range targets {
			if a := <-got; a.status != http.StatusOK {
				t.Errorf("status %d, %s", a.status, a.body.String())
			}
		}
	})
}

// TestOtherRequestsDoNotWaitForThoseAboutIdentities, of which few are let through.
func TestOtherRequestsDoNotWaitForThoseAboutIdentities(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		service := rationingService{make(chan struct{})}
		w := exceptedWorld(t, service)
		w.setPod("web", "10.0.0.2")
		var asking sync.WaitGroup
		for range 2 * passingEach {
			asking.Go(func() { askDirectly(t.Context(), w.server, "10.0.0.2", "/metadata/identity/info") })
		}
		synctest.Wait()
		if a := askDirectly(t.Context(), w.server, "10.0.0.2", "/metadata/instance"); a.status != http.StatusOK {
			t.Errorf("status %d, %s", a.status, a.body.String())
		}
		close(service.turn)
		asking.Wait()
	})
}

// rationingService answers requests about identities when it is their turn.
type rationingService struct{ turn chan struct{} }

func (s rationingService) RoundTrip(r *http.Request) (*http.Response, error) {
	if token.Rationed(r.URL.Path) {
		<-s.turn
	}
	return busyService{}.RoundTrip(r.WithContext(token.WithException(r.Context())))
}

// TestExceptedPodsLinesAreSampled: one that asks in a loop does not fill the log.
func TestExceptedPodsLinesAreSampled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var lines []string
		logger := funcr.New(func(_, args string) { lines = append(lines, args) }, funcr.Options{})
		w := exceptedWorld(t, busyService{})
		for range sampleOf {
			if a := askDirectly(klog.NewContext(t.Context(), logger), w.server, "10.0.0.1", tokenURL); a.status != http.StatusOK {
				t.Fatalf("status %d, %s", a.status, a.body.String())
			}
		}
		if len(lines) != fullRate+1 || !strings.Contains(lines[0], `"Passing an excepted pod's token request`) || !strings.Contains(lines[fullRate], fmt.Sprintf(`"leftOut"=%d`, sampleOf-fullRate-1)) {
			t.Errorf("%d lines, %q", len(lines), lines)
		}
	})
}
