package main

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	ctrlwebhook "sigs.k8s.io/controller-runtime/pkg/webhook"

	"github.com/aad-pod-identity/aad-pod-identity/webhook/lookup"
)

// blockingServer stands for the TLS server: it runs until its context ends.
type blockingServer struct {
	ctrlwebhook.Server
	started, ended time.Time
}

func (s *blockingServer) Start(ctx context.Context) error {
	s.started = time.Now()
	<-ctx.Done()
	s.ended = time.Now()
	return nil
}

// Until the delay is over Services may still send calls here.
func TestServerGoesOnForTheShutdownDelay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, terminate := context.WithCancel(t.Context())
		server := &blockingServer{}
		ended := make(chan error, 1)
		go func() {
			ended <- serveCalls(ctx, t.Context(), 5*time.Second, lookup.NewFromReader(fake.NewFakeClient()), server)
		}()
		synctest.Wait()
		if server.started.IsZero() {
			t.Fatal("the server is not started")
		}
		terminated := time.Now()
		terminate()
		if err := <-ended; err != nil {
			t.Fatal(err)
		}
		if got := server.ended.Sub(terminated); got != 5*time.Second {
			t.Errorf("the server ended after %s", got)
		}
	})
}

// A server that is not asked to stop ends with the caches that it needs.
func TestServerEndsWithItsCaches(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		background, fail := context.WithCancel(t.Context())
		server := &blockingServer{}
		ended := make(chan error, 1)
		go func() {
			ended <- serveCalls(t.Context(), background, time.Hour, lookup.NewFromReader(fake.NewFakeClient()), server)
		}()
		synctest.Wait()
		fail()
		if err := <-ended; err != nil {
			t.Fatal(err)
		}
	})
}
