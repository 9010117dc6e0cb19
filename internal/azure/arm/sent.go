package arm

import (
	"context"
	"net/http"
	"net/http/httptrace"
	"sync/atomic"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
)

type sentKey struct{}

// CountSent returns a context whose requests by a client with ClientOptions are counted
// once they have begun to leave for ARM, each repetition as well. What the budget held
// back, or had no token, was not sent.
func CountSent(ctx context.Context, sent *atomic.Int32) context.Context {
	return context.WithValue(ctx, sentKey{}, sent)
}

// countSent is the innermost policy, since requests for tokens have the same context.
type countSent struct{}

// Do implements policy.Policy.
func (countSent) Do(req *policy.Request) (*http.Response, error) {
	ctx := req.Raw().Context()
	if sent, ok := ctx.Value(sentKey{}).(*atomic.Int32); ok {
		req = req.WithContext(httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{WroteHeaders: func() { sent.Add(1) }}))
	}
	return req.Next()
}
