package tracing

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"time"

	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"
	"k8s.io/klog/v2"

	"github.com/aad-pod-identity/aad-pod-identity/internal/logkey"
)

const (
	// tryTimeout bounds one request to the collector.
	tryTimeout = 10 * time.Second
	// retries of a batch; meanwhile spans queue up, and what is beyond is dropped.
	retries    = 2
	retryPause = time.Second
	maxPause   = 10 * time.Second
	// maxAnswer is as much of an answer as is read, to use the connection again.
	maxAnswer = 64 << 10
	// quiet is how long an error is not said again.
	quiet = time.Minute
)

// retryStatus are the answers after which a batch may be sent again, by the
// specification of OTLP over HTTP.
var retryStatus = []int{http.StatusTooManyRequests, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout}

// client is an otlptrace.Client. A collector that fails costs traces and nothing else,
// so errors end in the log.
type client struct {
	log      klog.Logger
	endpoint string
	http     *http.Client

	mu   sync.Mutex
	said time.Time
	lost int // spans, since an error was said
}

func newClient(ctx context.Context, endpoint string, transport http.RoundTripper) *client {
	return &client{
		log: klog.FromContext(ctx), endpoint: endpoint,
		http: &http.Client{
			Transport: transport, Timeout: tryTimeout,
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	}
}

// Start implements otlptrace.Client.
func (*client) Start(context.Context) error { return nil }

// Stop implements otlptrace.Client.
func (c *client) Stop(context.Context) error {
	c.http.CloseIdleConnections()
	return nil
}

// UploadTraces implements otlptrace.Client.
func (c *client) UploadTraces(ctx context.Context, spans []*tracepb.ResourceSpans) error {
	// On the wire it is an ExportTraceServiceRequest, whose Go type links gRPC.
	body, err := proto.Marshal(&tracepb.TracesData{ResourceSpans: spans})
	if err == nil {
		err = c.deliver(ctx, body)
	}
	if err != nil {
		c.say(err, count(spans))
	}
	return nil
}

// deliver sends a batch, again if that may help.
func (c *client) deliver(ctx context.Context, body []byte) error {
	for try := 0; ; try++ {
		pause, err := c.send(ctx, body)
		if err == nil || pause == 0 || try == retries {
			return err
		}
		timer := time.NewTimer(min(pause, maxPause))
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return err
		}
	}
}

// send sends a batch once, and says after which pause it may be sent again.
func (c *client) send(ctx context.Context, body []byte) (again time.Duration, err error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, c.endpoint, bytes.NewReader(body))
	if err != nil {
		return 0, fmt.Errorf("building the request: %w", err)
	}
	r.Header.Set("Content-Type", "application/x-protobuf")
	resp, err := c.http.Do(r)
	if err != nil {
		return retryPause, err
	}
	defer func() { _ = resp.Body.Close() }()
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, maxAnswer))
	if resp.StatusCode/100 == 2 {
		return 0, nil
	}
	err = fmt.Errorf("the collector answered %s", resp.Status)
	if !slices.Contains(retryStatus, resp.StatusCode) {
		return 0, err
	}
	if seconds, wrong := strconv.Atoi(resp.Header.Get("Retry-After")); wrong == nil && seconds > 0 {
		return time.Duration(min(seconds, 3600)) * time.Second, err
	}
	return retryPause, err
}

// say logs an error, at most once in a while.
func (c *client) say(err error, lost int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.lost += lost
	now := time.Now()
	if !c.said.IsZero() && now.Sub(c.said) < quiet {
		return
	}
	c.log.Error(err, "Cannot send traces; they are lost", logkey.Count, c.lost)
	c.said, c.lost = now, 0
}

func count(spans []*tracepb.ResourceSpans) int {
	n := 0
	for _, r := range spans {
		for _, s := range r.GetScopeSpans() {
			n += len(s.GetSpans())
		}
	}
	return n
}
