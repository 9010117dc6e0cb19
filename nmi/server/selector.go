package server

import (
	"slices"
	"strings"

	v1 "github.com/aad-pod-identity/aad-pod-identity/api/v1"
	"github.com/aad-pod-identity/aad-pod-identity/internal/resourceid"
)

// selector narrows the identities of a pod; empty fields select all.
type selector struct {
	clientID, resourceID string
	// objectID is what an AzureIdentity does not tell: who asks by it is answered
	// with the help of tried.
	objectID string
	// tried are identities that were found not to be the one asked for.
	tried []*v1.AzureIdentity
	// same selects the very identity, unless what its tokens are got with has
	// changed.
	same *v1.AzureIdentity
}

// empty says whether a request leaves the choice to us.
func (s selector) empty() bool { return s.clientID == "" && s.resourceID == "" && s.objectID == "" }

// several says whether a request has more than one selector.
func (s selector) several() bool {
	n := 0
	for _, v := range []string{s.clientID, s.resourceID, s.objectID} {
		if v != "" {
			n++
		}
	}
	return n > 1
}

func (s selector) selects(id *v1.AzureIdentity) bool {
	if s.clientID != "" && !strings.EqualFold(s.clientID, id.Spec.ClientID) {
		return false
	}
	if s.resourceID != "" && !resourceid.Equal(s.resourceID, id.Spec.ResourceID) {
		return false
	}
	for _, t := range s.tried {
		if sameIdentity(t, id) {
			return false
		}
	}
	return s.same == nil || sameIdentity(s.same, id)
}

// sameIdentity says whether two AzureIdentities, which may be copies of different
// age, are one, and its tokens are got in the same way.
func sameIdentity(a, b *v1.AzureIdentity) bool {
	return a.Namespace == b.Namespace && a.Name == b.Name &&
		a.Spec.Type == b.Spec.Type &&
		strings.EqualFold(a.Spec.ClientID, b.Spec.ClientID) &&
		resourceid.Equal(a.Spec.ResourceID, b.Spec.ResourceID) &&
		a.Spec.ClientPassword == b.Spec.ClientPassword &&
		strings.EqualFold(a.Spec.TenantID, b.Spec.TenantID) &&
		a.Spec.ADEndpoint == b.Spec.ADEndpoint &&
		slices.EqualFunc(a.Spec.AuxiliaryTenantIDs, b.Spec.AuxiliaryTenantIDs, strings.EqualFold)
}
