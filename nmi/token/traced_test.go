package token_test

import (
	"context"
	"errors"
	"fmt"
	"testing"

	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"github.com/aad-pod-identity/aad-pod-identity/nmi/token"
)

// answer is a source that always says the same.
type answer struct {
	token token.Token
	err   error
}

func (a answer) Token(context.Context, token.Request) (token.Token, error) { return a.token, a.err }

// TestFlightIsPartOfTheTrace: the request to the endpoint belongs to the trace of the
// request that it was made for, though it outlives that one.
func TestFlightIsPartOfTheTrace(t *testing.T) {
	const clientID = "7eb61212-1234-4321-a1b2-cccc6666a6a9"
	for name, tc := range map[string]struct {
		answer answer
		want   string
	}{
		"a token":   {answer{token: token.Token{AccessToken: "secret", RequestID: "r1"}}, "Unset [{aadpodidentity.request_id r1}]"},
		"a refusal": {answer{err: &token.Error{Refused: true, Code: "invalid_resource", Status: 400, RequestID: "r2", Description: clientID}}, "Error [{http.response.status_code 400} {error.type invalid_resource} {aadpodidentity.request_id r2}]"},
		"a failure": {answer{err: errors.New(clientID)}, "Error [{error.type canceled}]"},
	} {
		t.Run(name, func(t *testing.T) {
			recorder := tracetest.NewSpanRecorder()
			tracer := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(recorder)).Tracer("test")
			flights, stop := context.WithCancel(context.Background())
			cache := token.NewCache(flights, token.NewTraced(tc.answer, tracer, "IMDS token"), 1, nil)
			ctx, parent := tracer.Start(t.Context(), "request")
			_, err := cache.Token(ctx, token.Request{ClientID: clientID, Resource: "r"})
			if !errors.Is(err, tc.answer.err) {
				t.Fatal(err)
			}
			stop()
			cache.Wait()
			spans := recorder.Ended()
			if len(spans) != 1 || spans[0].Name() != "IMDS token" || spans[0].Parent().SpanID() != parent.SpanContext().SpanID() || spans[0].SpanContext().TraceID() != parent.SpanContext().TraceID() {
				t.Fatalf("spans %v", spans)
			}
			var attributes []string
			for _, a := range spans[0].Attributes() {
				attributes = append(attributes, fmt.Sprintf("{%s %s}", a.Key, a.Value.String()))
			}
			if got := fmt.Sprint(spans[0].Status().Code, " ", attributes); got != tc.want {
				t.Errorf("got %s, want %s", got, tc.want)
			}
			parent.End()
		})
	}
}
