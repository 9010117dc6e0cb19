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
	"time"

	"golang.org/x/sync/errgroup"
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
}

// Server answers the requests of one node's pods.
type Server struct {
	o       Options
	pods    *podindex.Index
	tokens  token.Source
	metrics *metric.NMI
	forward *httputil.ReverseProxy
	guide   guideLog
	// objectIDs are those found out, by token.Key without a resource.
	objectIDs *lru.Cache
	habits    *habits

	drainOnce sync.Once
	draining  chan struct{} // closed when NMI is about to end
}

// New makes a server. Transport leads to the real service; it must not use a
// proxy.
func New(o Options, pods *podindex.Index, tokens token.Source, m *metric.NMI, transport http.RoundTripper) *Server {
	return &Server{
		o: o, pods: pods, tokens: tokens, metrics: m,
		forward: newProxy(o.Metadata, transport), guide: newGuideLog(), draining: make(chan struct{}),
		objectIDs: lru.New(maxObjectIDs), habits: newHabits(),
	}
}

// ServeHTTP implements http.Handler.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	rt := classify(r.URL.Path)
	if !ordinary(r) {
		rt = routeInvalid
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
	case routeInvalid:
		serve = func(http.ResponseWriter, *http.Request, *note) error { return invalidRequest("Invalid request") }
	}
	s.observe(w, r, serve, rt)
}

// Limits on what a client can hold.
const (
	headerTimeout = 5 * time.Second
	readTimeout   = 30 * time.Second
	idleTimeout   = 2 * time.Minute
	maxHeader     = 32 << 10
	// answerTime is what an answer may take besides waiting for MIC: the wait
	// for the caller, IMDS with its retries, a passed-on request, a slow client.
	answerTime = proxyTimeout + 30*time.Second
	// drainTime is how long requests under way may go on when NMI ends; below
	// the 30 s that the kubelet gives a pod.
	drainTime = 20 * time.Second
)

// Serve answers on the listeners until ctx ends, then lets requests under way
// finish and turns those that wait for MIC away, to come back to the next NMI.
func (s *Server) Serve(ctx context.Context, listeners []net.Listener) error {
	srv := &http.Server{
		Handler:           s,
		ReadHeaderTimeout: headerTimeout,
		ReadTimeout:       readTimeout,
		WriteTimeout:      s.o.Waiting.Created + s.o.Waiting.Assigned + answerTime,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeader,
		// Requests outlive ctx by the drain; its values, such as the logger, hold.
		BaseContext: func(net.Listener) context.Context { return context.WithoutCancel(ctx) },
	}
	var g errgroup.Group
	failed, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	for _, l := range listeners {
		g.Go(func() error {
			if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
				err = fmt.Errorf("serving on %s: %w", l.Addr(), err)
				fail(err)
				return err
			}
			return nil
		})
	}
	<-failed.Done()
	s.drainOnce.Do(func() { close(s.draining) })
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainTime)
	defer cancel()
	err := srv.Shutdown(grace)
	if err != nil {
		err = errors.Join(fmt.Errorf("finishing requests: %w", err), srv.Close())
	}
	return errors.Join(err, g.Wait())
}
