package main

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"testing"

	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"

	v1 "github.com/aad-pod-identity/aad-pod-identity/api/v1"
)

// TestTraces: a pod's request arrives at a collector as one trace, down to IMDS.
func TestTraces(t *testing.T) {
	c := startCluster(t)
	id, imds := emulate(t)
	var mu sync.Mutex
	var spans []*tracepb.Span
	collector := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		var got tracepb.TracesData
		if err = errors.Join(err, proto.Unmarshal(body, &got)); err != nil {
			t.Error(err)
		}
		mu.Lock()
		defer mu.Unlock()
		for _, one := range got.GetResourceSpans() {
			for _, scope := range one.GetScopeSpans() {
				spans = append(spans, scope.GetSpans()...)
			}
		}
	}))
	defer collector.Close()
	p := start(t, c.nmi, imds, "--tracing-endpoint="+collector.URL)
	c.runningPod(t, "web", podIP)
	c.create(t, assignedTo("web", id, v1.AssignedIDAssigned))
	p.answers("with an identity", http.StatusOK, "access_token")
	if err := p.stop(); err != nil && t.Context().Err() != nil {
		t.Error(err)
	}
	mu.Lock()
	defer mu.Unlock()
	var all []string
	for _, s := range spans {
		parent := ""
		for _, p := range spans {
			if slices.Equal(p.GetSpanId(), s.GetParentSpanId()) && slices.Equal(p.GetTraceId(), s.GetTraceId()) {
				parent = p.GetName()
			}
		}
		all = append(all, fmt.Sprintf("%s < %s", s.GetName(), parent))
	}
	if !slices.Contains(all, "IMDS token < /metadata/identity/oauth2/token") {
		t.Errorf("spans %q", all)
	}
}
