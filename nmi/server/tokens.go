package server

import (
	"context"
	"fmt"
	"net/http"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/klog/v2"

	v1 "github.com/aad-pod-identity/aad-pod-identity/api/v1"
	"github.com/aad-pod-identity/aad-pod-identity/internal/logkey"
	"github.com/aad-pod-identity/aad-pod-identity/nmi/podindex"
	"github.com/aad-pod-identity/aad-pod-identity/nmi/token"
)

const tokenContentType = "application/json"

// serveToken answers a pod.
func (s *Server) serveToken(w http.ResponseWriter, r *http.Request, note *note) error {
	// Before anything that can wait: SDKs probe without the header, with one
	// second of patience, to find out whether a service is there.
	if s.o.MetadataHeaderRequired {
		if err := requireMetadata(r.Header); err != nil {
			return err
		}
	}
	q, err := parseQuery(r.URL.RawQuery)
	if err != nil {
		return err
	}
	note.resource = q.resource
	v, err := s.caller(r)
	if err != nil {
		return err
	}
	note.pod = v.Pod
	if s.bypassed(v) {
		klog.FromContext(r.Context()).Info("Passing an excepted pod's token request to the node's own managed identity", logkey.Pod, v.Pod.String())
		return s.proxy(w, r)
	}
	t, _, err := s.tokenFor(r.Context(), v, q)
	if err != nil {
		return err
	}
	respondJSON(w, http.StatusOK, tokenContentType, t)
	return nil
}

// serveHostToken answers a process of the node, such as a CSI driver, that asks
// on behalf of a pod.
func (s *Server) serveHostToken(w http.ResponseWriter, r *http.Request, note *note) error {
	if !s.o.HostToken {
		return forbidden(hostPath + " is turned off")
	}
	if !fromHost(r) {
		return forbidden("request remote address is not from a host")
	}
	pod := types.NamespacedName{Namespace: r.Header.Get("podns"), Name: r.Header.Get("podname")}
	if pod.Namespace == "" || pod.Name == "" {
		return invalidRequest("missing 'podname' and 'podns' from request header")
	}
	q, err := parseQuery(r.URL.RawQuery)
	if err != nil {
		return err
	}
	note.resource = q.resource
	v, err := s.named(r.Context(), pod)
	if err != nil {
		return err
	}
	note.pod = v.Pod
	t, clientID, err := s.tokenFor(r.Context(), v, q)
	if err != nil {
		return err
	}
	respondJSON(w, http.StatusOK, tokenContentType, struct {
		Token    token.Token `json:"token"`
		ClientID string      `json:"clientid"`
	}{t, clientID})
	return nil
}

// tokenFor decides which identity the pod gets, and only then asks for a token:
// the cache below gives a token to whoever asks.
func (s *Server) tokenFor(ctx context.Context, v podindex.View, q tokenQuery) (t token.Token, clientID string, err error) {
	id, err := s.identity(ctx, v, q.selector)
	if err != nil {
		return token.Token{}, "", err
	}
	if q.selector.empty() {
		s.guide.defaulted(v.Pod, id)
	}
	s.guide.matched(id, q.resource)
	if id.Spec.Type != v1.UserAssignedMSI {
		return token.Token{}, "", &apiError{
			status: http.StatusForbidden, code: "unsupported_identity_type",
			description: fmt.Sprintf("AzureIdentity %s/%s is of type %d, a service principal, for which this NMI has no tokens", id.Namespace, id.Name, id.Spec.Type),
		}
	}
	t, err = s.tokens.Token(ctx, token.Request{ClientID: id.Spec.ClientID, ResourceID: id.Spec.ResourceID, Resource: q.resource})
	if err != nil {
		return token.Token{}, "", fmt.Errorf("identity %s/%s: %w", id.Namespace, id.Name, err)
	}
	// IMDS can take more than a minute, in which the right may have been withdrawn.
	if err := s.still(v.Pod, id); err != nil {
		return token.Token{}, "", err
	}
	return t, id.Spec.ClientID, nil
}
