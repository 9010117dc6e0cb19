// Package tracing sends OpenTelemetry traces to a collector, by OTLP over HTTP.
//
// The client for that is ours: those of the OpenTelemetry project link gRPC, on every
// node and also where nothing is traced.
package tracing
