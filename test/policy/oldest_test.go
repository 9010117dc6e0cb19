package policy_test

import (
	"strings"
	"testing"

	"github.com/google/cel-go/cel"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/version"
	"k8s.io/apiserver/pkg/cel/environment"
)

// celVersion is the version whose CEL libraries the oldest supported Kubernetes lets
// new expressions use: that before it, so that it can be rolled back.
const celVersion = "1.29"

// TestOldestVersion compiles every expression of the chart's policies and CRDs as the
// oldest supported Kubernetes would. It would not accept the policy, or the CRD,
// otherwise.
func TestOldestVersion(t *testing.T) {
	env, err := environment.MustBaseEnvSet(version.MustParseGeneric(celVersion)).NewExpressionsEnv().Extend(
		cel.Variable("object", cel.DynType), cel.Variable("oldObject", cel.DynType), cel.Variable("request", cel.DynType),
		cel.Variable("namespaceObject", cel.DynType), cel.Variable("variables", cel.DynType), cel.Variable("params", cel.DynType),
		cel.Variable("authorizer", cel.DynType), cel.Variable("self", cel.DynType), cel.Variable("oldSelf", cel.DynType),
	)
	if err != nil {
		t.Fatal(err)
	}
	compile := func(where, expression string) {
		t.Helper()
		if _, issues := env.Compile(expression); issues.Err() != nil {
			t.Errorf("%s: %v\n%s", where, issues.Err(), expression)
		}
	}
	compiled := 0
	objects := append(render(t, "--set", "webhook.requireUse=true"), ourCRDs(t)...)
	for _, o := range objects {
		switch o.GetKind() {
		case "ValidatingAdmissionPolicy", "CustomResourceDefinition", "MutatingWebhookConfiguration", "ValidatingWebhookConfiguration":
		default:
			continue
		}
		expressions(o.Object, func(expression string) {
			compiled++
			compile(o.GetKind()+" "+o.GetName(), expression)
		})
	}
	if compiled < 40 {
		t.Errorf("found only %d expressions", compiled)
	}
	// The check can fail: this library came with 1.31.
	if _, issues := env.Compile(`format.dns1123Label().validate("a")`); issues.Err() == nil {
		t.Error("a library of a later version is known")
	}
}

// expressions calls found for each CEL expression within a value.
func expressions(v any, found func(string)) {
	switch v := v.(type) {
	case map[string]any:
		for name, value := range v {
			text, ok := value.(string)
			if ok && (name == "expression" || name == "messageExpression" || name == "rule" && v["message"] != nil) {
				found(text)
			} else {
				expressions(value, found)
			}
		}
	case []any:
		for _, value := range v {
			expressions(value, found)
		}
	}
}

// TestResourceIDCasePolicyIsOptional holds that the strict rule is in force by
// default and only where IDs of any case are refused.
func TestResourceIDCasePolicyIsOptional(t *testing.T) {
	for value, want := range map[string]bool{"": true, "reject": true, "warn": false, "canonicalize": false} {
		t.Run("webhook.resourceIDCase="+value, func(t *testing.T) {
			var args []string
			if value != "" {
				args = []string{"--set", "webhook.resourceIDCase=" + value}
			}
			got := false
			for _, o := range staticPolicies(t, args...) {
				got = got || strings.HasSuffix(o.GetName(), "-resource-id-case")
			}
			if got != want {
				t.Errorf("rendered: %t, want %t", got, want)
			}
		})
	}
}

// TestCopiesHaveNoRules holds that controller-gen's output was freed of the rules
// where AzureAssignedIdentity embeds other kinds, and only there.
func TestCopiesHaveNoRules(t *testing.T) {
	for _, crd := range ourCRDs(t) {
		versions, _, err := unstructured.NestedSlice(crd.Object, "spec", "versions")
		if err != nil {
			t.Fatal(err)
		}
		spec, found, err := unstructured.NestedMap(versions[0].(map[string]any), "schema", "openAPIV3Schema", "properties", "spec")
		if err != nil || !found {
			t.Fatalf("%s: no spec (%v)", crd.GetName(), err)
		}
		if spec["x-kubernetes-validations"] == nil {
			t.Errorf("%s: the spec has no rules", crd.GetName())
		}
		if spec["x-kubernetes-preserve-unknown-fields"] != true {
			t.Errorf("%s: the spec does not keep unknown fields", crd.GetName())
		}
		properties := spec["properties"].(map[string]any)
		for _, name := range []string{"azureIdentityRef", "azureBindingRef"} {
			embedded, ok := properties[name].(map[string]any)
			if !ok {
				continue
			}
			if embedded["x-kubernetes-embedded-resource"] != true || embedded["x-kubernetes-preserve-unknown-fields"] != true {
				t.Errorf("%s.%s is no embedded resource that keeps unknown fields", crd.GetName(), name)
			}
			text := string(encode(t, map[string]any{"rules": embedded["x-kubernetes-validations"], "spec": embedded["properties"].(map[string]any)["spec"]}))
			for _, rule := range []string{`"x-kubernetes-validations"`, `"rules":[`, `"maxLength"`, `"maxItems"`, `"maxProperties"`, `"pattern"`, `"enum"`} {
				if strings.Contains(text, rule) {
					t.Errorf("%s.%s has %s", crd.GetName(), name, rule)
				}
			}
			if !strings.Contains(text, `"clientID"`) && !strings.Contains(text, `"selector"`) {
				t.Errorf("%s.%s has no types", crd.GetName(), name)
			}
		}
	}
}
