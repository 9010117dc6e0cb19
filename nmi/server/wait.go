package server

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	v1 "github.com/aad-pod-identity/aad-pod-identity/api/v1"
	"github.com/aad-pod-identity/aad-pod-identity/internal/redact"
	"github.com/aad-pod-identity/aad-pod-identity/nmi/podindex"
)

// Waiting bounds how long a request waits for MIC, counted from its start.
type Waiting struct {
	// Created is how long an AzureAssignedIdentity may take to appear.
	Created time.Duration
	// Assigned is how much longer its assignment may take.
	Assigned time.Duration
}

// identity returns the identity that the pod may use and asks for, waiting until
// it is assigned. The wait ends with the answer, the client, the bound, the pod,
// or NMI's own end, whichever comes first.
func (s *Server) identity(ctx context.Context, v podindex.View, sel selector) (*v1.AzureIdentity, error) {
	start := time.Now()
	var bound *time.Timer
	var expired <-chan time.Time
	var waiting prometheus.Gauge // set while this request waits
	uid, key := v.Pod.UID, v.Pod.Key()
	for {
		changed := s.pods.Changed(key)
		now, err := s.pods.ByName(key)
		if err != nil {
			return nil, err
		}
		if now.Pod.UID != uid {
			return nil, podindex.ErrUnknown // the caller is gone; this is its successor
		}
		if now.Pod.Labels[v1.BindingLabelKey] == "" {
			// No binding selects it, so there is nothing to wait for.
			return nil, s.noIdentity(fmt.Sprintf("pod %s has no label %s, so no AzureIdentityBinding gives it an azure identity", now.Pod, v1.BindingLabelKey))
		}
		c := choose(now, sel, s.o.ForceNamespaced)
		if c.progress == progressAssigned {
			if n := noteOf(ctx); n != nil {
				n.identity = c.identity
			}
			return c.identity, nil
		}
		limit := s.o.Waiting.Created
		switch {
		case now.Pod.Labels[v1.BindingLabelKey] == "":
			limit = 0 // no binding can select it, so there is nothing to wait for
		case c.progress == progressCreated:
			limit += s.o.Waiting.Assigned
		}
		left := limit - time.Since(start)
		if left <= 0 {
			return nil, s.notAssigned(v.Pod, sel, c, limit)
		}
		if bound == nil {
			bound = time.NewTimer(left)
			defer bound.Stop()
			expired = bound.C
		} else {
			bound.Reset(left)
		}
		if waiting == nil {
			waiting = s.metrics.Waiters
			waiting.Inc()
			defer waiting.Dec()
			if s.o.Tracer != nil {
				defer s.spanSince(ctx, spanWaiting, time.Now())
			}
		}
		select {
		case <-changed:
		case <-expired:
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-s.draining:
			return nil, &apiError{
				status: http.StatusServiceUnavailable, code: "temporarily_unavailable",
				description: "NMI is restarting; try again", retryAfter: time.Second, cause: errEnding,
			}
		}
	}
}

// still checks that the pod is the same and may use the identity now.
func (s *Server) still(pod *podindex.Pod, id *v1.AzureIdentity) error {
	now, err := s.pods.ByName(pod.Key())
	if err != nil {
		return err
	}
	if now.Pod.UID != pod.UID {
		return podindex.ErrUnknown
	}
	if c := choose(now, selector{same: id}, s.o.ForceNamespaced); c.progress != progressAssigned {
		return s.noIdentity(fmt.Sprintf("azure identity %s/%s was withdrawn from pod %s", id.Namespace, id.Name, pod))
	}
	return nil
}

// notAssigned is the answer when the bound is reached.
func (s *Server) notAssigned(pod *podindex.Pod, sel selector, c choice, waited time.Duration) error {
	asked := ""
	switch {
	case sel.clientID != "":
		asked = " with clientID " + redact.ClientID(sel.clientID)
	case sel.resourceID != "":
		asked = " with the requested resource ID"
	case sel.objectID != "":
		asked = " with the requested object ID"
	}
	text := fmt.Sprintf("no azure identity%s found for pod %s after %s: no AzureIdentityBinding gives it one, or MIC has not seen it yet; check MIC's log", asked, pod, waited)
	if pod.Labels[v1.BindingLabelKey] == "" {
		text = fmt.Sprintf("no azure identity found for pod %s: it has no label %s, by which an AzureIdentityBinding would select it", pod, v1.BindingLabelKey)
	} else if s.pods.Managed() {
		text = fmt.Sprintf("no azure identity%s found for pod %s: no AzureIdentityBinding of its namespace with the selector %q gives it one", asked, pod, pod.Labels[v1.BindingLabelKey])
	} else if c.progress == progressCreated {
		text = fmt.Sprintf("the azure identity%s of pod %s was not assigned to the node within %s; check MIC's log and the events of the pod", asked, pod, waited)
	} else if c.refused != "" {
		text = fmt.Sprintf("no azure identity%s found for pod %s after %s: an AzureAssignedIdentity exists, but %s", asked, pod, waited, c.refused)
	}
	return s.noIdentity(text)
}

func (s *Server) noIdentity(text string) error {
	e := &apiError{status: http.StatusNotFound, code: codeUnassigned, description: text}
	if s.o.SetRetryAfter {
		e.status, e.retryAfter = http.StatusServiceUnavailable, retryAfterUnassigned
	}
	return e
}
