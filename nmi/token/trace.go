package token

import (
	"context"
	"errors"
	"sync"
)

// requestIDHeader is what Azure calls a request by, for its support.
const requestIDHeader = "x-ms-request-id"

// Trace is told where the tokens of a request come from, for its record.
type Trace struct {
	mu        sync.Mutex
	cache     string
	requestID string
}

type traceKey struct{}

// WithTrace has what is asked of a Cache with the context told to a trace.
func WithTrace(ctx context.Context, t *Trace) context.Context {
	return context.WithValue(ctx, traceKey{}, t)
}

// Cache is the result of the Cache, of several requests that of the last; empty if
// none was asked.
func (t *Trace) Cache() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.cache
}

// RequestID is the name that the endpoint gave the request by which the token, or
// the error, was got; empty if it gave none.
func (t *Trace) RequestID() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.requestID
}

// note tells the trace of a context what came of a request.
func note(ctx context.Context, result string, t Token, err error) {
	trace, ok := ctx.Value(traceKey{}).(*Trace)
	if !ok {
		return
	}
	id := t.RequestID
	var e *Error
	if errors.As(err, &e) {
		id = e.RequestID
	}
	trace.mu.Lock()
	defer trace.mu.Unlock()
	trace.cache, trace.requestID = result, id
}
