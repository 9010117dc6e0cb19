package server

import (
	"context"
	"errors"
	"net/http"
	"net/netip"
	"strconv"
	"time"

	"go.opentelemetry.io/otel/trace"
	"k8s.io/klog/v2"

	v1 "github.com/aad-pod-identity/aad-pod-identity/api/v1"
	"github.com/aad-pod-identity/aad-pod-identity/internal/logkey"
	"github.com/aad-pod-identity/aad-pod-identity/internal/redact"
	"github.com/aad-pod-identity/aad-pod-identity/nmi/podindex"
	"github.com/aad-pod-identity/aad-pod-identity/nmi/token"
)

// note collects what is learnt about a request while it is served, for the log
// and the metrics.
type note struct {
	route    route
	pod      *podindex.Pod
	resource string
	identity *v1.AzureIdentity // that the pod may use
	trace    token.Trace
	err      error
}

type noteKey struct{}

func noteOf(ctx context.Context) *note {
	n, _ := ctx.Value(noteKey{}).(*note)
	return n
}

// observe serves a request, then writes what came of it to log and metrics, also
// when the answer had to be broken off.
func (s *Server) observe(w http.ResponseWriter, r *http.Request, serve func(http.ResponseWriter, *http.Request, *note) error, rt route) {
	n := &note{route: rt}
	r = r.WithContext(context.WithValue(r.Context(), noteKey{}, n))
	rec := &recorder{ResponseWriter: w}
	if s.o.Tracer != nil {
		var span trace.Span
		r, span = s.startSpan(r, n.route)
		defer func() { endSpan(span, rec.status, n) }()
	}
	defer s.record(rec, r, n, time.Now())
	if err := serve(rec, r, n); err != nil {
		n.err = err
		if errors.Is(err, errForeignConnection) {
			rec.Header().Set("Connection", "close")
		}
		respondError(rec, err)
	}
}

func (s *Server) record(rec *recorder, r *http.Request, n *note, start time.Time) {
	took := time.Since(start)
	s.logFailure(rec.status, r, n, start)
	if n.route != routeSelfTest {
		s.guide.answered(rec.status, took, r)
	}
	s.decision(rec.status, r, n, took)
	namespace := ""
	if n.pod != nil {
		namespace = n.pod.Namespace
	}
	s.metrics.OperationDuration.WithLabelValues(n.route.String(), strconv.Itoa(rec.status), namespace, resourceLabel(n.resource)).Observe(took.Seconds())
}

// logFailure writes why a request was not answered as it was meant to be. Repeated
// ones are sampled.
func (s *Server) logFailure(status int, r *http.Request, n *note, now time.Time) {
	if n.err == nil || status == statusClientGone {
		return
	}
	reason := reasonFor(n.err, status)
	s.metrics.Refusals.WithLabelValues(reason).Inc()
	write, leftOut := s.samples.take(repeated{source(r), reason}, now)
	if !write {
		return
	}
	log := klog.FromContext(r.Context()).WithValues(logkey.Pod, n.podName(), logkey.Source, source(r).String(), logkey.Status, status)
	if leftOut > 0 {
		log = log.WithValues(logkey.LeftOut, leftOut)
	}
	if n.route.forToken() && status != http.StatusBadRequest || status >= http.StatusInternalServerError {
		// A pod did not get the token it asked for properly: what people look
		// for among the errors.
		log.Error(n.err, "Request failed")
	} else {
		log.Info("Request refused", logkey.Reason, n.err.Error())
	}
}

// logExcepted writes that a pod is given the node's own managed identity.
func (s *Server) logExcepted(r *http.Request, pod *podindex.Pod) {
	write, leftOut := s.samples.take(repeated{source(r), outcomePassed}, time.Now())
	if !write {
		return
	}
	log := klog.FromContext(r.Context()).WithValues(logkey.Pod, pod.String())
	if leftOut > 0 {
		log = log.WithValues(logkey.LeftOut, leftOut)
	}
	log.Info("Passing an excepted pod's token request to the node's own managed identity")
}

// repeated is what a pod can get again and again: a refusal, or as an excepted pod an
// answer.
type repeated struct {
	source netip.Addr
	reason string
}

// Outcomes of a request in its record, besides the reasons of refusals.
const (
	outcomeToken  = "token"
	outcomePassed = "passed_on"
	outcomeLeft   = "client_gone"
)

// recordVerbosity is from when on each request has a record in the log.
const recordVerbosity = 2

// decision writes the record of a request: who asked for what, and what came of
// it. It holds no token and no full client ID.
func (s *Server) decision(status int, r *http.Request, n *note, took time.Duration) {
	log := klog.FromContext(r.Context())
	if !s.o.Records {
		if log = log.V(recordVerbosity); !log.Enabled() {
			return
		}
	}
	log = log.WithValues(logkey.Pod, n.podName(), logkey.Source, source(r).String(), logkey.Operation, n.route.String(),
		logkey.Status, status, logkey.Outcome, n.outcome(status), logkey.Duration, took.String())
	if n.resource != "" {
		log = log.WithValues(logkey.Resource, harmless(n.resource))
	}
	if n.identity != nil {
		log = log.WithValues(logkey.Identity, n.identity.Namespace+"/"+n.identity.Name, logkey.ClientID, redact.ClientID(n.identity.Spec.ClientID))
	}
	if cache := n.trace.Cache(); cache != "" {
		log = log.WithValues(logkey.Cache, cache)
	}
	if id := n.trace.RequestID(); id != "" {
		log = log.WithValues(logkey.RequestID, harmless(id))
	}
	log.Info("Decision")
}

// outcome is what came of a request.
func (n *note) outcome(status int) string {
	switch {
	case status == statusClientGone:
		return outcomeLeft
	case n.err != nil:
		return reasonFor(n.err, status)
	case n.identity != nil:
		return outcomeToken
	}
	return outcomePassed
}

func (n *note) podName() string {
	if n.pod == nil {
		return ""
	}
	return n.pod.String()
}

// recorder remembers the status of the answer.
type recorder struct {
	http.ResponseWriter
	status int
}

// WriteHeader implements http.ResponseWriter.
func (r *recorder) WriteHeader(status int) {
	if r.status == 0 || r.status < http.StatusOK {
		r.status = status
	}
	r.ResponseWriter.WriteHeader(status)
}

// Write implements http.ResponseWriter.
func (r *recorder) Write(b []byte) (int, error) {
	if r.status == 0 {
		r.status = http.StatusOK
	}
	// A client that does not read is cut off, whatever the request itself may
	// take. Not every writer has a deadline, and the server's own holds then.
	_ = http.NewResponseController(r.ResponseWriter).SetWriteDeadline(time.Now().Add(writeTimeout))
	return r.ResponseWriter.Write(b)
}

// Unwrap lets http.ResponseController reach the connection.
func (r *recorder) Unwrap() http.ResponseWriter { return r.ResponseWriter }
