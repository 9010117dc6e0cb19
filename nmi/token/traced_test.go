package token_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

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

// TestRenewalIsATraceOfItsOwn unless a request waits for it.
func TestRenewalIsATraceOfItsOwn(t *testing.T) {
	for name, tc := range map[string]struct {
		age time.Duration // of the token that is kept
		own bool
	}{"ahead of time": {age: 13 * time.Hour, own: true}, "near the end": {age: 24*time.Hour - time.Second}} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				recorder := tracetest.NewSpanRecorder()
				tracer := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(recorder)).Tracer("test")
				flights, stop := context.WithCancel(t.Context())
				day := answer{token: token.Token{AccessToken: "secret", ExpiresOn: time.Now().Add(24 * time.Hour)}}
				cache := token.NewCache(flights, token.NewTraced(day, tracer, "IMDS token"), 1, nil)
				ask := func(ctx context.Context) {
					if _, err := cache.Token(ctx, token.Request{ClientID: "c", Resource: "r"}); err != nil {
						t.Fatal(err)
					}
				}
				ask(t.Context())
				<-time.After(tc.age)
				ctx, request := tracer.Start(t.Context(), "request")
				ask(ctx)
				request.End()
				synctest.Wait()
				stop()
				cache.Wait()
				var renewals []sdktrace.ReadOnlySpan
				for _, s := range recorder.Ended() {
					if s.Name() == "IMDS token" {
						renewals = append(renewals, s)
					}
				}
				if len(renewals) != 2 {
					t.Fatalf("%d requests to IMDS", len(renewals))
				}
				own := renewals[1].SpanContext().TraceID() != request.SpanContext().TraceID()
				if own != tc.own || renewals[1].Parent().IsValid() == tc.own {
					t.Errorf("a trace of its own: %v", own)
				}
			})
		})
	}
}
