package token

import (
	"context"
	"errors"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"
)

// Traced makes a span of each request to the source below it, retries included.
type Traced struct {
	next   Source
	tracer trace.Tracer
	name   string
}

// NewTraced makes a Traced on top of a source that asks IMDS or Azure AD, which is the
// name of its spans.
func NewTraced(next Source, tracer trace.Tracer, name string) *Traced {
	return &Traced{next, tracer, name}
}

// Token implements Source. The span holds no token and no client ID.
func (t *Traced) Token(ctx context.Context, req Request) (Token, error) {
	ctx, span := t.tracer.Start(ctx, t.name, trace.WithSpanKind(trace.SpanKindClient))
	defer span.End()
	got, err := t.next.Token(ctx, req)
	id := got.RequestID
	if err != nil {
		code := "canceled"
		var e *Error
		if errors.As(err, &e) {
			id, code = e.RequestID, e.Code
			if e.Status != 0 {
				span.SetAttributes(attribute.Int("http.response.status_code", e.Status))
			}
		}
		span.SetAttributes(attribute.String("error.type", code))
		span.SetStatus(codes.Error, "")
	}
	if id != "" {
		span.SetAttributes(attribute.String("aadpodidentity.request_id", id))
	}
	return got, err
}
