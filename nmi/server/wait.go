package server

import (
	"context"
	"fmt"
	"net/http"
	"time"

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

// waits are those of one request, which may have to wait several times: they are
// bounded together.
type waits struct {
	start time.Time // of the request, from which on it waits for MIC
	lag   time.Time // until when it waits for IMDS; zero until it has to
}

// identity returns the identity that the pod may use and asks for, waiting until
// it is assigned.
func (s *Server) identity(ctx context.Context, v podindex.View, sel selector, w *waits) (*v1.AzureIdentity, error) {
	c, err := s.chosen(v, sel) // nearly always all that is needed
	if err == nil && c.progress != progressAssigned {
		c, err = s.await(ctx, v.Pod, sel, w.start)
	}
	if err != nil {
		return nil, err
	}
	if n := noteOf(ctx); n != nil {
		n.identity = c.identity
	}
	return c.identity, nil
}

// chosen decides by what is known of a pod. No binding selects one without the label,
// so there is nothing to wait for.
func (s *Server) chosen(v podindex.View, sel selector) (choice, error) {
	if v.Pod.Labels[v1.BindingLabelKey] == "" {
		return choice{}, s.noIdentity(fmt.Sprintf("pod %s has no label %s, so no AzureIdentityBinding gives it an azure identity", v.Pod, v1.BindingLabelKey))
	}
	return choose(v, sel, s.o.ForceNamespaced), nil
}

// await waits for MIC. The wait ends with the answer, the client, the bound, the pod,
// or NMI's own end, whichever comes first. The bound counts from start.
func (s *Server) await(ctx context.Context, pod *podindex.Pod, sel selector, start time.Time) (choice, error) {
	var bound *time.Timer
	for {
		// Taken before the look-up, so that no change between the two is missed.
		changed := s.pods.Changed(pod.Key())
		now, err := s.pods.ByName(pod.Key())
		if err != nil {
			return choice{}, err
		}
		if now.Pod.UID != pod.UID {
			return choice{}, podindex.ErrUnknown // the caller is gone; this is its successor
		}
		c, err := s.chosen(now, sel)
		if err != nil || c.progress == progressAssigned {
			return c, err
		}
		limit := s.o.Waiting.Created
		if c.progress == progressCreated {
			limit += s.o.Waiting.Assigned
		}
		left := limit - time.Since(start)
		if left <= 0 {
			return choice{}, s.notAssigned(now.Pod, sel, c, limit)
		}
		if bound == nil {
			bound = time.NewTimer(left)
			defer bound.Stop()
			s.metrics.Waiters.Inc()
			defer s.metrics.Waiters.Dec()
			if s.o.Tracer != nil {
				defer s.spanSince(ctx, spanWaiting, time.Now())
			}
		}
		bound.Reset(left)
		select {
		case <-changed:
		case <-bound.C:
		case <-ctx.Done():
			return choice{}, ctx.Err()
		case <-s.draining:
			return choice{}, ending()
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
	if s.pods.Managed() {
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
