package server

import (
	"context"
	"errors"
	"net/http"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"

	v1 "github.com/aad-pod-identity/aad-pod-identity/api/v1"
	"github.com/aad-pod-identity/aad-pod-identity/nmi/podindex"
	"github.com/aad-pod-identity/aad-pod-identity/nmi/token"
)

// IMDS learns of an assignment seconds after ARM has carried it out. Within imdsLag it is
// asked again whether it knows the identity by now: SDKs take its refusal for final. The
// cache of refusals spaces the questions.
const (
	imdsLag     = time.Minute
	imdsLagPoll = time.Second
)

// acquireAssigned is acquire for a pod whose identity may have become Assigned a moment
// ago. It waits for IMDS as long as it may be waited for MIC.
func (s *Server) acquireAssigned(ctx context.Context, pod *podindex.Pod, id *v1.AzureIdentity, requests []token.Request, w *waits) ([]token.Token, error) {
	tokens, err := s.acquire(ctx, id, requests)
	tooEarly := func() bool { return err != nil && unknownToIMDS(id, err) && s.justAssigned(pod, id) }
	if !tooEarly() {
		return tokens, err // nearly always
	}
	s.metrics.Waiters.Inc()
	defer s.metrics.Waiters.Dec()
	if w.lag.IsZero() {
		w.lag = time.Now().Add(s.o.Waiting.Assigned)
	}
	patience := time.NewTimer(time.Until(w.lag))
	defer patience.Stop()
	again := time.NewTicker(imdsLagPoll)
	defer again.Stop()
	for tooEarly() {
		select {
		case <-again.C:
		case <-patience.C:
			return nil, err
		case <-s.draining:
			return nil, ending()
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		tokens, err = s.acquire(ctx, id, requests)
	}
	return tokens, err
}

// unknownToIMDS says whether IMDS does not know that the identity is on its VM.
func unknownToIMDS(id *v1.AzureIdentity, err error) bool {
	var e *token.Error
	return id.Spec.Type == v1.UserAssignedMSI && errors.As(err, &e) && e.Status == http.StatusBadRequest && e.Description == "Identity not found"
}

// justAssigned says whether MIC has said within imdsLag that the pod's identity is on the
// VM. The clocks of two nodes may differ.
func (s *Server) justAssigned(pod *podindex.Pod, id *v1.AzureIdentity) bool {
	now, err := s.pods.ByName(pod.Key())
	if err != nil {
		return false
	}
	for _, a := range now.Assigned {
		if a.Spec.AzureIdentityRef == nil || !sameIdentity(id, a.Spec.AzureIdentityRef) {
			continue
		}
		c := meta.FindStatusCondition(a.Status.Conditions, v1.ConditionAssigned)
		if c != nil && time.Since(c.LastTransitionTime.Time).Abs() < imdsLag {
			return true
		}
	}
	return false
}
