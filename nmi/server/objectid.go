package server

import (
	"context"
	"errors"
	"slices"
	"strings"

	v1 "github.com/aad-pod-identity/aad-pod-identity/api/v1"
	"github.com/aad-pod-identity/aad-pod-identity/nmi/podindex"
	"github.com/aad-pod-identity/aad-pod-identity/nmi/token"
)

// maxObjectIDs bounds the object IDs that are remembered.
const maxObjectIDs = 1024

// byObjectID finds the identity with an object ID among those that the pod may use,
// waiting for them as for others. AzureIdentities do not tell object IDs and NMI
// asks nobody but the token endpoints, so it looks into the tokens themselves: of
// identities of this pod only, one after the other, and no more once it has found the
// one.
func (s *Server) byObjectID(ctx context.Context, v podindex.View, q tokenQuery, w *waits) (*v1.AzureIdentity, error) {
	sel := selector{objectID: q.selector.objectID}
	var failed error // of an identity that may be the one
	for {
		if failed != nil && !s.another(v, sel, failed) {
			return nil, failed
		}
		first, err := s.identity(ctx, v, sel, w)
		if err != nil {
			return nil, err
		}
		id := s.likeliest(v, sel, first)
		sel.tried = append(sel.tried, id)
		found, err := s.objectID(ctx, v.Pod, id, q.resource, w)
		switch {
		case err == nil && found != "" && strings.EqualFold(found, q.selector.objectID):
			return id, nil
		case ctx.Err() != nil:
			return nil, ctx.Err()
		case err != nil && strings.EqualFold(s.remembered(id), q.selector.objectID):
			return nil, err // of the very one, as far as anybody knows
		case err != nil && (failed == nil || !refused(err)): // a refusal is final to clients, and other errors are not
			failed = err
		}
	}
}

// another says whether there is a further identity to look at before the failure of one
// is the answer. After a refusal, which the client would take for final, one that MIC is
// at work on is waited for.
func (s *Server) another(v podindex.View, sel selector, failed error) bool {
	now, err := s.pods.ByName(v.Pod.Key())
	if err != nil {
		return false
	}
	p := choose(now, sel, s.o.ForceNamespaced).progress
	return p == progressAssigned || p == progressCreated && refused(failed)
}

// refused says whether the token endpoint has said no.
func refused(err error) bool {
	var e *token.Error
	return errors.As(err, &e) && e.Refused
}

// likeliest is the one to look at next of the identities that can be: the one that had
// the object ID when it was looked at before, else one that was not, else the first.
// What is remembered decides no more than that: an identity that was made anew
// under its name has another object ID.
func (s *Server) likeliest(v podindex.View, sel selector, first *v1.AzureIdentity) *v1.AzureIdentity {
	now, err := s.pods.ByName(v.Pod.Key())
	if err != nil || now.Pod.UID != v.Pod.UID {
		return first
	}
	var unknown *v1.AzureIdentity
	sel.tried = slices.Clone(sel.tried)
	for {
		c := choose(now, sel, s.o.ForceNamespaced)
		if c.progress != progressAssigned {
			break
		}
		sel.tried = append(sel.tried, c.identity)
		switch known := s.remembered(c.identity); {
		case strings.EqualFold(known, sel.objectID):
			return c.identity
		case known == "" && unknown == nil:
			unknown = c.identity
		}
	}
	if unknown != nil {
		return unknown
	}
	return first
}

// objectIDKey is what the object ID of a request's identity is remembered by: it is the
// same for all resources.
func objectIDKey(r token.Request) token.Key {
	key := r.Key()
	key.Resource = ""
	return key
}

// remembered is the object ID that an identity had when it was last looked at; empty if
// it was not.
func (s *Server) remembered(id *v1.AzureIdentity) string {
	requests, err := tokenRequests(id, "")
	if err != nil {
		return ""
	}
	known, _ := s.objectIDs.Get(objectIDKey(requests[0]))
	found, _ := known.(string)
	return found
}

// objectID of an identity, as its token says.
func (s *Server) objectID(ctx context.Context, pod *podindex.Pod, id *v1.AzureIdentity, resource string, w *waits) (string, error) {
	requests, err := tokenRequests(id, resource)
	if err != nil {
		return "", err
	}
	tokens, err := s.acquireAssigned(ctx, pod, id, requests[:1], w)
	if err != nil {
		return "", err
	}
	if found := tokens[0].ObjectID; found != "" {
		s.objectIDs.Add(objectIDKey(requests[0]), found)
	}
	return tokens[0].ObjectID, nil
}
