// Package tracing sends OpenTelemetry traces to a collector, by OTLP over HTTP.
//
// The client for that is ours: the one of the OpenTelemetry project links gRPC with it,
// which would be a tenth of NMI's memory on every node for something that is off by
// default.
package tracing
