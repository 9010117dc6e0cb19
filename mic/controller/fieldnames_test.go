package controller

import (
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	v1 "github.com/aad-pod-identity/aad-pod-identity/api/v1"
)

func TestMendSpec(t *testing.T) {
	type object = map[string]any
	for name, test := range map[string]struct {
		kind      string
		spec      object
		want      object // nil: not changed
		conflicts []string
	}{
		"an identity of a release before 1.6.0": {
			kind: v1.KindAzureIdentity,
			spec: object{"type": int64(1), "ResourceID": "r", "ClientID": "c", "TenantID": "t", "ADResourceID": "a", "ADEndpoint": "e", "ClientPassword": object{"Name": "n", "Namespace": "ns"}},
			want: object{"type": int64(1), "resourceID": "r", "clientID": "c", "tenantID": "t", "adResourceID": "a", "adEndpoint": "e", "clientPassword": object{"name": "n", "namespace": "ns"}},
		},
		"a binding of a release before 1.6.0": {
			kind: v1.KindAzureIdentityBinding,
			spec: object{"AzureIdentity": "demo", "Selector": "web"}, want: object{"azureIdentity": "demo", "selector": "web"},
		},
		"an exception, whose labels are the user's": {
			kind: v1.KindAzurePodIdentityException,
			spec: object{"PodLabels": object{"PodLabels": "x", "App": "y"}}, want: object{"podLabels": object{"PodLabels": "x", "App": "y"}},
		},
		"any other capitalisation, which was accepted too": {
			kind: v1.KindAzureIdentity, spec: object{"resourceid": "r"}, want: object{"resourceID": "r"},
		},
		"the Secret's name alone": {
			kind: v1.KindAzureIdentity, spec: object{"clientPassword": object{"Name": "n"}}, want: object{"clientPassword": object{"name": "n"}},
		},
		"both spellings with one value": {
			kind: v1.KindAzureIdentity, spec: object{"ResourceID": "r", "resourceID": "r"}, want: object{"resourceID": "r"},
		},
		"both spellings with two values": {
			kind: v1.KindAzureIdentity, spec: object{"ResourceID": "other", "resourceID": "r", "ClientID": "c"},
			want: object{"ResourceID": "other", "resourceID": "r", "clientID": "c"}, conflicts: []string{"spec has ResourceID and resourceID with different values"},
		},
		"two wrong spellings with two values": {
			kind: v1.KindAzureIdentityBinding, spec: object{"SELECTOR": "a", "Selector": "b"},
			want: object{"selector": "a", "Selector": "b"}, conflicts: []string{"spec has Selector and selector with different values"},
		},
		"the right names":                          {kind: v1.KindAzureIdentity, spec: object{"type": int64(0), "resourceID": "r", "clientID": "c"}},
		"unknown names":                            {kind: v1.KindAzureIdentity, spec: object{"resourceIDs": "r", "metadata": object{"Name": "x"}}},
		"names of another kind":                    {kind: v1.KindAzureIdentityBinding, spec: object{"ResourceID": "r"}},
		"a kind that has no such names":            {kind: v1.KindAzureAssignedIdentity, spec: object{"Pod": "r"}},
		"a value of a wrong type where names were": {kind: v1.KindAzureIdentity, spec: object{"clientPassword": "secret"}},
	} {
		t.Run(name, func(t *testing.T) {
			before := cmp.Diff(nil, test.spec)
			changed, conflicts := mendSpec(test.kind, test.spec)
			if changed != (test.want != nil) || !slices.Equal(conflicts, test.conflicts) {
				t.Errorf("changed %v, conflicts %q", changed, conflicts)
			}
			if test.want == nil {
				if after := cmp.Diff(nil, test.spec); after != before {
					t.Errorf("changed: %s", after)
				}
				return
			}
			if diff := cmp.Diff(test.want, test.spec); diff != "" {
				t.Errorf("spec (-want +got):\n%s", diff)
			}
			if again, _ := mendSpec(test.kind, test.spec); again {
				t.Error("a second time changes it again")
			}
		})
	}
}
