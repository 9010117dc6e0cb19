package azure

import "strings"

// Actions of Azure's role definitions that the emulator checks.
const (
	actionVMRead         = "Microsoft.Compute/virtualMachines/read"
	actionVMWrite        = "Microsoft.Compute/virtualMachines/write"
	actionVMSSRead       = "Microsoft.Compute/virtualMachineScaleSets/read"
	actionVMSSWrite      = "Microsoft.Compute/virtualMachineScaleSets/write"
	actionIdentityAssign = "Microsoft.ManagedIdentity/userAssignedIdentities/assign/action"
)

// roleActions maps a role to the prefixes and suffixes of what it allows.
var roleActions = map[string]func(action string) bool{
	RoleOwner:       func(string) bool { return true },
	RoleContributor: func(string) bool { return true },
	RoleReader:      func(action string) bool { return strings.HasSuffix(action, "/read") },
	RoleVirtualMachineContributor: func(action string) bool {
		return strings.HasPrefix(action, "Microsoft.Compute/")
	},
	RoleManagedIdentityOperator: func(action string) bool { return action == actionIdentityAssign },
}

// allowed reports whether the principal may do action on the resource.
func (r *registry) allowed(principal, action, id string) bool {
	for _, role := range r.roles {
		if !strings.EqualFold(role.PrincipalID, principal) || !roleActions[role.Role](action) {
			continue
		}
		scope := strings.TrimSuffix(key(role.Scope), "/")
		if key(id) == scope || strings.HasPrefix(key(id), scope+"/") {
			return true
		}
	}
	return false
}
