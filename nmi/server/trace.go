package server

import (
	"context"
	"net/http"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	"github.com/aad-pod-identity/aad-pod-identity/internal/redact"
)

// Spans below that of a request, which has the name of its path.
const (
	spanWaiting = "wait for MIC"
	spanUnknown = "wait for the pod to be known"
	spanPassing = "IMDS"
)

// startSpan begins the span of a request. The trace is NMI's own: what a pod says
// about its trace must not decide what is recorded of others, so that is linked only.
func (s *Server) startSpan(r *http.Request, rt route) (*http.Request, trace.Span) {
	options := []trace.SpanStartOption{
		trace.WithNewRoot(), trace.WithSpanKind(trace.SpanKindServer),
		trace.WithAttributes(
			attribute.String("http.request.method", method(r.Method)),
			attribute.String("http.route", rt.String()),
			attribute.String("client.address", source(r).String())),
	}
	theirs := trace.SpanContextFromContext(propagation.TraceContext{}.Extract(r.Context(), propagation.HeaderCarrier(r.Header)))
	if theirs.IsValid() {
		options = append(options, trace.WithLinks(trace.Link{SpanContext: theirs}))
	}
	ctx, span := s.o.Tracer.Start(r.Context(), rt.String(), options...)
	return r.WithContext(ctx), span
}

// method is the name of a method, which is free text of the client's.
func method(m string) string {
	switch m {
	case http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete, http.MethodConnect, http.MethodOptions, http.MethodTrace:
		return m
	}
	return "_OTHER"
}

// endSpan ends the span of a request with what the record of the request says. It
// holds no token and no full client ID.
func endSpan(span trace.Span, status int, n *note) {
	defer span.End()
	if !span.IsRecording() {
		return
	}
	set := func(key, value string) {
		if value != "" {
			span.SetAttributes(attribute.String(key, value))
		}
	}
	span.SetAttributes(attribute.Int("http.response.status_code", status))
	set("aadpodidentity.outcome", n.outcome(status))
	if n.pod != nil {
		set("k8s.namespace.name", n.pod.Namespace)
		set("k8s.pod.name", n.pod.Name)
		set("k8s.pod.uid", string(n.pod.UID))
	}
	set("aadpodidentity.resource", harmless(n.resource))
	if n.identity != nil {
		set("aadpodidentity.identity", n.identity.Namespace+"/"+n.identity.Name)
		set("aadpodidentity.client_id", redact.ClientID(n.identity.Spec.ClientID))
	}
	set("aadpodidentity.cache", n.trace.Cache())
	set("aadpodidentity.request_id", harmless(n.trace.RequestID()))
	if status >= http.StatusInternalServerError {
		span.SetStatus(codes.Error, "")
	}
}

// spanSince records a part of a request that has just ended.
func (s *Server) spanSince(ctx context.Context, name string, start time.Time) {
	kind := trace.SpanKindInternal
	if name == spanPassing {
		kind = trace.SpanKindClient
	}
	_, span := s.o.Tracer.Start(ctx, name, trace.WithTimestamp(start), trace.WithSpanKind(kind))
	span.End()
}
