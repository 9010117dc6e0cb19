package resourceid

import (
	"fmt"
	"strings"
)

// Kind is the kind of Azure resource that a node is.
type Kind string

const (
	// VM is a virtual machine, also one of a scale set in flexible
	// orchestration mode, whose nodes are ordinary virtual machines.
	VM Kind = "virtualMachines"
	// VMSS is a scale set in uniform orchestration mode: identities are assigned
	// to the scale set, not to its instances.
	VMSS Kind = "virtualMachineScaleSets"
)

// Compute is the Azure resource behind a node, to which identities are
// assigned.
type Compute struct {
	// Subscription and ResourceGroup hold the resource, as the node spells them.
	Subscription, ResourceGroup string
	// Kind of the resource.
	Kind Kind
	// Name of the virtual machine or scale set.
	Name string
	// Instance is the node's instance ID in the scale set; empty for a VM.
	Instance string
}

// String returns the resource ID of the virtual machine or scale set, without
// the instance.
func (c Compute) String() string {
	return "/subscriptions/" + c.Subscription + "/resourceGroups/" + c.ResourceGroup +
		"/providers/Microsoft.Compute/" + string(c.Kind) + "/" + c.Name
}

// Key identifies the virtual machine or scale set: equal for all instances of
// one scale set, and different for scale sets of one name in different resource
// groups or subscriptions.
func (c Compute) Key() string {
	return Key(c.String())
}

const providerScheme = "azure://"

// ParseProviderID parses spec.providerID of a node, as the Azure cloud provider
// writes it:
//
//	azure:///subscriptions/<sub>/resourceGroups/<rg>/providers/Microsoft.Compute/virtualMachines/<name>
//	azure:///subscriptions/<sub>/resourceGroups/<rg>/providers/Microsoft.Compute/virtualMachineScaleSets/<name>/virtualMachines/<instance>
//
// Fixed parts may have any capitalisation. The error says what is wrong; the
// provider ID of another cloud is one.
func ParseProviderID(providerID string) (Compute, error) {
	fail := func(format string, a ...any) (Compute, error) {
		return Compute{}, fmt.Errorf("invalid provider id %q: %s", clip(providerID), fmt.Sprintf(format, a...))
	}
	if providerID == "" {
		return fail("it is empty, the cloud provider has not set it yet")
	}
	if len(providerID) < len(providerScheme) || !strings.EqualFold(providerID[:len(providerScheme)], providerScheme) {
		return fail("it does not begin with %s", providerScheme)
	}
	path := providerID[len(providerScheme):]
	if !strings.HasPrefix(path, "/") {
		return fail("no slash after %s", providerScheme)
	}
	segments := strings.Split(path[1:], "/")
	for _, s := range segments {
		if s == "" || strings.ContainsFunc(s, isSpace) {
			return fail("a segment is empty or contains white space")
		}
	}
	if len(segments) != 8 && len(segments) != 10 {
		return fail("it has %d segments, a virtual machine's has 8 and a scale set instance's 10", len(segments))
	}
	for i, want := range map[int]string{0: "subscriptions", 2: "resourceGroups", 4: "providers", 5: "Microsoft.Compute"} {
		if !strings.EqualFold(segments[i], want) {
			return fail("segment %q must be %q", segments[i], want)
		}
	}
	c := Compute{Subscription: segments[1], ResourceGroup: segments[3], Name: segments[7]}
	switch {
	case len(segments) == 8 && strings.EqualFold(segments[6], string(VM)):
		c.Kind = VM
	case len(segments) == 10 && strings.EqualFold(segments[6], string(VMSS)) && strings.EqualFold(segments[8], string(VM)):
		c.Kind, c.Instance = VMSS, segments[9]
	default:
		return fail("it names neither a virtual machine nor an instance of a scale set")
	}
	return c, nil
}
