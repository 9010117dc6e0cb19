package server

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"sync"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/trace"
	"golang.org/x/sync/errgroup"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/lru"

	"github.com/aad-pod-identity/aad-pod-identity/internal/metric"
	"github.com/aad-pod-identity/aad-pod-identity/nmi/podindex"
	"github.com/aad-pod-identity/aad-pod-identity/nmi/token"
)

// Options of a Server.
type Options struct {
	// Metadata is the URL of the real instance metadata service: scheme, host
	// and port.
	Metadata *url.URL
	// Waiting bounds how long a token request waits for MIC.
	Waiting Waiting
	// ForceNamespaced confines every identity to pods of its namespace.
	ForceNamespaced bool
	// MICNamespace and MICServiceAccount recognise MIC's own pods.
	MICNamespace, MICServiceAccount string
	// BlockInstanceMetadata refuses /metadata/instance.
	BlockInstanceMetadata bool
	// MetadataHeaderRequired refuses requests without the header Metadata: true.
	MetadataHeaderRequired bool
	// SetRetryAfter answers 503 with Retry-After, instead of 404, when a pod has
	// no identity (yet).
	SetRetryAfter bool
	// HostToken serves /host/token to processes of the node.
	HostToken bool
	// Limits bound what clients can hold.
	Limits Limits
	// Node is the name of this node.
	Node string
	// SelfTest is the service account of the self-test pods; empty for none.
	SelfTest types.NamespacedName
	// CheckSource says whether the source address of a pod's connection is to be
	// trusted, by an error that is sourceroute.ErrSource if not; nil trusts all.
	CheckSource func(context.Context, net.Conn) error
	// Tracer makes spans of requests; nil for none.
	Tracer trace.Tracer
	// Records writes a record of each request to the log whatever the verbosity.
	Records bool
}

// Server answers the requests of one node's pods.
type Server struct {
	o       Options
	pods    *podindex.Index
	tokens  token.Source
	metrics *metric.NMI
	forward *httputil.ReverseProxy
	guide   guideLog
	// Ways to the real service: of excepted pods, which MIC must not find full of
	// others, of what other pods ask about the node's identities, and of all else.
	excepted, asking, passing *gate

	conns   *connections
	samples *sampler[repeated]
	// objectIDs are those found out, by token.Key without a resource.
	objectIDs *lru.Cache
	habits    *habits

	selfTest  selfTest
	drainOnce sync.Once
	draining  chan struct{} // closed when NMI is about to end
	// retired is set once a successor has the listening sockets: clients are told
	// to connect again, and so come to it.
	retired atomic.Bool
}

// New makes a server. Transport leads to the real service; it must not use a
// proxy.
func New(o Options, pods *podindex.Index, tokens token.Source, m *metric.NMI, transport http.RoundTripper) *Server {
	o.Limits = o.Limits.orDefault()
	s := &Server{
		o: o, pods: pods, tokens: tokens, metrics: m,
		forward: newProxy(o.Metadata, transport), guide: newGuideLog(), draining: make(chan struct{}),
		excepted: newGate(passing, passingEach), asking: newGate(asking, askingEach), passing: newGate(passing, passingEach),
		samples: newSampler[repeated](), objectIDs: lru.New(maxObjectIDs), habits: newHabits(),
	}
	s.conns = newConnections(o.Limits, pods, func(reason string) { m.Refusals.WithLabelValues(reason).Inc() })
	return s
}

// Connections is the number of open connections.
func (s *Server) Connections() int { return s.conns.count() }

// ServeHTTP implements http.Handler.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	rt := classify(r.URL.Path)
	if !ordinary(r) {
		rt = routeInvalid
	}
	if s.o.SelfTest.Name != "" && r.URL.Path == SelfTestPath && rt == routeProxy {
		rt = routeSelfTest
	}
	serve := s.serveProxy
	switch rt {
	case routeToken:
		serve = s.serveToken
	case routeHost:
		serve = s.serveHostToken
	case routeInstance:
		serve = s.serveInstance
	case routeIdentity:
		serve = s.serveIdentity
	case routeSelfTest:
		serve = s.serveSelfTest
	case routeInvalid:
		serve = func(http.ResponseWriter, *http.Request, *note) error { return invalidRequest("Invalid request") }
	}
	if c := connOf(r.Context()); c != nil {
		defer c.origin.requests.Add(-1)
		if int(c.origin.requests.Add(1)) > s.o.Limits.RequestsPerPod {
			serve = func(http.ResponseWriter, *http.Request, *note) error { return tooManyRequests() }
		}
	}
	if s.retired.Load() {
		w.Header().Set("Connection", "close")
	}
	s.observe(w, r, serve, rt)
}

