package model

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/record"
	"k8s.io/klog/v2"
	"k8s.io/klog/v2/textlogger"

	"github.com/aad-pod-identity/aad-pod-identity/internal/azure/arm"
	"github.com/aad-pod-identity/aad-pod-identity/internal/azure/cloud"
	"github.com/aad-pod-identity/aad-pod-identity/internal/metric"
	"github.com/aad-pod-identity/aad-pod-identity/mic/compute"
	"github.com/aad-pod-identity/aad-pod-identity/mic/controller"
)

// Errors of calls that a gate does not let through.
var (
	errDead        = errors.New("this MIC was killed")
	errUnreachable = errors.New("connection refused by the test")
)

// gate is what all calls of one MIC pass. It counts those that matter, all to ARM
// and the writes to the API server, and is where MIC is killed: none of them passes
// after that, which is what a SIGKILL does and the end of a context does not.
type gate struct {
	died func()

	mu    sync.Mutex
	calls []string
	// killAt is the number of the call to die at, 0 for none.
	killAt int
	after  bool
	dead   bool
	// refuse is how many calls to the API server fail.
	refuse int
}

// killSoon lets MIC die before or after the n-th call from now.
func (g *gate) killSoon(n int, after bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.killAt, g.after = len(g.calls)+n, after
}

func (g *gate) refuseNext(n int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.refuse = n
}

// kill lets nothing pass any more.
func (g *gate) kill() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.dead = true
	g.died()
}

func (g *gate) isDead() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.dead
}

func (g *gate) list() []string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return append([]string(nil), g.calls...)
}

// enter says whether a call passes, and whether MIC dies of its answer.
func (g *gate) enter(r *http.Request, toARM bool) (last bool, err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !toARM && r.Method == http.MethodGet {
		return false, nil
	}
	if g.dead {
		return false, errDead
	}
	g.calls = append(g.calls, r.Method+" "+r.URL.Path)
	if len(g.calls) == g.killAt {
		if g.after {
			return true, nil
		}
		g.dead = true
		g.died()
		return false, errDead
	}
	if !toARM && g.refuse > 0 {
		g.refuse--
		return false, errUnreachable
	}
	return false, nil
}

// gated is a connection behind a gate.
type gated struct {
	*gate
	next  http.RoundTripper
	toARM bool
}

// RoundTrip implements http.RoundTripper.
func (t gated) RoundTrip(r *http.Request) (*http.Response, error) {
	last, err := t.enter(r, t.toARM)
	if err != nil {
		return nil, err
	}
	response, err := t.next.RoundTrip(r)
	if last {
		t.kill()
	}
	if err == nil && t.isDead() && (t.toARM || r.Method != http.MethodGet) {
		_ = response.Body.Close() // nobody will read it
		return nil, errDead
	}
	return response, err
}

// process is a running MIC, wired as in its main package but for short times, no
// leader lock and no events.
type process struct {
	*gate
	cancel func()
	ended  chan error
	log    *tail
}

// hurry makes MIC's waits shorter. All of them but those that Azure asks for are
// spread through it.
func hurry(d time.Duration) time.Duration { return d / 20 }

// pace says how often MIC looks at what nobody changed, and how long it waits after
// a refusal, both before hurry.
type pace struct {
	verify  time.Duration
	backoff compute.Backoff
}

var (
	brisk = pace{2 * time.Second, compute.Backoff{Quick: 1, Interval: time.Second, First: 2 * time.Second, Max: 4 * time.Second}}
	// calm does nothing without a reason, so that calls can be counted.
	calm = pace{1000 * time.Hour, compute.Backoff{First: 1000 * time.Hour, Max: 1000 * time.Hour}}
)

func start(config *rest.Config, azure *cloud.Cloud, at pace) (*process, error) {
	p := &process{gate: &gate{}, ended: make(chan error, 1), log: &tail{}}
	logger := textlogger.NewLogger(textlogger.NewConfig(textlogger.Output(p.log)))
	ctx, cancel := context.WithCancel(klog.NewContext(context.Background(), logger))
	config = rest.CopyConfig(config)
	config.Wrap(func(next http.RoundTripper) http.RoundTripper { return gated{p.gate, next, false} })
	behind := *azure
	behind.HTTP = &http.Client{Transport: gated{p.gate, azure.HTTP.Transport, true}}
	live, err := controller.NewLiveClient(config)
	if err != nil {
		cancel()
		return nil, fmt.Errorf("starting MIC: %w", err)
	}
	options := arm.ClientOptions(&behind, arm.NewBudget(), "model")
	options.Retry.RetryDelay = time.Millisecond
	engine := compute.NewEngine(compute.LedgerStore{Client: live, Namespace: micNamespace}, compute.NewClient(behind.Credential, options, nil), compute.Options{
		VerifyInterval: at.verify, Jitter: hurry, Backoff: at.backoff,
		Immutable: func(resourceID, _ string) bool { return strings.HasSuffix(strings.ToLower(resourceID), "/"+fixed) },
	})
	controllers, err := controller.New(ctx, config, live, engine, controller.Options{
		Namespace: micNamespace, Parallel: 20, SkipNameValidation: true,
		Metrics: metric.NewMIC(prometheus.NewRegistry()), Recorder: &record.FakeRecorder{},
	})
	if err != nil {
		cancel()
		return nil, fmt.Errorf("starting MIC: %w", err)
	}
	p.cancel, p.died = cancel, cancel
	go func() { p.ended <- controllers.Run(ctx) }()
	return p, nil
}

// stop ends MIC as SIGTERM does, and waits for it.
func (p *process) stop() error {
	p.cancel()
	if err := <-p.ended; err != nil && !errors.Is(err, context.Canceled) && !p.isDead() {
		return fmt.Errorf("MIC ended: %w", err)
	}
	return nil
}

// tail keeps the end of a log.
type tail struct {
	mu  sync.Mutex
	log bytes.Buffer
}

const tailSize = 1 << 16

// Write implements io.Writer.
func (t *tail) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.log.Len() > tailSize {
		t.log.Next(tailSize / 2)
	}
	return t.log.Write(b)
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.log.String()
}
