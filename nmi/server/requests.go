package server

import (
	"context"
	"fmt"
	"net/http"

	"golang.org/x/sync/errgroup"
	"k8s.io/apimachinery/pkg/types"

	v1 "github.com/aad-pod-identity/aad-pod-identity/api/v1"
	"github.com/aad-pod-identity/aad-pod-identity/nmi/token"
)

// tenantsAtOnce bounds how many tokens of one request are got at a time.
const tenantsAtOnce = 4

// tokenRequests are the requests for the tokens of an identity: one, or for a
// service principal with auxiliary tenants one for each of them as well, after that
// of its own tenant. It is pure.
func tokenRequests(id *v1.AzureIdentity, resource string) ([]token.Request, error) {
	spec := id.Spec
	var credential token.Credential
	switch spec.Type {
	case v1.UserAssignedMSI:
		return []token.Request{{ClientID: spec.ClientID, ResourceID: spec.ResourceID, Resource: resource}}, nil
	case v1.ServicePrincipal:
		credential = token.CredentialSecret
	case v1.ServicePrincipalCertificate:
		credential = token.CredentialCertificate
	default:
		return nil, &apiError{
			status: http.StatusForbidden, code: "unsupported_identity_type",
			description: fmt.Sprintf("AzureIdentity %s/%s is of type %d, which is none of 0, 1 and 2", id.Namespace, id.Name, spec.Type),
		}
	}
	secret := types.NamespacedName{Namespace: spec.ClientPassword.Namespace, Name: spec.ClientPassword.Name}
	if secret.Namespace == "" {
		secret.Namespace = id.Namespace // as the policy reads it that guards the reference
	}
	var requests []token.Request
	for _, tenant := range append([]string{spec.TenantID}, spec.AuxiliaryTenantIDs...) {
		requests = append(requests, token.Request{
			ClientID: spec.ClientID, Resource: resource, TenantID: tenant,
			Principal: token.Principal{Credential: credential, Secret: secret, Authority: spec.ADEndpoint},
		})
	}
	return requests, nil
}

// acquire gets all the tokens of a request, or says why it cannot.
func (s *Server) acquire(ctx context.Context, id *v1.AzureIdentity, requests []token.Request) ([]token.Token, error) {
	named := func(err error) error { return fmt.Errorf("identity %s/%s: %w", id.Namespace, id.Name, err) }
	if n := noteOf(ctx); n != nil {
		ctx = token.WithTrace(ctx, &n.trace)
	}
	if len(requests) == 1 {
		t, err := s.tokens.Token(ctx, requests[0])
		if err != nil {
			return nil, named(err)
		}
		return []token.Token{t}, nil
	}
	tokens := make([]token.Token, len(requests))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(tenantsAtOnce)
	for i, r := range requests {
		g.Go(func() error {
			t, err := s.tokens.Token(ctx, r)
			if err != nil {
				return named(fmt.Errorf("tenant %s: %w", r.TenantID, err))
			}
			tokens[i] = t
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	return tokens, nil
}
