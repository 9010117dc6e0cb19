package server

import (
	"context"
	"errors"
	"net/http"
	"time"

	"k8s.io/apimachinery/pkg/types"

	v1 "github.com/aad-pod-identity/aad-pod-identity/api/v1"
	"github.com/aad-pod-identity/aad-pod-identity/nmi/podindex"
	"github.com/aad-pod-identity/aad-pod-identity/nmi/token"
)

const tokenContentType = "application/json"

// serveToken answers a pod.
func (s *Server) serveToken(w http.ResponseWriter, r *http.Request, note *note) error {
	if r.Method != http.MethodGet {
		w.Header().Set("Allow", http.MethodGet)
		return &apiError{status: http.StatusMethodNotAllowed, code: "invalid_request", description: "tokens are got by GET"}
	}
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
		s.logExcepted(r, v.Pod)
		return s.proxyExcepted(w, r)
	}
	if err := dropBody(w, r); err != nil {
		return err
	}
	tokens, id, err := s.tokensFor(r.Context(), v, q, allTenants)
	note.identity = id
	if err != nil {
		return err
	}
	return respondTokens(w, tokens)
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
	tokens, id, err := s.tokensFor(r.Context(), v, q, ownTenant)
	note.identity = id
	if err != nil {
		return unassignedIsFinal(err)
	}
	respondJSON(w, http.StatusOK, tokenContentType, struct {
		Token    token.Token `json:"token"`
		ClientID string      `json:"clientid"`
	}{tokens[0], id.Spec.ClientID})
	return nil
}

// unassignedIsFinal answers 404 to a process of the node whatever pods are answered:
// --set-retry-after-header is for the SDKs in them.
func unassignedIsFinal(err error) error {
	var e *apiError
	if !errors.As(err, &e) || e.code != codeUnassigned {
		return err
	}
	final := *e
	final.status, final.retryAfter = http.StatusNotFound, 0
	return &final
}

// tenants are the tenants that tokens are asked of.
type tenants int

const (
	ownTenant  tenants = iota // the identity's own
	allTenants                // and its auxiliary tenants
)

// tokensFor decides which identity the pod gets, and only then asks for a token:
// the cache below gives a token to whoever asks. There is at least one token; the
// identity is the one decided on, also when there is none.
func (s *Server) tokensFor(ctx context.Context, v podindex.View, q tokenQuery, of tenants) ([]token.Token, *v1.AzureIdentity, error) {
	w := waits{start: time.Now()}
	var id *v1.AzureIdentity
	var err error
	if q.selector.objectID == "" {
		id, err = s.identity(ctx, v, q.selector, &w)
	} else {
		id, err = s.byObjectID(ctx, v, q, &w)
	}
	if err != nil {
		return nil, nil, err
	}
	if q.selector.empty() {
		s.guide.defaulted(v.Pod, id)
	}
	s.guide.matched(v.Pod, id, q.resource)
	requests, err := tokenRequests(id, q.resource)
	if err != nil {
		return nil, id, err
	}
	if of == ownTenant {
		requests = requests[:1]
	}
	tokens, err := s.acquireAssigned(ctx, v.Pod, id, requests, &w)
	if err != nil {
		return nil, id, err
	}
	// IMDS can take more than a minute, in which the right may have been withdrawn.
	if err := s.still(v.Pod, id); err != nil {
		return nil, id, err
	}
	s.habits.learn(workloadOf(v.Pod, id), q.resource)
	return tokens, id, nil
}
