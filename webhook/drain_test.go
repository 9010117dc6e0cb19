package main

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"strconv"
	"testing"
	"time"

	ctrlwebhook "sigs.k8s.io/controller-runtime/pkg/webhook"

	"github.com/aad-pod-identity/aad-pod-identity/test/freeport"
)

// startDraining starts a server that ends with ctx, and a call after the timeout.
func startDraining(ctx, stopping context.Context, t *testing.T, timeout time.Duration) (server drainingServer, address string) {
	t.Helper()
	text := freeport.Get(t)
	port, err := strconv.Atoi(text)
	if err != nil {
		t.Fatal(err)
	}
	other := httptest.NewTLSServer(http.NotFoundHandler()) // for its certificate
	defer other.Close()
	server = drainingServer{stopping: stopping, slots: newSlots(), timeout: timeout, Server: ctrlwebhook.NewServer(ctrlwebhook.Options{Host: "127.0.0.1", Port: port, TLSOpts: []func(*tls.Config){func(c *tls.Config) {
		c.GetCertificate = func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return &other.TLS.Certificates[0], nil }
	}}})}
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- server.Start(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("the server: %v", err)
		}
	})
	waitFor(t, "the server to listen", func() bool { return server.StartedChecker()(nil) == nil })
	return server, net.JoinHostPort("127.0.0.1", text)
}

func TestCallsMoveToAnotherConnectionBeforeTheServerEnds(t *testing.T) {
	stopping, terminate := context.WithCancel(t.Context())
	server, address := startDraining(t.Context(), stopping, t, callTimeout)
	server.Register("/call", http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	client := http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, ForceAttemptHTTP2: true}}
	call := func() (reused bool) {
		t.Helper()
		ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{GotConn: func(i httptrace.GotConnInfo) { reused = i.Reused }})
		r, err := http.NewRequestWithContext(ctx, http.MethodPost, "https://"+address+"/call", http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		response, err := client.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		if response.ProtoMajor != 2 {
			t.Fatalf("the call was made by %s", response.Proto)
		}
		if err := response.Body.Close(); err != nil {
			t.Fatal(err)
		}
		return reused
	}
	call()
	if !call() {
		t.Error("a connection is not kept while the server runs")
	}
	terminate()
	call() // the answer to this one says so
	waitFor(t, "a new connection", func() bool { return !call() })
}

// A call under way when the server stops is answered, and not cancelled.
func TestCallsUnderWayAreAnswered(t *testing.T) {
	ctx, stop := context.WithCancel(t.Context())
	server, address := startDraining(ctx, t.Context(), t, time.Hour)
	under, seen := make(chan struct{}), make(chan error, 1)
	server.Register("/call", http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		close(under)
		<-ctx.Done()
		// The server has begun to stop when it takes no connections any more.
		waitFor(t, "the server to stop listening", func() bool {
			conn, err := net.Dial("tcp", address)
			if err == nil {
				conn.Close()
			}
			return err != nil
		})
		seen <- r.Context().Err()
	}))
	client := http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
	answered := make(chan error, 1)
	go func() {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "https://"+address+"/call", http.NoBody)
		if err != nil {
			answered <- err
			return
		}
		response, err := client.Do(r)
		if err == nil {
			err = response.Body.Close()
		}
		answered <- err
	}()
	<-under
	stop()
	if err := <-seen; err != nil {
		t.Errorf("the call's context: %v", err)
	}
	if err := <-answered; err != nil {
		t.Errorf("the call: %v", err)
	}
}
