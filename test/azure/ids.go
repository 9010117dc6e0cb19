package azure

import (
	"fmt"
	"strings"
)

// Resource types that the emulator knows, as Azure spells them.
const (
	typeVM       = "Microsoft.Compute/virtualMachines"
	typeVMSS     = "Microsoft.Compute/virtualMachineScaleSets"
	typeIdentity = "Microsoft.ManagedIdentity/userAssignedIdentities"
)

// VMID returns the resource ID of a virtual machine in the portal's capitalisation.
func VMID(subscription, group, name string) string {
	return resourceID(subscription, group, typeVM, name)
}

// VMSSID returns the resource ID of a virtual machine scale set.
func VMSSID(subscription, group, name string) string {
	return resourceID(subscription, group, typeVMSS, name)
}

// InstanceID returns the resource ID of one instance of a scale set, which is what IMDS
// and a node's spec.providerID name.
func InstanceID(scaleSetID, instance string) string {
	return scaleSetID + "/virtualMachines/" + instance
}

// IdentityID returns the resource ID of a user-assigned identity.
func IdentityID(subscription, group, name string) string {
	return resourceID(subscription, group, typeIdentity, name)
}

func resourceID(subscription, group, resourceType, name string) string {
	return "/subscriptions/" + subscription + "/resourceGroups/" + group + "/providers/" + resourceType + "/" + name
}

// resourceRef is a parsed resource ID. Values keep the capitalisation of the input;
// comparison is by key.
type resourceRef struct {
	subscription, group, namespace, kind, name string
	// child holds what follows the resource's name, unparsed: child types and names, or an action.
	child []string
}

// parseResource splits the path of a resource of any type. It accepts any capitalisation,
// as ARM does, and nothing else that deviates from the form.
func parseResource(id string) (resourceRef, error) {
	s := strings.Split(id, "/")
	if len(s) < 9 || s[0] != "" ||
		!strings.EqualFold(s[1], "subscriptions") || !strings.EqualFold(s[3], "resourceGroups") || !strings.EqualFold(s[5], "providers") {
		return resourceRef{}, fmt.Errorf("%q is not of the form /subscriptions/{subscription}/resourceGroups/{group}/providers/{namespace}/{type}/{name}", id)
	}
	for _, segment := range s[1:] {
		if segment == "" {
			return resourceRef{}, fmt.Errorf("%q has an empty segment", id)
		}
	}
	return resourceRef{subscription: s[2], group: s[4], namespace: s[6], kind: s[7], name: s[8], child: s[9:]}, nil
}

// resourceType returns the known type's canonical spelling, or the one of the input.
func (r resourceRef) resourceType() string {
	given := r.namespace + "/" + r.kind
	for _, known := range []string{typeVM, typeVMSS, typeIdentity} {
		if strings.EqualFold(given, known) {
			return known
		}
	}
	return given
}

// id returns the ID without its child segments, in canonical capitalisation of the fixed segments.
func (r resourceRef) id() string {
	return resourceID(r.subscription, r.group, r.resourceType(), r.name)
}

// key is what two spellings of one resource ID have in common.
func key(id string) string { return strings.ToLower(id) }

// groupKey identifies a resource group.
func groupKey(subscription, group string) string { return key(subscription + "/" + group) }

// IDStyle is how ARM capitalises the IDs that it returns. Azure mixes all of these.
type IDStyle string

// The styles of Settings.IDStyle.
const (
	// IDStylePreserve returns an ID as it was first written.
	IDStylePreserve IDStyle = ""
	// IDStylePortal returns resourceGroups.
	IDStylePortal IDStyle = "resourceGroups"
	// IDStyleIdentityAPI returns resourcegroups, as the managed identity API does.
	IDStyleIdentityAPI IDStyle = "resourcegroups"
	// IDStyleLower lower-cases the whole ID.
	IDStyleLower IDStyle = "lower"
	// IDStyleUpperGroup upper-cases the name of the resource group, as Compute does at times.
	IDStyleUpperGroup IDStyle = "upperGroup"
)

func (s IDStyle) valid() bool {
	switch s {
	case IDStylePreserve, IDStylePortal, IDStyleIdentityAPI, IDStyleLower, IDStyleUpperGroup:
		return true
	}
	return false
}

func (s IDStyle) apply(id string) string {
	if s == IDStyleLower {
		return strings.ToLower(id)
	}
	segments := strings.Split(id, "/")
	if s == IDStylePreserve || len(segments) < 5 {
		return id
	}
	if s == IDStyleUpperGroup {
		segments[4] = strings.ToUpper(segments[4])
	} else {
		segments[3] = string(s)
	}
	return strings.Join(segments, "/")
}
