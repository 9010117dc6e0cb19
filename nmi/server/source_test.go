package server

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil"

	v1 "github.com/aad-pod-identity/aad-pod-identity/api/v1"
	"github.com/aad-pod-identity/aad-pod-identity/nmi/sourceroute"
)

// TestConnectionsFromElsewhere: what comes on a connection whose source address is not
// trusted is refused, on every path that is for pods, and asked once a connection.
func TestConnectionsFromElsewhere(t *testing.T) {
	var checks atomic.Int32
	w := newWorld(t, func(o *Options) {
		o.CheckSource = func(_ context.Context, conn net.Conn) error {
			checks.Add(1)
			if _, ok := conn.(*net.TCPConn); !ok {
				t.Error("it is not given the connection of the kernel")
			}
			if strings.HasPrefix(conn.RemoteAddr().String(), otherIP+":") {
				return fmt.Errorf("%w: it came in on interface 7", sourceroute.ErrSource)
			}
			return nil
		}
	})
	for _, pod := range []string{"web", "other"} {
		w.assign(pod, w.demo, v1.AssignedIDAssigned)
	}
	for _, path := range []string{tokenURL, "/metadata/instance?api-version=2021-02-01", "/metadata/identity/oauth2", "/metadata/scheduledevents"} {
		if r := w.get(otherIP, path, nil); r.status != http.StatusForbidden || r.oauth.Code != "source_not_verified" || strings.Contains(r.body, "interface") {
			t.Errorf("%s: status %d, %s", path, r.status, r.body)
		}
	}
	if n := testutil.ToFloat64(w.server.metrics.Refusals.WithLabelValues(reasonSource)); n != 4 {
		t.Errorf("%v refusals", n)
	}
	checks.Store(0)
	client := w.client(webIP)
	for range 3 {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://169.254.169.254"+tokenURL, nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Metadata", "true")
		resp, err := client.Do(r)
		if err != nil || resp.StatusCode != http.StatusOK {
			t.Fatalf("an honest pod: %v, %v", resp, err)
		}
		if _, err := io.Copy(io.Discard, resp.Body); err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
	}
	if n := checks.Load(); n != 1 {
		t.Errorf("%d checks of one connection", n)
	}
}