// Limits on how long a client can hold something.
const (
	headerTimeout = 5 * time.Second
	readTimeout   = 30 * time.Second
	idleTimeout   = 2 * time.Minute
	maxHeader     = 32 << 10
	// answerTime is what an answer may take besides waiting for MIC: the wait
	// for the caller, IMDS with its retries, a passed-on request, a slow client.
	answerTime = proxyTimeout + 30*time.Second
	// writeTimeout is how long a client may take for each part of an answer. The
	// server waits for the rest of a request's body before, up to readTimeout.
	writeTimeout = readTimeout + 10*time.Second
	// drainTime is how long requests under way may go on when NMI ends without a
	// successor; the next NMI of the node waits for that.
	drainTime = 20 * time.Second
	// retiredTime is how long they may go on when a successor serves already: as
	// long as requests wait for MIC by default. The chart's grace period is longer.
	retiredTime = 110 * time.Second
	// quietTime is how long after the handover idle connections stay open. Who
	// uses one in this time is answered and told to connect again; closing it
	// earlier could cross with a request.
	quietTime = 10 * time.Second
)

// Serve answers on the listeners that arrive until ctx ends, then lets requests
// under way finish. When retired is closed before, because a successor serves on
// the same sockets, it accepts no more and lets the connections that it has go on
// until ctx ends, and for longer.
func (s *Server) Serve(ctx context.Context, arriving <-chan net.Listener, retired <-chan struct{}) error {
	srv := &http.Server{
		Handler:           s,
		ReadHeaderTimeout: headerTimeout,
		ReadTimeout:       readTimeout,
		WriteTimeout:      s.o.Waiting.Created + s.o.Waiting.Assigned + answerTime,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeader,
		// Requests outlive ctx by the drain; its values, such as the logger, hold.
		BaseContext: func(net.Listener) context.Context { return context.WithoutCancel(ctx) },
		ConnContext: withConn,
		ConnState:   follow,
	}
	var g errgroup.Group
	failed, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	caring, stopCaring := context.WithCancel(context.WithoutCancel(ctx))
	defer stopCaring()
	g.Go(func() error { s.conns.cutForeign(caring); return nil })
	g.Go(func() error { s.forgetNamespaces(caring); return nil })

	var listeners []net.Listener
	handedOver := time.Time{}
	for failed.Err() == nil {
		select {
		case l := <-arriving:
			listeners = append(listeners, l)
			g.Go(func() error {
				err := srv.Serve(&listener{Listener: l, all: s.conns})
				if errors.Is(err, http.ErrServerClosed) || s.retired.Load() {
					return nil
				}
				err = fmt.Errorf("serving on %s: %w", l.Addr(), err)
				fail(err)
				return err
			})
		case <-retired:
			retired, handedOver = nil, time.Now()
			s.retired.Store(true)
			for _, l := range listeners {
				// Of the socket the successor has a copy; what waits on it is its.
				_ = l.Close()
			}
		case <-failed.Done():
		}
	}
	err := s.drain(ctx, srv, handedOver)
	stopCaring()
	err = errors.Join(err, g.Wait())
	s.conns.running.Wait()
	return err
}

// drain lets requests under way finish, as long as they may, and turns those away
// that wait for MIC even then, to come back to the next NMI.
func (s *Server) drain(ctx context.Context, srv *http.Server, handedOver time.Time) error {
	ctx = context.WithoutCancel(ctx)
	if !handedOver.IsZero() {
		idle := time.NewTimer(time.Until(handedOver.Add(quietTime)))
		defer idle.Stop()
		<-idle.C
		grace, cancel := context.WithTimeout(ctx, retiredTime-quietTime)
		defer cancel()
		if srv.Shutdown(grace) == nil {
			return nil
		}
	}
	s.drainOnce.Do(func() { close(s.draining) })
	grace, cancel := context.WithTimeout(ctx, drainTime)
	defer cancel()
	err := srv.Shutdown(grace)
	if err != nil {
		err = errors.Join(fmt.Errorf("finishing requests: %w", err), srv.Close())
	}
	return err
}
