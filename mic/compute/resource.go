package compute

import (
	"slices"
	"strings"

	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/compute/armcompute/v8"

	"github.com/aad-pod-identity/aad-pod-identity/internal/resourceid"
)

// maxPerRequest is how many identities ARM takes in one PATCH
// (Azure/aad-pod-identity#813).
const maxPerRequest = 150

// entry is an identity as it is on a resource.
type entry struct {
	// id in ARM's spelling.
	id string
	// clientID of the identity.
	clientID string
	// ghost: the identity was deleted, and perhaps made again, since it was
	// assigned. It gives no tokens until it is removed and added again.
	ghost bool
}

// resource is what ARM says of a VM or scale set.
type resource struct {
	identities map[string]entry // by resourceid.Key
	system     bool             // has a system-assigned identity
	deleting   bool
	changing   bool // an operation on it runs, so what it shows may not come to be
	etag       string
	answered   bool // the ETag is from the answer to a PATCH, not from a GET
}

// same says whether two descriptions mean the same for MIC.
func (r *resource) same(o *resource) bool {
	if r.system != o.system || len(r.identities) != len(o.identities) {
		return false
	}
	for key := range r.identities {
		if _, ok := o.identities[key]; !ok {
			return false
		}
	}
	return true
}

// patch is the identity object of a PATCH.
type patch struct {
	kind       armcompute.ResourceIdentityType
	identities map[string]*armcompute.UserAssignedIdentitiesValue // nil value is JSON null: remove
}

// patchFor returns the PATCH that adds and removes the given identities, and
// false if that changes nothing. What is not named stays. The system-assigned
// identity always survives: ARM drops it when the type lacks it.
func (r *resource) patchFor(adds, removes []string) (patch, bool) {
	p := patch{identities: map[string]*armcompute.UserAssignedIdentitiesValue{}}
	left := len(r.identities)
	added := map[string]bool{}
	for _, id := range adds {
		key := resourceid.Key(id)
		if _, there := r.identities[key]; there || added[key] {
			continue
		}
		added[key] = true
		p.identities[id] = &armcompute.UserAssignedIdentitiesValue{}
		left++
	}
	for _, id := range removes {
		key := resourceid.Key(id)
		if e, there := r.identities[key]; there && !added[key] {
			if _, twice := p.identities[e.id]; !twice {
				p.identities[e.id] = nil
				left--
			}
		}
	}
	if len(p.identities) == 0 {
		return patch{}, false
	}
	switch {
	case left == 0:
		// ARM refuses a map together with a type that has no user-assigned
		// identities; without one it removes them all.
		p.identities = nil
		p.kind = armcompute.ResourceIdentityTypeNone
		if r.system {
			p.kind = armcompute.ResourceIdentityTypeSystemAssigned
		}
	case r.system:
		p.kind = armcompute.ResourceIdentityTypeSystemAssignedUserAssigned
	default:
		p.kind = armcompute.ResourceIdentityTypeUserAssigned
	}
	return p, true
}

// applied updates r to what the successful PATCH made of it. Answer is what ARM
// said of the resource then; nil if it did not. Its ETag guards the next PATCH,
// unless the answer shows that somebody else changed the resource as well. The
// IDs of identities are not believed: they may be filled in later.
func (r *resource) applied(adds, removes []string, answer *resource) {
	added := map[string]bool{}
	for _, id := range adds {
		key := resourceid.Key(id)
		added[key] = true
		if _, there := r.identities[key]; !there {
			r.identities[key] = entry{id: id}
		}
	}
	for _, id := range removes {
		if key := resourceid.Key(id); !added[key] {
			delete(r.identities, key)
		}
	}
	r.etag, r.answered, r.changing = "", true, false
	if answer != nil && r.same(answer) {
		r.etag = answer.etag
	}
}

// hasSystem looks for the system-assigned identity in ARM's type string, whatever its
// spacing and case.
func hasSystem(kind *armcompute.ResourceIdentityType) bool {
	if kind == nil {
		return false
	}
	parts := strings.FieldsFunc(strings.ToLower(string(*kind)), func(r rune) bool { return r == ',' || r == ' ' })
	return slices.Contains(parts, "systemassigned")
}

func newResource(kind *armcompute.ResourceIdentityType, identities map[string]*armcompute.UserAssignedIdentitiesValue, state, etag *string) *resource {
	r := &resource{identities: make(map[string]entry, len(identities)), system: hasSystem(kind)}
	for id, v := range identities {
		e := entry{id: id, ghost: v == nil || v.ClientID == nil || *v.ClientID == ""}
		if !e.ghost {
			e.clientID = *v.ClientID
		}
		r.identities[resourceid.Key(id)] = e
	}
	if state != nil {
		r.deleting = strings.EqualFold(*state, "Deleting")
		r.changing = !slices.Contains([]string{"succeeded", "failed", "canceled", ""}, strings.ToLower(*state))
	}
	if etag != nil {
		r.etag = *etag
	}
	return r
}
