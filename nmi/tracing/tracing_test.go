package tracing

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"
)

// collector is a receiver of OTLP over HTTP. It answers with the statuses first.
type collector struct {
	*httptest.Server
	mu       sync.Mutex
	statuses []int
	asked    int
	got      []*tracepb.ResourceSpans
}

func newCollector(t *testing.T, statuses ...int) *collector {
	c := &collector{statuses: statuses}
	c.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.asked++
		if len(c.statuses) > 0 {
			status := c.statuses[0]
			c.statuses = c.statuses[1:]
			w.WriteHeader(status)
			return
		}
		body, err := io.ReadAll(r.Body)
		var traces tracepb.TracesData
		if err = errors.Join(err, proto.Unmarshal(body, &traces)); err != nil || r.URL.Path != "/v1/traces" || r.Header.Get("Content-Type") != "application/x-protobuf" {
			t.Errorf("%s %s: %v", r.URL, r.Header, err)
		}
		c.got = append(c.got, traces.GetResourceSpans()...)
	}))
	t.Cleanup(c.Close)
	return c
}

// trace makes a span and its child, and sends them.
func (c *collector) trace(t *testing.T, o Options) {
	t.Helper()
	transport := &http.Transport{}
	t.Cleanup(transport.CloseIdleConnections)
	tracer, stop, err := Start(t.Context(), o, transport)
	if err != nil {
		t.Fatal(err)
	}
	ctx, parent := tracer.Start(t.Context(), "parent", trace.WithAttributes(attribute.String("key", "value")))
	_, child := tracer.Start(ctx, "child")
	child.End()
	parent.End()
	if err := stop(context.WithoutCancel(t.Context())); err != nil {
		t.Error(err)
	}
}

func TestTracesArrive(t *testing.T) {
	t.Setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment=test")
	c := newCollector(t, http.StatusServiceUnavailable)
	c.trace(t, Options{Endpoint: c.URL, SampleRatio: 1, Service: "nmi", Version: "v1.2.3", Node: "node-1"})
	if len(c.got) != 1 || len(c.got[0].GetScopeSpans()) != 1 || c.asked != 2 {
		t.Fatalf("after %d requests got %v", c.asked, c.got)
	}
	spans := c.got[0].GetScopeSpans()[0].GetSpans()
	if len(spans) != 2 || spans[0].GetName() != "child" || spans[1].GetName() != "parent" || string(spans[0].GetParentSpanId()) != string(spans[1].GetSpanId()) ||
		spans[1].GetAttributes()[0].GetValue().GetStringValue() != "value" {
		t.Errorf("spans %v", spans)
	}
	resource := map[string]string{}
	for _, a := range c.got[0].GetResource().GetAttributes() {
		resource[a.GetKey()] = a.GetValue().GetStringValue()
	}
	for key, want := range map[string]string{"service.name": "nmi", "service.version": "v1.2.3", "k8s.node.name": "node-1", "deployment.environment": "test"} {
		if resource[key] != want {
			t.Errorf("%s is %q", key, resource[key])
		}
	}
}

func TestNothingIsSampled(t *testing.T) {
	c := newCollector(t)
	c.trace(t, Options{Endpoint: c.URL, SampleRatio: 0, Service: "nmi"})
	if c.asked != 0 {
		t.Errorf("%d requests", c.asked)
	}
}

// TestACollectorThatRefuses costs traces, and nobody an error.
func TestACollectorThatRefuses(t *testing.T) {
	c := newCollector(t, http.StatusBadRequest)
	c.trace(t, Options{Endpoint: c.URL, SampleRatio: 1, Service: "nmi"})
	if c.asked != 1 || len(c.got) != 0 {
		t.Errorf("%d requests, %v", c.asked, c.got)
	}
}

func TestParseEndpoint(t *testing.T) {
	for endpoint, want := range map[string]string{
		"http://collector:4318":         "http://collector:4318/v1/traces",
		"https://collector/":            "https://collector/v1/traces",
		"http://[fd00::1]:4318":         "http://[fd00::1]:4318/v1/traces",
		"https://collector/otlp/traces": "https://collector/otlp/traces",
	} {
		if u, err := ParseEndpoint(endpoint); err != nil || u.String() != want {
			t.Errorf("%s: %v, %v", endpoint, u, err)
		}
	}
	for _, endpoint := range []string{"", "collector:4318", "grpc://collector:4317", "http://", "http://:4318", "http://user:secret@collector", "http://c?key=secret", "http://c\x7f/secret"} {
		if _, err := ParseEndpoint(endpoint); err == nil || strings.Contains(err.Error(), "secret") {
			t.Errorf("%q: %v", endpoint, err)
		}
	}
}
