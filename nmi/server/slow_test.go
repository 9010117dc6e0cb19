package server

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	v1 "github.com/aad-pod-identity/aad-pod-identity/api/v1"
	"github.com/aad-pod-identity/aad-pod-identity/internal/metric"
	"github.com/aad-pod-identity/aad-pod-identity/nmi/podindex"
	"github.com/aad-pod-identity/aad-pod-identity/nmi/token"
	"github.com/aad-pod-identity/aad-pod-identity/test/azure"
)

// fixed is a source with one token.
type fixed struct{}

func (fixed) Token(context.Context, token.Request) (token.Token, error) {
	return token.Token{AccessToken: "t", TokenType: "Bearer", ExpiresOn: time.Now().Add(time.Hour)}, nil
}

// pipes is a listener in memory, so that time can be a fake as well.
type pipes struct {
	conns  chan net.Conn
	closed chan struct{}
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error {
	select {
	case <-p.closed:
	default:
		close(p.closed)
	}
	return nil
}

func (p *pipes) Addr() net.Addr { return &net.TCPAddr{IP: net.ParseIP("10.0.0.254"), Port: 2579} }

// addressed is an end of a pipe that has addresses.
type addressed struct {
	net.Conn
	remote net.Addr
}

func (a addressed) RemoteAddr() net.Addr { return a.remote }

func (p *pipes) connect(from string) net.Conn {
	client, server := net.Pipe()
	p.conns <- addressed{server, &net.TCPAddr{IP: net.ParseIP(from), Port: 1}}
	return client
}

// closedAfter reads until the server closes and returns how long that took and what
// it said.
func closedAfter(t *testing.T, c net.Conn) (time.Duration, string) {
	t.Helper()
	start := time.Now()
	said, err := io.ReadAll(c)
	if err != nil {
		t.Errorf("reading: %v", err)
	}
	return time.Since(start), string(said)
}

func send(t *testing.T, c net.Conn, text string) {
	t.Helper()
	if _, err := io.WriteString(c, text); err != nil {
		t.Fatal(err)
	}
}

// TestSlowClients: a client that does nothing, or as little as it can, loses its
// connection; one that waits for MIC does not.
func TestSlowClients(t *testing.T) {
	const withBody = "POST /metadata/identity/oauth2/token?resource=x HTTP/1.1\r\nHost: h\r\nMetadata: true\r\nContent-Length: 100000\r\n\r\n"
	tests := map[string]func(t *testing.T, w *slowWorld){
		"sends nothing": func(t *testing.T, w *slowWorld) {
			if took, _ := closedAfter(t, w.dial("10.0.0.1")); took != headerTimeout {
				t.Errorf("closed after %s", took)
			}
		},
		"sends its header byte by byte": func(t *testing.T, w *slowWorld) {
			c := w.dial("10.0.0.1")
			go func() { _, _ = io.Copy(io.Discard, c) }() // ends with the connection
			start := time.Now()
			for _, b := range []byte(rawRequest) {
				if _, err := c.Write([]byte{b}); err != nil {
					break
				}
				<-time.After(time.Second)
			}
			if took := time.Since(start); took > headerTimeout+time.Second {
				t.Errorf("closed after %s", took)
			}
		},
		"does not send the body that it has announced": func(t *testing.T, w *slowWorld) {
			c := w.dial("10.0.0.1")
			send(t, c, withBody)
			if took, said := closedAfter(t, c); took > readTimeout || !strings.HasPrefix(said, "HTTP/1.1 4") {
				t.Errorf("closed after %s, %s", took, said)
			}
		},
		"is told to go on, and sends no body": owesBody("Expect: 100-continue\r\nContent-Length: 10\r\n\r\n", ""),
		"sends no body to an NMI that is retired": func(t *testing.T, w *slowWorld) {
			w.server.retired.Store(true)
			owesBody("Content-Length: 10\r\n\r\n", "")(t, w)
		},
		// More than net/http reads by itself after an answer.
		"sends a part of its body": owesBody("Transfer-Encoding: chunked\r\n\r\n", "96000\r\n"+strings.Repeat("b", 0x96000)),
		"does not read its answer": func(t *testing.T, w *slowWorld) {
			c := w.dial("10.0.0.1")
			send(t, c, rawRequest)
			<-time.After(writeTimeout + time.Second)
			synctest.Wait()
			if n := w.server.Connections(); n != 0 {
				t.Errorf("%d connections are open", n)
			}
		},
		"asks once and never again": func(t *testing.T, w *slowWorld) {
			c := w.dial("10.0.0.1")
			send(t, c, rawRequest)
			took, said := closedAfter(t, c)
			if took != idleTimeout || !strings.HasPrefix(said, "HTTP/1.1 200 OK") {
				t.Errorf("closed after %s, %s", took, said)
			}
		},
		"waits for MIC": func(t *testing.T, w *slowWorld) {
			c := w.dial("10.0.0.2")
			send(t, c, rawRequest)
			<-time.After(2 * readTimeout)
			synctest.Wait()
			if n := testutil.ToFloat64(w.server.metrics.Waiters); n != 1 {
				t.Errorf("%v requests wait", n)
			}
			w.assign("late", w.demo, v1.AssignedIDAssigned)
			resp, err := http.ReadResponse(bufio.NewReader(c), nil)
			if err != nil || resp.StatusCode != http.StatusOK {
				t.Errorf("%v, %v", resp, err)
			}
		},
		"leaves while it waits":                       leavesWith(""),
		"leaves while it waits, and has sent a body":  leavesWith("body"),
		"leaves while it waits, and owes some of one": leavesWith("bod"),
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newSlowWorld(t)
				test(t, w)
				w.end()
			})
		})
	}
}

