package server

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.opentelemetry.io/otel/codes"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	corev1 "k8s.io/api/core/v1"

	v1 "github.com/aad-pod-identity/aad-pod-identity/api/v1"
	"github.com/aad-pod-identity/aad-pod-identity/internal/redact"
	"github.com/aad-pod-identity/aad-pod-identity/test/azure"
)

// TestSpans: each request is a span with what its record has, and spans below it for
// what it waited for; none holds a token or a full client ID.
func TestSpans(t *testing.T) {
	recorder := tracetest.NewSpanRecorder()
	provider := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(recorder))
	w := newWorld(t, func(o *Options) {
		o.Tracer = provider.Tracer("test")
		o.Waiting = Waiting{Created: time.Hour, Assigned: time.Hour}
	})

	// A request waits for MIC, then for IMDS.
	w.assign("web", w.demo, v1.AssignedIDCreated)
	got := make(chan reply, 1)
	const theirs = "0af7651916cd43dd8448eb211c80319c"
	go func() {
		r, err := w.try(t.Context(), webIP, tokenURL, map[string]string{"traceparent": "00-" + theirs + "-b7ad6b7169203331-01"})
		if err != nil {
			t.Error(err)
		}
		got <- r
	}()
	eventually(t, "it waits", func() bool { return testutil.ToFloat64(w.server.metrics.Waiters) == 1 })
	w.assign("web", w.demo, v1.AssignedIDAssigned)
	token := (<-got).tokenOf(t)["access_token"]
	w.get(webIP, tokenURL, nil) // from the cache
	w.setPod("other", otherIP, func(p *corev1.Pod) { p.Labels = nil })
	w.get(otherIP, tokenURL, nil)                                  // not assigned
	w.get(webIP, "/metadata/instance?api-version=2021-02-01", nil) // passed on
	if _, err := w.azure.AddFault(azure.Fault{Operation: azure.OpIMDSToken, Status: http.StatusBadRequest, Code: "invalid_resource"}); err != nil {
		t.Fatal(err)
	}
	w.get(webIP, "/metadata/identity/oauth2/token?api-version=2018-02-01&resource=https://other.example", nil)
	w.get("127.0.0.9", tokenURL, nil) // nobody's address, for as long as a pod may be late
	const requests, below = 6, 3
	eventually(t, "all spans", func() bool { return len(recorder.Ended()) >= requests+below })

	calls := w.azure.Calls(azure.CallFilter{Operation: azure.OpIMDSToken})
	identity := []string{"aadpodidentity.identity=default/demo", "aadpodidentity.client_id=" + redact.ClientID(w.demo.ClientID), "k8s.pod.name=web", "k8s.namespace.name=default", "k8s.pod.uid=uid-web"}
	with := func(more ...string) []string { return append(more, identity...) }
	want := [][]string{
		with("http.route=/metadata/identity/oauth2/token", "http.request.method=GET", "client.address=127.0.0.2", "http.response.status_code=200", "aadpodidentity.outcome=token",
			"aadpodidentity.resource=https://vault.azure.net", "aadpodidentity.cache=miss", "aadpodidentity.request_id="+calls[0].RequestID),
		with("aadpodidentity.outcome=token", "aadpodidentity.cache=hit"),
		{"k8s.pod.name=other", "http.response.status_code=404", "aadpodidentity.outcome=not_assigned"},
		{"http.route=/metadata/instance", "aadpodidentity.outcome=passed_on", "k8s.pod.name=web"},
		with("http.response.status_code=403", "aadpodidentity.outcome=upstream_refused"),
		{"client.address=127.0.0.9", "aadpodidentity.outcome=unknown_pod"},
	}
	var roots []sdktrace.ReadOnlySpan
	children := map[string][]string{} // names, by that of the parent and its outcome
	byID := map[string]sdktrace.ReadOnlySpan{}
	for _, s := range recorder.Ended() {
		byID[s.SpanContext().SpanID().String()] = s
		if !s.Parent().IsValid() {
			roots = append(roots, s)
		}
	}
	for _, s := range recorder.Ended() {
		text := fmt.Sprint(s.Name(), attributesOf(s), s.Events(), s.Status())
		if strings.Contains(text, token) || strings.Contains(text, w.demo.ClientID) {
			t.Errorf("a span says too much: %s", text)
		}
		if p, ok := byID[s.Parent().SpanID().String()]; ok {
			key := p.Name() + " " + attributesOf(p)["aadpodidentity.outcome"]
			children[key] = append(children[key], s.Name())
		}
	}
	if len(roots) != requests {
		t.Fatalf("%d spans of %d requests", len(roots), requests)
	}
	for i, s := range roots {
		have := attributesOf(s)
		for _, attribute := range want[i] {
			if key, value, _ := strings.Cut(attribute, "="); have[key] != value {
				t.Errorf("request %d: %s is %q, want %q", i, key, have[key], value)
			}
		}
		// A server's span is an error from 500 on (OpenTelemetry, semantic conventions of HTTP spans).
		if (s.Status().Code == codes.Error) != strings.HasPrefix(have["http.response.status_code"], "5") {
			t.Errorf("request %d: %v", i, s.Status())
		}
	}
	if got := fmt.Sprint(children); got != fmt.Sprint(map[string][]string{
		"/metadata/identity/oauth2/token token":       {"wait for MIC"},
		"/metadata/identity/oauth2/token unknown_pod": {"wait for the pod to be known"},
		"/metadata/instance passed_on":                {"IMDS"},
	}) {
		t.Errorf("children %s", got)
	}
	// The pod's trace is linked to, and not taken over.
	first := roots[0]
	if len(first.Links()) != 1 || first.Links()[0].SpanContext.TraceID().String() != theirs || first.SpanContext().TraceID().String() == theirs {
		t.Errorf("trace %s, links %v", first.SpanContext().TraceID(), first.Links())
	}
}

func attributesOf(s sdktrace.ReadOnlySpan) map[string]string {
	m := map[string]string{}
	for _, a := range s.Attributes() {
		m[string(a.Key)] = a.Value.String()
	}
	return m
}
