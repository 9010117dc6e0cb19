package arm

import (
	"encoding/base64"
	"errors"
	"strings"
	"testing"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/runtime"
)

func TestWhichRoleIsMissing(t *testing.T) {
	const oid = "99999999-8888-7777-6666-555555555555"
	client := "The client 'c' with object id '" + oid + "' "
	for name, test := range map[string]struct {
		code, message string
		want          string
	}{
		"the right to assign an identity": {
			"LinkedAuthorizationFailed", client + "has permission to perform action 'Microsoft.Compute/virtualMachines/write' on scope '" + vm + "'; however, it does not have permission to perform action 'Microsoft.ManagedIdentity/userAssignedIdentities/assign/action' on the linked scope(s) '" + idA + "' or the linked scope(s) are invalid.",
			`principal ` + oid + ` lacks the role "Managed Identity Operator": az role assignment create --role "Managed Identity Operator" --assignee-object-id ` + oid + ` --assignee-principal-type ServicePrincipal --scope "` + idA + `"`,
		},
		"the right to change VMs": {
			"AuthorizationFailed", client + "does not have authorization to perform action 'Microsoft.Compute/virtualMachines/write' over scope '" + vm + "' or the scope is invalid.",
			`principal ` + oid + ` lacks the role "Virtual Machine Contributor": az role assignment create --role "Virtual Machine Contributor" --assignee-object-id ` + oid + ` --assignee-principal-type ServicePrincipal --scope "/subscriptions/11111111-2222-3333-4444-555555555555/resourceGroups/rg"`,
		},
		"a principal that is not named": {
			"AuthorizationFailed", "may not perform action 'Microsoft.ManagedIdentity/userAssignedIdentities/assign/action' over scope '" + idA + "'",
			`principal <object ID of MIC's identity> lacks the role "Managed Identity Operator": az role assignment create --role "Managed Identity Operator" --assignee-object-id <object ID of MIC's identity> --assignee-principal-type ServicePrincipal --scope "` + idA + `"`,
		},
		"an action of another kind":  {"AuthorizationFailed", client + "does not have authorization to perform action 'Microsoft.Network/x/read' over scope '/x'", ""},
		"another error":              {"FailedIdentityOperation", "'" + idA + "' was not found", ""},
		"no identity in the message": {"LinkedAuthorizationFailed", "no", ""},
	} {
		t.Run(name, func(t *testing.T) {
			var e *Error
			if err := Classify(runtime.NewResponseError(response(403, armError(test.code, test.message)))); !errors.As(err, &e) {
				t.Fatal(err)
			}
			got := ""
			if e.Missing != nil {
				got = e.Missing.String()
			}
			if got != test.want {
				t.Errorf("got  %s\nwant %s", got, test.want)
			}
		})
	}
}

func TestTwoScopesAreTwoCommands(t *testing.T) {
	r := RoleAssignment{Role: roleIdentityOperator, Scopes: []string{idA, idB}, PrincipalID: "p"}
	if n := strings.Count(r.String(), "az role assignment create"); n != 2 {
		t.Errorf("%d commands: %s", n, r)
	}
	if one := r.On(idB).String(); strings.Contains(one, idA) || !strings.Contains(one, idB) {
		t.Errorf("the assignment for one identity is %s", one)
	}
}

func TestObjectID(t *testing.T) {
	claims := base64.RawURLEncoding.EncodeToString([]byte(`{"oid":"o-1"}`))
	for token, want := range map[string]string{"h." + claims + ".s": "o-1", "opaque": "", "a.%.c": "", "a.e30.c": ""} {
		if got := ObjectID(token); got != want {
			t.Errorf("%q gives %q, want %q", token, got, want)
		}
	}
}

func TestBlames(t *testing.T) {
	partial := anySubscription + "rg/providers/Microsoft.ManagedIdentity/userAssignedIdentities/id_b"
	for name, test := range map[string]struct {
		named []string
		want  bool
	}{
		"the same ID in other letters": {[]string{strings.ToUpper(idB)}, true},
		"an ID without subscription":   {[]string{partial}, true},
		"another identity":             {[]string{idA}, false},
		"nobody":                       {nil, false},
	} {
		if got := Blames(test.named, idB); got != test.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

func TestMetricCodesAreFew(t *testing.T) {
	for code, want := range map[string]string{"TOOMANYREQUESTS": "TooManyRequests", "SomethingNew": OtherCode, "": OtherCode} {
		if got := MetricCode(&Error{Code: code}); got != want {
			t.Errorf("%q counts as %q, want %q", code, got, want)
		}
	}
	if got := MetricCode(errors.New("x")); got != OtherCode {
		t.Errorf("an error of another kind counts as %q", got)
	}
}