// owesBody is a client whose request could be answered at once and which does not send
// all of the body that it has announced.
func owesBody(headers, body string) func(*testing.T, *slowWorld) {
	return func(t *testing.T, w *slowWorld) {
		c := w.dial("10.0.0.1")
		go func() { // ends with the connection
			_, _ = io.WriteString(c, strings.TrimSuffix(rawRequest, "\r\n")+headers+body)
		}()
		took, said := closedAfter(t, c)
		if took > readTimeout || !strings.Contains(said, "HTTP/1.1 400 ") {
			t.Errorf("closed after %s, %s", took, said)
		}
		synctest.Wait()
		if n := w.server.Connections(); n != 0 {
			t.Errorf("%d connections are open", n)
		}
	}
}

// leavesWith is a client that leaves while its request waits, whose header announces a
// body of four bytes if it sends any.
func leavesWith(body string) func(*testing.T, *slowWorld) {
	return func(t *testing.T, w *slowWorld) {
		c := w.dial("10.0.0.2")
		request := rawRequest
		if body != "" {
			request = strings.TrimSuffix(rawRequest, "\r\n") + "Content-Length: 4\r\n\r\n" + body
		}
		send(t, c, request)
		<-time.After(time.Second)
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if n, open := testutil.ToFloat64(w.server.metrics.Waiters), w.server.Connections(); n != 0 || open != 0 {
			t.Errorf("%v requests wait on %d connections", n, open)
		}
	}
}

// slowWorld is a server without a network; see world for one with.
type slowWorld struct {
	*world
	*pipes
	end func()
}

func (w *slowWorld) dial(from string) net.Conn { return w.connect(from) }

func newSlowWorld(t *testing.T) *slowWorld {
	t.Helper()
	w := &slowWorld{
		world: &world{t: t, index: podindex.New("node-1"), demo: azure.Identity{ID: azure.IdentityID(subscription, "rg", "demo"), ClientID: "c"}},
		pipes: &pipes{conns: make(chan net.Conn), closed: make(chan struct{})},
	}
	o := Options{Metadata: &url.URL{Scheme: "http", Host: "127.0.0.1:1"}, MetadataHeaderRequired: true, Waiting: Waiting{Created: time.Hour}}
	w.server = New(o, w.index, fixed{}, metric.NewNMI(prometheus.NewRegistry()), http.DefaultTransport)
	w.setPod("web", "10.0.0.1")
	w.setPod("late", "10.0.0.2")
	w.assign("web", w.demo, v1.AssignedIDAssigned)
	w.index.MarkSynced()
	ctx, cancel := context.WithCancel(t.Context())
	arriving, done := make(chan net.Listener, 1), make(chan error, 1)
	arriving <- w.pipes
	go func() { done <- w.server.Serve(ctx, arriving, nil) }()
	w.end = func() {
		cancel()
		if err := <-done; err != nil && !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("serving: %v", err)
		}
	}
	return w
}
