package azure

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
)

func TestIdentityPatch(t *testing.T) {
	t.Parallel()
	const sub = "11111111-2222-3333-4444-555555555555"
	id := func(name string) string { return IdentityID(sub, "ids", name) }
	lookup := func(wanted string) (Identity, bool) {
		for _, name := range []string{"a", "b", "c"} {
			if key(id(name)) == key(wanted) {
				return Identity{ID: id(name), ClientID: "client-" + name, PrincipalID: "principal-" + name}, true
			}
		}
		return Identity{}, false
	}
	assigned := func(names ...string) []Assignment {
		var list []Assignment
		for _, name := range names {
			list = append(list, Assignment{ID: id(name), ClientID: "client-" + name, PrincipalID: "principal-" + name})
		}
		return list
	}
	system := func(names ...string) Compute {
		return Compute{SystemAssigned: true, SystemPrincipalID: "system", SystemClientID: "system-client", UserAssigned: assigned(names...)}
	}
	user := func(names ...string) Compute { return Compute{UserAssigned: assigned(names...)} }
	tooMany := map[string]any{}
	for i := range maxIdentitiesPerRequest + 1 {
		tooMany[id(fmt.Sprintf("many%d", i))] = nil
	}

	for name, test := range map[string]struct {
		current Compute
		patch   any // the identity object
		code    string
		message string
		kind    string
		ids     []string
		// newSystem: the system-assigned identity is another one than before.
		newSystem bool
	}{
		"an object adds and what is not named stays": {
			current: user("a"), patch: patchBody("UserAssigned", map[string]any{id("b"): map[string]any{}}), kind: "UserAssigned", ids: []string{"a", "b"},
		},
		"null removes and what is not named stays": {
			current: user("a", "b"), patch: patchBody("UserAssigned", map[string]any{id("a"): nil}), kind: "UserAssigned", ids: []string{"b"},
		},
		"null for one that is absent changes nothing": {
			current: user("a"), patch: patchBody("UserAssigned", map[string]any{id("b"): nil}), kind: "UserAssigned", ids: []string{"a"},
		},
		"adding what is there in another capitalisation is the same entry": {
			current: user("a"), patch: patchBody("UserAssigned", map[string]any{strings.ToUpper(id("a")): map[string]any{}}), kind: "UserAssigned", ids: []string{"a"},
		},
		"removal compares without regard to case": {
			current: user("a", "b"), patch: patchBody("userassigned", map[string]any{strings.ToLower(id("a")): nil}), kind: "UserAssigned", ids: []string{"b"},
		},
		"UserAssigned without SystemAssigned drops the system identity": {
			current: system("a"), patch: patchBody("UserAssigned", map[string]any{}), kind: "UserAssigned", ids: []string{"a"},
		},
		"both types keep the system identity": {
			current: system(), patch: patchBody("SystemAssigned, UserAssigned", map[string]any{id("a"): map[string]any{}}), kind: "SystemAssigned, UserAssigned", ids: []string{"a"},
		},
		"both types without the space": {
			current: system("a"), patch: patchBody("SystemAssigned,UserAssigned", map[string]any{id("b"): map[string]any{}}), kind: "SystemAssigned, UserAssigned", ids: []string{"a", "b"},
		},
		"SystemAssigned alone drops all user-assigned ones": {
			current: system("a", "b"), patch: patchBody("SystemAssigned", nil), kind: "SystemAssigned",
		},
		"None drops all": {
			current: system("a", "b"), patch: patchBody("None", nil), kind: "None",
		},
		"a system identity that comes back is a new principal": {
			current: user("a"), patch: patchBody("SystemAssigned, UserAssigned", nil), kind: "SystemAssigned, UserAssigned", ids: []string{"a"}, newSystem: true,
		},
		"removing the last one needs another type": {
			current: user("a"), patch: patchBody("UserAssigned", map[string]any{id("a"): nil}), code: "MissingIdentityIds", message: "for 'UserAssigned' identity type",
		},
		"removing the last one beside the system identity needs another type": {
			current: system("a"), patch: patchBody("SystemAssigned, UserAssigned", map[string]any{id("a"): nil}), code: "MissingIdentityIds",
		},
		"None with a map": {
			current: user("a"), patch: patchBody("None", map[string]any{id("a"): nil}), code: "BadRequest", message: "should not contain: userAssignedIdentities",
		},
		"no type": {
			current: user("a"), patch: map[string]any{"userAssignedIdentities": map[string]any{id("b"): map[string]any{}}}, code: "InvalidParameter", message: "identity.type",
		},
		"an unknown type": {
			current: user("a"), patch: patchBody("Both", nil), code: "InvalidParameter", message: "'Both'",
		},
		"one identity in two capitalisations": {
			current: user(), patch: patchBody("UserAssigned", map[string]any{id("a"): map[string]any{}, strings.ToLower(id("a")): map[string]any{}}), code: "InvalidParameter", message: "twice",
		},
		"more than 150": {
			current: user("a"), patch: patchBody("UserAssigned", tooMany), code: "InvalidParameter", message: "151",
		},
		"an ID without its leading slash": {
			current: user("a"), patch: patchBody("UserAssigned", map[string]any{id("b")[1:]: map[string]any{}}), code: "LinkedInvalidPropertyId", message: id("b")[1:],
		},
		"an ID of another type": {
			current: user("a"), patch: patchBody("UserAssigned", map[string]any{VMID(sub, "ids", "b"): map[string]any{}}), code: "LinkedInvalidPropertyId",
		},
		"a value that is no object": {
			current: user("a"), patch: patchBody("UserAssigned", map[string]any{id("b"): "yes"}), code: "InvalidRequestContent",
		},
		"an identity that does not exist": {
			current: user("a"), patch: patchBody("UserAssigned", map[string]any{id("gone"): map[string]any{}, id("b"): map[string]any{}}), code: "FailedIdentityOperation", message: "'" + id("gone") + "'",
		},
		"removing an identity that does not exist any more": {
			current: Compute{UserAssigned: append(assigned("a"), Assignment{ID: id("gone")})}, patch: patchBody("UserAssigned", map[string]any{id("gone"): nil}), kind: "UserAssigned", ids: []string{"a"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			data, err := json.Marshal(test.patch)
			if err != nil {
				t.Fatal(err)
			}
			var patch identityPatch
			if err := json.Unmarshal(data, &patch); err != nil {
				t.Fatal(err)
			}
			before := test.current.clone()
			var next Compute
			apiErr := patch.validate()
			if apiErr == nil {
				next, apiErr = patch.merge(test.current, lookup)
			}
			if test.code != "" {
				if apiErr == nil || apiErr.Code != test.code || !strings.Contains(apiErr.Message, test.message) {
					t.Fatalf("got %v, want %s with %q", apiErr, test.code, test.message)
				}
				return
			}
			if apiErr != nil {
				t.Fatal(apiErr)
			}
			if got := next.identityType(); got != test.kind {
				t.Errorf("type %q, want %q", got, test.kind)
			}
			if want := assigned(test.ids...); !slices.Equal(next.UserAssigned, want) {
				t.Errorf("user-assigned %v, want %v", next.UserAssigned, want)
			}
			if next.SystemAssigned && (next.SystemPrincipalID == "" || (next.SystemPrincipalID != "system") != test.newSystem) {
				t.Errorf("system-assigned principal %q, new one wanted: %t", next.SystemPrincipalID, test.newSystem)
			}
			if !slices.Equal(before.UserAssigned, test.current.UserAssigned) {
				t.Error("merge changed its input")
			}
		})
	}
}

