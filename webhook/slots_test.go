package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"testing/synctest"

	ctrlwebhook "sigs.k8s.io/controller-runtime/pkg/webhook"
)

// registry stands for the TLS server: it keeps the handler.
type registry struct {
	ctrlwebhook.Server
	handler http.Handler
}

func (r *registry) Register(_ string, handler http.Handler) { r.handler = handler }

// bounded is what a server with a number of slots makes of a handler.
func bounded(t *testing.T, number int, handler http.HandlerFunc) (call func(body io.Reader)) {
	t.Helper()
	var r registry
	drainingServer{Server: &r, stopping: t.Context(), slots: make(slots, number), timeout: callTimeout}.Register("/call", handler)
	return func(body io.Reader) {
		r.handler.ServeHTTP(httptest.NewRecorder(), httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/call", body))
	}
}

func TestCallsAtOnceAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var inside, answered atomic.Int32
		next := make(chan struct{})
		call := bounded(t, 2, func(_ http.ResponseWriter, r *http.Request) {
			if _, err := io.ReadAll(r.Body); err != nil {
				t.Error(err)
			}
			inside.Add(1)
			<-next
			inside.Add(-1)
			answered.Add(1)
		})
		for range 5 {
			go call(bytes.NewReader([]byte("{}")))
		}
		for i := range int32(5) {
			synctest.Wait()
			if got, want := inside.Load(), min(2, 5-i); got != want {
				t.Errorf("%d calls at once, want %d", got, want)
			}
			next <- struct{}{}
		}
		synctest.Wait()
		if got := answered.Load(); got != 5 {
			t.Errorf("%d calls are answered", got)
		}
	})
}

func TestNobodyWaitsLongerThanACallMayTake(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		leave, got := make(chan struct{}), make(chan error, 2)
		call := bounded(t, 1, func(_ http.ResponseWriter, r *http.Request) {
			_, err := io.ReadAll(r.Body)
			got <- err
			<-leave
		})
		go call(bytes.NewReader([]byte("{}")))
		if err := <-got; err != nil {
			t.Fatal(err)
		}
		go call(bytes.NewReader([]byte("{}")))
		if err := <-got; !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("error %v", err)
		}
		close(leave)
	})
}

func TestSlowClientsHoldNoSlot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var answered atomic.Int32
		call := bounded(t, 1, func(_ http.ResponseWriter, r *http.Request) {
			if _, err := io.ReadAll(r.Body); err == nil {
				answered.Add(1)
			}
		})
		body, client := io.Pipe()
		go call(body)
		synctest.Wait()
		call(bytes.NewReader([]byte("{}")))
		if got := answered.Load(); got != 1 {
			t.Errorf("%d calls are answered while another one is being sent", got)
		}
		client.Close()
		synctest.Wait()
		if got := answered.Load(); got != 2 {
			t.Errorf("%d calls are answered at last", got)
		}
	})
}

func TestBodiesAreBounded(t *testing.T) {
	for size, want := range map[int]bool{maxBody: true, maxBody + 1: false} {
		var err error
		call := bounded(t, 1, func(_ http.ResponseWriter, r *http.Request) { _, err = io.ReadAll(r.Body) })
		call(bytes.NewReader(make([]byte, size)))
		var tooLarge *http.MaxBytesError
		if want && err != nil || !want && !errors.As(err, &tooLarge) {
			t.Errorf("%d bytes: error %v", size, err)
		}
	}
}

// A body that never ends is given up, whatever the protocol.
func TestBodiesAreNotWaitedForForever(t *testing.T) {
	server, address := startDraining(t.Context(), t.Context(), t, callTimeout)
	type read struct {
		version string
		err     error
	}
	reads := make(chan read, 2)
	server.Register("/call", http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		_, err := io.ReadAll(r.Body)
		reads <- read{r.Proto, err}
	}))
	waiting := map[string]bool{"HTTP/1.1": true, "HTTP/2.0": true}
	for version := range waiting {
		body, client := io.Pipe()
		defer client.Close()
		r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "https://"+address+"/call", body)
		if err != nil {
			t.Fatal(err)
		}
		transport := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, ForceAttemptHTTP2: version == "HTTP/2.0"}
		defer transport.CloseIdleConnections()
		go func() {
			// What the client hears depends on the protocol; what counts is that the
			// server is rid of it.
			if response, err := (&http.Client{Transport: transport}).Do(r); err == nil {
				response.Body.Close()
			}
		}()
	}
	for len(waiting) > 0 {
		r := <-reads
		if r.err == nil {
			t.Errorf("%s: the body ended", r.version)
		}
		if !waiting[r.version] {
			t.Fatalf("%s was not expected", r.version)
		}
		delete(waiting, r.version)
	}
}
