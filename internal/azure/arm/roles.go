package arm

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"regexp"
	"strings"
)

// Roles that MIC needs, and no wider ones.
const (
	roleIdentityOperator = "Managed Identity Operator"
	roleVMContributor    = "Virtual Machine Contributor"
)

// RoleAssignment is a role assignment that would let a refused call succeed.
type RoleAssignment struct {
	// Role is the name of the built-in role.
	Role string
	// Scopes are the resource IDs on which it is missing.
	Scopes []string
	// PrincipalID is the object ID of the caller; empty if ARM did not say.
	PrincipalID string
}

// String says what to do, with a command for each scope to paste.
func (r RoleAssignment) String() string {
	principal := r.PrincipalID
	if principal == "" {
		principal = "<object ID of MIC's identity>"
	}
	var commands []string
	for _, scope := range r.Scopes {
		commands = append(commands, fmt.Sprintf("az role assignment create --role %q --assignee-object-id %s --assignee-principal-type ServicePrincipal --scope %q", r.Role, principal, scope))
	}
	return fmt.Sprintf("principal %s lacks the role %q: %s", principal, r.Role, strings.Join(commands, " && "))
}

// On returns the assignment for one of its scopes.
func (r RoleAssignment) On(scope string) RoleAssignment {
	r.Scopes = []string{scope}
	return r
}

var (
	objectIDText    = regexp.MustCompile(`(?i)object id '([0-9a-f-]{36})'`)
	overScopeText   = regexp.MustCompile(`(?i)perform action '([^']+)' over scope '([^']+)'`)
	resourceGroupID = regexp.MustCompile(`(?i)^/subscriptions/[^/]+/resourceGroups/[^/]+`)
)

// missingRole reads which role assignment the caller lacks. MIC's rights on
// VMs and scale sets belong on their resource group, since new ones come and go;
// those on an identity belong on just that identity.
func missingRole(code, text string) *RoleAssignment {
	r := &RoleAssignment{}
	if m := objectIDText.FindStringSubmatch(text); m != nil {
		r.PrincipalID = m[1]
	}
	switch strings.ToLower(code) {
	case "linkedauthorizationfailed":
		r.Role, r.Scopes = roleIdentityOperator, identityIDs(text)
	case "authorizationfailed":
		m := overScopeText.FindStringSubmatch(text)
		if m == nil {
			return nil
		}
		switch action, scope := strings.ToLower(m[1]), m[2]; {
		case strings.HasPrefix(action, "microsoft.managedidentity/"):
			r.Role, r.Scopes = roleIdentityOperator, []string{scope}
		case strings.HasPrefix(action, "microsoft.compute/"):
			if group := resourceGroupID.FindString(scope); group != "" {
				scope = group
			}
			r.Role, r.Scopes = roleVMContributor, []string{scope}
		}
	}
	if len(r.Scopes) == 0 {
		return nil
	}
	return r
}

// ObjectID returns the object ID of the principal that an access token was made
// out to; empty if the token does not say. The token is not verified: it is the
// process's own, and only a hint is made of it.
func ObjectID(token string) string {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return ""
	}
	raw, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return ""
	}
	var claims struct {
		OID string `json:"oid"`
	}
	if err := json.Unmarshal(raw, &claims); err != nil {
		return ""
	}
	return claims.OID
}