// patchBody is an identity object; a nil map leaves userAssignedIdentities out.
func patchBody(kind string, ids map[string]any) map[string]any {
	body := map[string]any{"type": kind}
	if ids != nil {
		body["userAssignedIdentities"] = ids
	}
	return body
}

func TestRoute(t *testing.T) {
	t.Parallel()
	const rg = "/subscriptions/s/resourceGroups/g/providers/Microsoft.Compute/"
	for request, want := range map[string]string{
		"GET " + rg + "virtualMachines/v":                                                      OpVMGet,
		"PATCH " + strings.ToUpper(rg) + "VIRTUALMACHINES/v":                                   OpVMUpdate,
		"GET " + strings.ToLower(rg) + "virtualmachinescalesets/v":                             OpVMSSGet,
		"PATCH " + rg + "virtualMachineScaleSets/v":                                            OpVMSSUpdate,
		"PUT " + rg + "virtualMachineScaleSets/v":                                              OpForbidden,
		"DELETE " + rg + "virtualMachines/v":                                                   OpForbidden,
		"POST " + rg + "virtualMachineScaleSets/v/manualupgrade":                               OpForbidden,
		"POST " + rg + "virtualMachineScaleSets/v/reimage":                                     OpForbidden,
		"POST " + rg + "virtualMachines/v/restart":                                             OpForbidden,
		"PUT " + rg + "virtualMachineScaleSets/v/virtualMachines/0":                            OpForbidden,
		"PATCH " + rg + "virtualMachineScaleSets/v/virtualMachines/0":                          OpForbidden,
		"GET " + rg + "virtualMachineScaleSets/v/virtualMachines":                              OpUnknown,
		"GET " + rg + "disks/d":                                                                OpUnknown,
		"GET " + rg + "virtualMachines/":                                                       OpUnknown,
		"GET /subscriptions":                                                                   OpSubscriptions,
		"GET /Subscriptions/s":                                                                 OpSubscriptions,
		"GET /tenants":                                                                         OpTenants,
		"GET /subscriptions/s/providers/Microsoft.Compute/locations/l/operations/o":            OpOperationGet,
		"POST /subscriptions/s/providers/Microsoft.Compute/locations/l/operations/o":           OpUnknown,
		"GET /subscriptions/s/resourceGroups/g/providers/Microsoft.Compute":                    OpUnknown,
		"PATCH /subscriptions//resourceGroups/g/providers/Microsoft.Compute/virtualMachines/v": OpUnknown,
	} {
		method, path, _ := strings.Cut(request, " ")
		if got, _ := route(method, path); got != want {
			t.Errorf("%s is %s, want %s", request, got, want)
		}
	}
}

func TestIDStyle(t *testing.T) {
	t.Parallel()
	id := "/subscriptions/S/resourceGroups/Group/providers/Microsoft.ManagedIdentity/userAssignedIdentities/Name"
	for style, want := range map[IDStyle]string{
		IDStylePreserve:    id,
		IDStylePortal:      id,
		IDStyleIdentityAPI: strings.Replace(id, "resourceGroups", "resourcegroups", 1),
		IDStyleLower:       strings.ToLower(id),
		IDStyleUpperGroup:  strings.Replace(id, "Group/", "GROUP/", 1),
	} {
		if got := style.apply(id); got != want {
			t.Errorf("style %q: %s, want %s", style, got, want)
		}
	}
}
