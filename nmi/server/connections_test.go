package server

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	v1 "github.com/aad-pod-identity/aad-pod-identity/api/v1"
	"github.com/aad-pod-identity/aad-pod-identity/nmi/podindex"
)

func TestAdmits(t *testing.T) {
	l := Limits{Connections: 1600, ConnectionsPerPod: 50}
	tests := map[string]struct {
		held, all int
		want      bool
	}{
		"the first one":                             {0, 0, true},
		"up to the limit of a pod":                  {49, 49, true},
		"not beyond":                                {50, 50, false},
		"a pod with much, when little is free":      {30, 1200, false},
		"a pod with little, when little is free":    {10, 1200, true},
		"the first one, when hardly any is free":    {0, 1599, true},
		"the second one, when hardly any is free":   {1, 1599, false},
		"the first one, when nothing is free":       {0, 1600, false},
		"more than there may be, after a reduction": {0, 1700, false},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			if got := l.admits(tc.held, tc.all); got != tc.want {
				t.Errorf("admits(%d, %d) = %v", tc.held, tc.all, got)
			}
		})
	}
}

// TestGreedyPodsLeaveRoom: however many pods take all that they get, the next one
// gets a connection.
func TestGreedyPodsLeaveRoom(t *testing.T) {
	for _, greedy := range []int{1, 10, 100, 250} {
		l, all := DefaultLimits, 0
		held := make([]int, greedy)
		for taken := true; taken; {
			taken = false
			for i := range held {
				if l.admits(held[i], all) {
					held[i]++
					all++
					taken = true
				}
			}
		}
		if !l.admits(0, all) || all > l.Connections {
			t.Errorf("%d greedy pods hold %d of %d", greedy, all, l.Connections)
		}
		if least := min(l.ConnectionsPerPod, 40); held[0] < least {
			t.Errorf("each of %d pods gets only %d", greedy, held[0])
		}
	}
}

// dial opens a connection to NMI from an address.
func (w *world) dial(from string) net.Conn {
	w.t.Helper()
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
	c, err := d.DialContext(w.t.Context(), "tcp", w.address)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { _ = c.Close() })
	return c
}

const rawRequest = "GET " + tokenURL + " HTTP/1.1\r\nHost: 169.254.169.254\r\nMetadata: true\r\n\r\n"

// ask sends a request on a connection and reads the answer.
func ask(t *testing.T, c net.Conn) (*http.Response, string) {
	t.Helper()
	resp, body, err := tryAsk(c)
	if err != nil {
		t.Fatal(err)
	}
	return resp, body
}

func tryAsk(c net.Conn) (*http.Response, string, error) {
	if _, err := io.WriteString(c, rawRequest); err != nil {
		return nil, "", err
	}
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		return nil, "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return resp, string(body), err
}

func (w *world) refusals(reason string) float64 {
	return testutil.ToFloat64(w.server.metrics.Refusals.WithLabelValues(reason))
}

func TestTooManyConnections(t *testing.T) {
	w := newWorld(t, func(o *Options) { o.Limits.ConnectionsPerPod = 2 })
	w.assign("web", w.demo, v1.AssignedIDAssigned)
	w.assign("other", w.second, v1.AssignedIDAssigned)
	silent := []net.Conn{w.dial(webIP), w.dial(webIP)}
	eventually(t, "two connections", func() bool { return w.server.Connections() == 2 })

	refused := 0.0
	eventually(t, "the third connection is refused", func() bool { // one that says nothing for a second is cut off
		refused++
		resp, body, err := tryAsk(w.dial(webIP))
		if err != nil {
			return false
		}
		if resp.StatusCode != http.StatusTooManyRequests || resp.Header.Get("Retry-After") == "" || !strings.Contains(body, `"error":"too_many_requests"`) {
			t.Errorf("the third connection: %s %v %s", resp.Status, resp.Header, body)
		}
		return true
	})
	if n := w.refusals(reasonConnections); n != refused {
		t.Errorf("%v refusals counted, want %v", n, refused)
	}
	if resp, body := ask(t, w.dial(otherIP)); resp.StatusCode != http.StatusOK {
		t.Errorf("another pod: %s %s", resp.Status, body)
	}

	// One that has been used is given up for a new one; one under way is not.
	if resp, body := ask(t, silent[0]); resp.StatusCode != http.StatusOK {
		t.Fatalf("within the limit: %s %s", resp.Status, body)
	}
	eventually(t, "a new connection in place of an idle one", func() bool {
		resp, _, err := tryAsk(w.dial(webIP))
		return err == nil && resp.StatusCode == http.StatusOK
	})
	if _, err := silent[0].Read(make([]byte, 1)); err == nil {
		t.Error("the idle connection is still open")
	}
}

func TestTooManyRequests(t *testing.T) {
	w := newWorld(t, func(o *Options) { o.Limits.RequestsPerPod = 1; o.Waiting.Created = time.Hour })
	w.assign("other", w.second, v1.AssignedIDAssigned)
	ctx, leave := context.WithCancel(t.Context())
	defer leave()
	left := make(chan struct{})
	go func() {
		defer close(left)
		_, _ = w.try(ctx, webIP, tokenURL, nil) // waits until it leaves
	}()
	eventually(t, "a request waits", func() bool { return testutil.ToFloat64(w.server.metrics.Waiters) == 1 })
	if r := w.get(webIP, tokenURL, nil); r.status != 429 || r.header.Get("Retry-After") == "" || r.oauth.Code != "too_many_requests" {
		t.Errorf("status %d, %v, %s", r.status, r.header, r.body)
	}
	if r := w.get(otherIP, tokenURL, nil); r.status != 200 {
		t.Errorf("another pod: status %d, %s", r.status, r.body)
	}
	leave()
	<-left
	w.assign("web", w.demo, v1.AssignedIDAssigned)
	eventually(t, "its place is free", func() bool { r := w.get(webIP, tokenURL, nil); return r.status == 200 })
	if n := testutil.ToFloat64(w.server.metrics.Waiters); n != 0 {
		t.Errorf("%v waiters counted", n)
	}
}

