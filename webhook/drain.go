package main

import (
	"context"
	"net/http"
	"time"

	ctrlwebhook "sigs.k8s.io/controller-runtime/pkg/webhook"
)

// callTimeout ends a call that nobody waits for any more: the chart allows the API
// server no more patience.
const callTimeout = 3 * time.Second

// drainingServer loses no call when it stops.
type drainingServer struct {
	ctrlwebhook.Server
	// stopping is done when the server goes on only until nobody calls any more.
	stopping context.Context
}

// Register implements ctrlwebhook.Server.
func (s drainingServer) Register(path string, handler http.Handler) {
	s.Server.Register(path, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		// The server takes the context that stops it for that of every call, and so
		// would cancel the calls under way the moment it begins to wait for them.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), callTimeout)
		defer cancel()
		if s.stopping.Err() != nil {
			// API servers keep a connection for all their calls, whatever becomes of the
			// Service's endpoints. Over HTTP/2 this asks them to make the next call on
			// another one; when the server ends in the end, it just cuts connections
			// that it finds without a call.
			w.Header().Set("Connection", "close")
		}
		handler.ServeHTTP(w, r.WithContext(ctx))
	}))
}
