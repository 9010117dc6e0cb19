package azure

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
)

// maxIdentitiesPerRequest is Azure's limit for one PATCH.
const maxIdentitiesPerRequest = 150

// identityPatch is the identity object of a PATCH body.
type identityPatch struct {
	Type         *string                    `json:"type"`
	UserAssigned map[string]json.RawMessage `json:"userAssignedIdentities"`
}

// identityTypes maps each spelling that ARM takes to the pair (system, user).
var identityTypes = map[string]struct{ system, user bool }{
	"none":                         {},
	"systemassigned":               {system: true},
	"userassigned":                 {user: true},
	"systemassigned,userassigned":  {system: true, user: true},
	"systemassigned, userassigned": {system: true, user: true},
}

// identityType is the inverse: what a GET shows.
func (c *Compute) identityType() string {
	switch {
	case c.SystemAssigned && len(c.UserAssigned) > 0:
		return "SystemAssigned, UserAssigned"
	case c.SystemAssigned:
		return "SystemAssigned"
	case len(c.UserAssigned) > 0:
		return "UserAssigned"
	}
	return "None"
}

// added returns the IDs that the patch assigns, in a stable order.
func (p identityPatch) added() []string {
	var ids []string
	for _, id := range slices.Sorted(maps.Keys(p.UserAssigned)) {
		if !isNull(p.UserAssigned[id]) {
			ids = append(ids, id)
		}
	}
	return ids
}

func isNull(raw json.RawMessage) bool { return string(raw) == "null" }

// validate holds what ARM refuses before it looks at the resource.
func (p identityPatch) validate() *apiError {
	if p.Type == nil {
		return badRequest("InvalidParameter", "Required parameter 'identity.type' is missing (null).")
	}
	kind, ok := identityTypes[strings.ToLower(*p.Type)]
	if !ok {
		return badRequest("InvalidParameter", fmt.Sprintf("The value '%s' of parameter 'identity.type' is not one of SystemAssigned, UserAssigned, 'SystemAssigned, UserAssigned', None.", *p.Type))
	}
	if !kind.user && p.UserAssigned != nil {
		return badRequest("BadRequest", "The request format was unexpected, a non-UserAssigned identity type should not contain: userAssignedIdentities")
	}
	if n := len(p.UserAssigned); n > maxIdentitiesPerRequest {
		return badRequest("InvalidParameter", fmt.Sprintf("The request names %d user assigned identities, the limit is %d.", n, maxIdentitiesPerRequest))
	}
	seen := map[string]string{}
	for _, id := range slices.Sorted(maps.Keys(p.UserAssigned)) {
		ref, err := parseResource(id)
		if err != nil || ref.resourceType() != typeIdentity || len(ref.child) > 0 {
			return badRequest("LinkedInvalidPropertyId", fmt.Sprintf("Property id '%s' at path 'identity.userAssignedIdentities' is invalid. Expect fully qualified resource Id that start with '/subscriptions/{subscriptionId}' or '/providers/{resourceProviderNamespace}/'.", id))
		}
		if other, dup := seen[key(id)]; dup {
			return badRequest("InvalidParameter", fmt.Sprintf("Parameter 'identity.userAssignedIdentities' names one identity twice: '%s' and '%s'.", other, id))
		}
		seen[key(id)] = id
		var object map[string]json.RawMessage
		if err := json.Unmarshal(p.UserAssigned[id], &object); err != nil {
			return badRequest("InvalidRequestContent", fmt.Sprintf("The value of '%s' in 'identity.userAssignedIdentities' is neither an object nor null.", id))
		}
	}
	return nil
}

// merge returns the resource as a validated patch leaves it: {} adds, null removes, what is not named stays, and
// type decides over the system-assigned identity and over whether user-assigned ones may be there at all.
// An entry that is already there stays as it is, ghost or not.
func (p identityPatch) merge(c Compute, lookup func(id string) (Identity, bool)) (Compute, *apiError) {
	kind := identityTypes[strings.ToLower(*p.Type)]
	next := c.clone()
	if kind.system {
		next.enableSystem()
	} else {
		// A system-assigned identity that comes back later is a new principal.
		next.SystemAssigned, next.SystemPrincipalID, next.SystemClientID = false, "", ""
	}
	if !kind.user {
		next.UserAssigned = nil
		return next, nil
	}
	for _, id := range slices.Sorted(maps.Keys(p.UserAssigned)) {
		at := slices.IndexFunc(next.UserAssigned, func(a Assignment) bool { return key(a.ID) == key(id) })
		if isNull(p.UserAssigned[id]) {
			if at >= 0 {
				next.UserAssigned = slices.Delete(next.UserAssigned, at, at+1)
			}
			continue
		}
		identity, ok := lookup(id)
		if !ok {
			return Compute{}, &apiError{
				Status: http.StatusBadRequest, Code: "FailedIdentityOperation",
				Message: fmt.Sprintf("Identity operation for resource '%s' failed with error 'Failed to perform resource identity operation. Status: 'BadRequest'. Response: '{\"error\":{\"code\":\"BadRequest\",\"message\":\"Resource '%s' was not found.\"}}'.'.", c.ID, id),
			}
		}
		if at < 0 {
			next.UserAssigned = append(next.UserAssigned, Assignment{ID: id, ClientID: identity.ClientID, PrincipalID: identity.PrincipalID})
		}
	}
	if len(next.UserAssigned) == 0 {
		return Compute{}, badRequest("MissingIdentityIds", fmt.Sprintf("The identity ids must not be null or empty for '%s' identity type.", *p.Type))
	}
	return next, nil
}

// identityBody is the identity object of a response, nil when there is none.
func (r *registry) identityBody(c Compute, tenant string, style IDStyle) map[string]any {
	kind := c.identityType()
	if kind == "None" {
		return nil
	}
	body := map[string]any{"type": kind}
	if c.SystemAssigned {
		body["principalId"], body["tenantId"] = c.SystemPrincipalID, tenant
	}
	if len(c.UserAssigned) > 0 {
		entries := map[string]any{}
		for _, a := range c.UserAssigned {
			if live, ok := r.live(a); ok {
				entries[style.apply(a.ID)] = map[string]any{"principalId": live.PrincipalID, "clientId": live.ClientID}
			} else {
				entries[style.apply(a.ID)] = map[string]any{"principalId": nil, "clientId": nil}
			}
		}
		body["userAssignedIdentities"] = entries
	}
	return body
}
