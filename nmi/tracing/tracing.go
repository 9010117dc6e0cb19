package tracing

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
)

// Options of tracing.
type Options struct {
	// Endpoint is the URL of a collector. Without a path it is the usual one.
	Endpoint string
	// SampleRatio is the part of the traces that is recorded, from 0 to 1.
	SampleRatio float64
	// Service, Version and Node say in the traces whose they are.
	Service, Version, Node string
}

// path is where OTLP over HTTP has traces sent to by default.
const path = "/v1/traces"

// ParseEndpoint reads the URL of a collector.
func ParseEndpoint(endpoint string) (*url.URL, error) {
	u, err := url.Parse(endpoint)
	switch {
	case err != nil:
		return nil, errors.New("it is not a URL") // the text of the error has all of it
	case u.Scheme != "http" && u.Scheme != "https", u.Hostname() == "":
		return nil, errors.New("it must be http://host:port or https://host:port, with or without a path")
	case u.User != nil, u.RawQuery != "", u.Fragment != "":
		return nil, errors.New("it must have no user, query or fragment")
	}
	if u.Path == "" || u.Path == "/" {
		u.Path = path
	}
	return u, nil
}

// Start makes a tracer, whose spans are sent through transport until stop is called,
// which sends what is left.
func Start(ctx context.Context, o Options, transport http.RoundTripper) (tracer trace.Tracer, stop func(context.Context) error, err error) {
	endpoint, err := ParseEndpoint(o.Endpoint)
	if err != nil {
		return nil, nil, err
	}
	who, err := resource.New(ctx,
		resource.WithAttributes(
			attribute.String("service.name", o.Service),
			attribute.String("service.version", o.Version),
			attribute.String("k8s.node.name", o.Node)),
		resource.WithFromEnv())
	if err != nil {
		return nil, nil, fmt.Errorf("reading OTEL_RESOURCE_ATTRIBUTES: %w", err)
	}
	exporter := otlptrace.NewUnstarted(newClient(ctx, endpoint.String(), transport))
	provider := sdktrace.NewTracerProvider(
		sdktrace.WithResource(who),
		sdktrace.WithSampler(sdktrace.ParentBased(sdktrace.TraceIDRatioBased(o.SampleRatio))),
		sdktrace.WithBatcher(exporter))
	if err := exporter.Start(ctx); err != nil {
		return nil, nil, errors.Join(fmt.Errorf("starting to send traces: %w", err), provider.Shutdown(ctx))
	}
	return provider.Tracer("github.com/aad-pod-identity/aad-pod-identity/" + o.Service), provider.Shutdown, nil
}
