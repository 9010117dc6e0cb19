package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"runtime"
	"time"

	ctrlwebhook "sigs.k8s.io/controller-runtime/pkg/webhook"
)

const (
	// callTimeout ends a call that nobody waits for any more: the chart allows the API
	// server no more patience.
	callTimeout = 3 * time.Second
	// maxBody bounds, in bytes, the body of a call: an API server sends two objects of
	// at most 3 MiB each.
	maxBody = 8 << 20
)

// slots bound how many calls are answered at once. Clients are not authenticated:
// without a bound, whoever reaches the port could make any number of calls that cost
// memory. The others wait their turn.
type slots chan struct{}

// newSlots are enough to keep the processors busy while some calls wait for the API
// server.
func newSlots() slots {
	return make(slots, 4*runtime.GOMAXPROCS(0))
}

// drainingServer loses no call when it stops, and bounds what calls cost.
type drainingServer struct {
	ctrlwebhook.Server
	// stopping is done when the server goes on only until nobody calls any more.
	stopping context.Context
	slots    slots
	// timeout ends each call.
	timeout time.Duration
}

// Register implements ctrlwebhook.Server.
func (s drainingServer) Register(path string, handler http.Handler) {
	s.Server.Register(path, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		// The server takes the context that stops it for that of every call, and so
		// would cancel the calls under way the moment it begins to wait for them.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), s.timeout)
		defer cancel()
		if s.stopping.Err() != nil {
			// API servers keep a connection for all their calls, whatever becomes of the
			// Service's endpoints. Over HTTP/2 this asks them to make the next call on
			// another one; when the server ends in the end, it just cuts connections
			// that it finds without a call.
			w.Header().Set("Connection", "close")
		}
		// A body that does not come is waited for no longer than anything else. A
		// writer that cannot do this has no connection to wait for.
		if deadline, ok := ctx.Deadline(); ok {
			_ = http.NewResponseController(w).SetReadDeadline(deadline)
		}
		r = r.WithContext(ctx)
		if r.Body != http.NoBody {
			body := &slottedBody{ReadCloser: http.MaxBytesReader(w, r.Body, maxBody), ctx: ctx, slots: s.slots}
			defer body.release()
			r.Body = body
		}
		handler.ServeHTTP(w, r)
	}))
}

// slottedBody is a body whose end is reached only with a slot: the call is decoded
// and answered with it, but a client that sends slowly holds none.
type slottedBody struct {
	io.ReadCloser
	ctx   context.Context
	slots slots
	taken bool
}

// Read implements io.Reader.
func (b *slottedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err != io.EOF || b.taken {
		return n, err
	}
	select {
	case b.slots <- struct{}{}:
		b.taken = true
		return n, err
	case <-b.ctx.Done():
		return n, fmt.Errorf("waiting for other calls to end: %w", b.ctx.Err())
	}
}

func (b *slottedBody) release() {
	if b.taken {
		<-b.slots
	}
}
