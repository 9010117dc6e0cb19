package chart_test

import (
	"slices"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// Which policies about rights there are, and that each is in force and fails closed.
func TestPoliciesAboutRights(t *testing.T) {
	const assigned, references, exceptions, use = "assigned-identities", "references", "exceptions", "use"
	tests := map[string]struct {
		set  string
		want []string
	}{
		"by default":            {want: []string{assigned, references, exceptions}},
		"exceptions for anyone": {set: "webhook.exceptionsRequireUse=false", want: []string{assigned, references}},
		"identities by right":   {set: "webhook.requireUse=true", want: []string{assigned, references, exceptions, use}},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			all := mustRender(t, "--set", tc.set)
			for _, policy := range []string{assigned, references, exceptions, use} {
				full := "aad-pod-identity-" + policy
				p, b := all["ValidatingAdmissionPolicy/"+full], all["ValidatingAdmissionPolicyBinding/"+full]
				if want := slices.Contains(tc.want, policy); (p != nil) != want || (b != nil) != want {
					t.Errorf("%s: policy %v and binding %v, want both %v", policy, p != nil, b != nil, want)
				}
				if p == nil || b == nil {
					continue
				}
				if fail, _, _ := unstructured.NestedString(p.Object, "spec", "failurePolicy"); fail != "Fail" {
					t.Errorf("%s: failurePolicy %q", policy, fail)
				}
				if actions, _, _ := unstructured.NestedStringSlice(b.Object, "spec", "validationActions"); !slices.Equal(actions, []string{"Deny"}) {
					t.Errorf("%s: validationActions %q", policy, actions)
				}
				if name, _, _ := unstructured.NestedString(b.Object, "spec", "policyName"); name != full {
					t.Errorf("%s: the binding is for %q", policy, name)
				}
			}
		})
	}
}

// Access reviews are a right that MIC and webhook have only where they make some, and
// the flag says so to both.
func TestRequireUse(t *testing.T) {
	for set, want := range map[string]bool{"webhook.requireUse=true": true, "webhook.requireUse=false": false} {
		t.Run(set, func(t *testing.T) {
			all := mustRender(t, "--set", set+",rbac.createUserFacingClusterRoles=true")
			for _, component := range []string{"mic", "webhook"} {
				args := arguments(t, all.get(t, "Deployment/aad-pod-identity-"+component))
				if got := slices.Contains(args, "--require-use=true"); got != want {
					t.Errorf("%s: --require-use %v", component, got)
				}
				if got := grants(t, all.get(t, "ClusterRole/aad-pod-identity-"+component), "subjectaccessreviews", "create"); got != want {
					t.Errorf("%s may make access reviews: %v", component, got)
				}
			}
			edit := all.get(t, "ClusterRole/aad-pod-identity-edit")
			if got := grants(t, edit, "azureidentities", "use"); got != want {
				t.Errorf("the role edit may use identities: %v", got)
			}
			// Not what edit means in a namespace: it would be the node's identity.
			if grants(t, edit, "azurepodidentityexceptions", "use") || grants(t, edit, "*", "use") {
				t.Error("the role edit may use exceptions")
			}
		})
	}
}

func grants(t *testing.T, role *unstructured.Unstructured, resource, verb string) bool {
	t.Helper()
	rules, _, err := unstructured.NestedSlice(role.Object, "rules")
	if err != nil {
		t.Fatal(err)
	}
	return slices.ContainsFunc(rules, func(r any) bool {
		rule := r.(map[string]any)
		return slices.Contains(rule["resources"].([]any), any(resource)) && slices.Contains(rule["verbs"].([]any), any(verb))
	})
}

// Policies hold for our objects of every version and for their subresources.
func TestPoliciesAboutRightsMissNothing(t *testing.T) {
	all := mustRender(t, "--set", "webhook.requireUse=true")
	for policy, resource := range map[string]string{
		"assigned-identities": "azureassignedidentities", "references": "azureidentities", "exceptions": "azurepodidentityexceptions", "use": "azureidentitybindings",
	} {
		rules, _, _ := unstructured.NestedSlice(all.get(t, "ValidatingAdmissionPolicy/aad-pod-identity-"+policy).Object, "spec", "matchConstraints", "resourceRules")
		if len(rules) != 1 {
			t.Fatalf("%s: %d rules", policy, len(rules))
		}
		rule := rules[0].(map[string]any)
		for field, want := range map[string][]any{
			"apiGroups": {"aadpodidentity.k8s.io"}, "apiVersions": {"*"}, "operations": {"CREATE", "UPDATE"}, "resources": {resource, resource + "/*"},
		} {
			if got, _ := rule[field].([]any); !slices.Equal(got, want) {
				t.Errorf("%s: %s is %v, want %v", policy, field, got, want)
			}
		}
	}
}

func TestAuthorityHosts(t *testing.T) {
	text := func(args ...string) string {
		p := mustRender(t, args...).get(t, "ValidatingAdmissionPolicy/aad-pod-identity-references")
		validations, _, _ := unstructured.NestedSlice(p.Object, "spec", "validations")
		return validations[len(validations)-1].(map[string]any)["expression"].(string)
	}
	const known = `["login.microsoftonline.com","login.microsoftonline.us","login.partner.microsoftonline.cn","login.chinacloudapi.cn"`
	if got := text(); !strings.HasSuffix(got, known+"]") {
		t.Errorf("by default: %s", got)
	}
	if got := text("--set", "allowedAuthorityHosts={Adfs.Example.com:443,10.0.0.4:8443,login.microsoftonline.us}"); !strings.HasSuffix(got, known+`,"adfs.example.com","10.0.0.4:8443"]`) {
		t.Errorf("with others: %s", got)
	}
}
