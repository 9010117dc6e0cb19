package server

import (
	"context"
	"errors"
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
// identities of this pod only, one after the other in binding order, and no more
// once it has found the one.
func (s *Server) byObjectID(ctx context.Context, v podindex.View, q tokenQuery) (*v1.AzureIdentity, error) {
	sel := selector{objectID: q.selector.objectID}
	var failed error // of an identity that may be the one
	for {
		if failed != nil && !s.another(v, sel) {
			return nil, failed
		}
		id, err := s.identity(ctx, v, sel)
		if err != nil {
			return nil, err
		}
		sel.tried = append(sel.tried, id)
		found, err := s.objectID(ctx, id, q.resource)
		var tok *token.Error
		switch {
		case err == nil && found != "" && strings.EqualFold(found, q.selector.objectID):
			return id, nil
		case ctx.Err() != nil:
			return nil, ctx.Err()
		case err != nil && (!errors.As(err, &tok) || !tok.Refused):
			failed = err
		}
	}
}

// another says whether there is a further identity to look at now.
func (s *Server) another(v podindex.View, sel selector) bool {
	now, err := s.pods.ByName(v.Pod.Key())
	return err == nil && choose(now, sel, s.o.ForceNamespaced).progress == progressAssigned
}

// objectID of an identity, which never changes, so it is remembered.
func (s *Server) objectID(ctx context.Context, id *v1.AzureIdentity, resource string) (string, error) {
	requests, err := tokenRequests(id, resource)
	if err != nil {
		return "", err
	}
	key := requests[0].Key()
	key.Resource = ""
	if known, ok := s.objectIDs.Get(key); ok {
		found, _ := known.(string)
		return found, nil
	}
	tokens, err := s.acquire(ctx, id, requests[:1])
	if err != nil {
		return "", err
	}
	if found := tokens[0].ObjectID; found != "" {
		s.objectIDs.Add(key, found)
	}
	return tokens[0].ObjectID, nil
}