// TestConnectionOfADeadPod: a pod's connection ends with the pod, and is nobody
// else's.
func TestConnectionOfADeadPod(t *testing.T) {
	tests := map[string]func(w *world){
		"deleted":               func(w *world) { w.index.DeletePod(types.NamespacedName{Namespace: "default", Name: "web"}) },
		"ended":                 func(w *world) { w.setPod("web", webIP, func(p *corev1.Pod) { p.Status.Phase = corev1.PodSucceeded }) },
		"replaced":              func(w *world) { w.setPod("web", webIP, func(p *corev1.Pod) { p.UID = "uid-2" }) },
		"lost its address":      func(w *world) { w.setPod("web", "127.0.0.77") },
		"terminating, replaced": func(w *world) { w.setPod("web", webIP, soonGone); w.setPod("next", webIP) },
	}
	for name, happens := range tests {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, nil)
			w.assign("web", w.demo, v1.AssignedIDAssigned)
			c := w.dial(webIP)
			if resp, body := ask(t, c); resp.StatusCode != http.StatusOK {
				t.Fatalf("%s %s", resp.Status, body)
			}
			other := w.dial(otherIP)
			ask(t, other)
			w.assign("next", w.demo, v1.AssignedIDAssigned)
			happens(w)
			if err := c.SetReadDeadline(time.Now().Add(30 * time.Second)); err != nil {
				t.Fatal(err)
			}
			if n, err := c.Read(make([]byte, 1)); !errors.Is(err, io.EOF) && !strings.Contains(fmt.Sprint(err), "reset") {
				t.Errorf("read %d bytes, %v; want the end", n, err)
			}
			if _, _, err := tryAsk(c); err == nil {
				t.Error("an answer on the dead pod's connection")
			}
			if resp, _ := ask(t, other); resp.StatusCode == 0 {
				t.Error("another pod's connection was cut")
			}
		})
	}
}

func soonGone(p *corev1.Pod) { p.DeletionTimestamp = &metav1.Time{Time: time.Now().Add(time.Minute)} }

// TestAddressOfAnotherPod: when a request comes before the connection could be cut,
// it is not answered as the new pod's.
func TestAddressOfAnotherPod(t *testing.T) {
	w := newWorld(t, nil)
	w.assign("web", w.demo, v1.AssignedIDAssigned)
	foreign := &conn{all: w.server.conns, origin: &origin{address: addressOf(&net.TCPAddr{IP: net.ParseIP(webIP)})}}
	if !foreign.belongs("uid-of-the-one-before") || foreign.belongs("uid-web") {
		t.Fatal("a connection belongs to several pods")
	}
	r, err := http.NewRequestWithContext(context.WithValue(t.Context(), connKey{}, foreign), http.MethodGet, "http://nmi"+tokenURL, nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Metadata", "true")
	rec := &answer{header: http.Header{}}
	w.server.ServeHTTP(rec, r)
	if rec.status != 503 || rec.header.Get("Connection") != "close" || rec.header.Get("Retry-After") == "" || strings.Contains(rec.body.String(), "access_token") {
		t.Errorf("status %d, %v, %s", rec.status, rec.header, rec.body.String())
	}
}

type answer struct {
	header http.Header
	status int
	body   strings.Builder
}

func (a *answer) Header() http.Header         { return a.header }
func (a *answer) WriteHeader(status int)      { a.status = status }
func (a *answer) Write(b []byte) (int, error) { return a.body.Write(b) }

func TestSevered(t *testing.T) {
	pod := podindex.View{Pod: &podindex.Pod{UID: "a"}}
	tests := map[string]struct {
		now  podindex.View
		err  error
		want bool
	}{
		"the same pod":        {now: pod},
		"another pod":         {now: podindex.View{Pod: &podindex.Pod{UID: "b"}}, want: true},
		"nobody":              {err: podindex.ErrUnknown, want: true},
		"two pods":            {err: podindex.ErrAmbiguous},
		"one may have gone":   {err: podindex.ErrUncertain},
		"pods are not known":  {err: podindex.ErrNotSynced},
		"a wrapped not found": {err: fmt.Errorf("x: %w", podindex.ErrUnknown), want: true},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			if got := severed("a", tc.now, tc.err); got != tc.want {
				t.Errorf("severed = %v", got)
			}
		})
	}
}

// TestRetiredServerLetsClientsMoveOn: after a handover, connections are answered
// and closed, and no idle one is closed under a client's hands.
func TestRetiredServerLetsClientsMoveOn(t *testing.T) {
	w := newWorld(t, nil)
	w.assign("web", w.demo, v1.AssignedIDAssigned)
	c := w.dial(webIP)
	if resp, _ := ask(t, c); resp.StatusCode != http.StatusOK || resp.Close {
		t.Fatalf("%s, close %v", resp.Status, resp.Close)
	}
	close(w.retired)
	eventually(t, "no more connections", func() bool {
		d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(webIP)}}
		n, err := d.DialContext(t.Context(), "tcp", w.address)
		if err == nil {
			_ = n.Close()
		}
		return err != nil
	})
	if resp, body := ask(t, c); resp.StatusCode != http.StatusOK || !resp.Close {
		t.Errorf("on the old connection: %s, close %v, %s", resp.Status, resp.Close, body)
	}
}
