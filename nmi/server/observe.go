package server

import (
	"context"
	"net/http"
	"strconv"
	"time"

	"k8s.io/klog/v2"

	v1 "github.com/aad-pod-identity/aad-pod-identity/api/v1"
	"github.com/aad-pod-identity/aad-pod-identity/internal/logkey"
	"github.com/aad-pod-identity/aad-pod-identity/nmi/podindex"
)

// note collects what is learnt about a request while it is served, for the log
// and the metrics.
type note struct {
	route    route
	pod      *podindex.Pod
	resource string
	identity *v1.AzureIdentity // that the pod may use
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
	defer s.record(rec, r, n, time.Now())
	if err := serve(rec, r, n); err != nil {
		n.err = err
		respondError(rec, err)
	}
}

func (s *Server) record(rec *recorder, r *http.Request, n *note, start time.Time) {
	took := time.Since(start)
	namespace, pod := "", ""
	if n.pod != nil {
		namespace, pod = n.pod.Namespace, n.pod.String()
	}
	if n.err != nil && rec.status != statusClientGone {
		log := klog.FromContext(r.Context()).WithValues(logkey.Pod, pod, logkey.Source, source(r).String(), logkey.Status, rec.status)
		if n.route.forToken() && rec.status != http.StatusBadRequest || rec.status >= http.StatusInternalServerError {
			// A pod did not get the token it asked for properly: what people look
			// for among the errors.
			log.Error(n.err, "Request failed")
		} else {
			log.Info("Request refused", logkey.Reason, n.err.Error())
		}
	}
	s.guide.answered(rec.status, took, r)
	s.metrics.OperationDuration.WithLabelValues(n.route.String(), strconv.Itoa(rec.status), namespace, resourceLabel(n.resource)).Observe(took.Seconds())
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
	return r.ResponseWriter.Write(b)
}

// Unwrap lets http.ResponseController reach the connection.
func (r *recorder) Unwrap() http.ResponseWriter { return r.ResponseWriter }
