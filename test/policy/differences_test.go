package policy_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	k8svalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	v1 "github.com/aad-pod-identity/aad-pod-identity/api/v1"
	"github.com/aad-pod-identity/aad-pod-identity/internal/validation"
)

// differences are all known ones; docs/policies.md lists the same.
var differences = []difference{
	{
		id:   "behavior-misspelt",
		text: "CEL cannot tell a slip from another word, so of the keys that are likely meant as `aadpodidentity.k8s.io/Behavior` the policy knows only other capitalisations, `Behaviour` and `Behaviors`, also under other `aadpodid…` domains",
		explains: func(_ string, _ map[string]any, findings field.ErrorList) bool {
			return all(findings, func(f *field.Error) bool {
				return strings.HasPrefix(f.Field, "metadata.annotations[") && slices.Contains(validation.RulesOf(f), validation.RuleBehaviorKeyMisspelt) ||
					slices.Contains(validation.RulesOf(f), validation.RuleBehaviorValue)
			})
		},
	},
	{
		id:   "null",
		text: "the API server drops a null where none belongs as it reads the object, so that the webhook does not even see it; `webhook lint` does, and says that it is no value",
		explains: func(_ string, _ map[string]any, findings field.ErrorList) bool {
			return all(findings, func(f *field.Error) bool { return strings.HasSuffix(f.Detail, ", not null") })
		},
	},
	{
		id:            "metadata",
		serverRefuses: true,
		text:          "metadata is the API server's own to judge, such as keys that no annotation can have and names of fields: the webhook sees none that the API server does not know, and a newer one may know more",
		explains: func(_ string, o map[string]any, _ field.ErrorList) bool {
			metadata, _ := o["metadata"].(map[string]any)
			annotations, _ := metadata["annotations"].(map[string]any)
			return slices.ContainsFunc(slices.Collect(maps.Keys(annotations)), func(key string) bool {
				return len(k8svalidation.IsQualifiedName(strings.ToLower(key))) > 0
			}) || metadata["Labels"] != nil || metadata["future"] != nil
		},
	},
	{
		id:            "size",
		serverRefuses: true,
		text:          "the CRDs bound sizes where the rules have no bound, because the API server limits what a CEL rule may cost: `resourceID` of types 1 and 2 to 1024 characters, `adEndpoint` to 2048",
		explains: func(_ string, o map[string]any, _ field.ErrorList) bool {
			spec, _ := o["spec"].(map[string]any)
			id, _ := spec["resourceID"].(string)
			endpoint, _ := spec["adEndpoint"].(string)
			return len(id) > 1024 || len(endpoint) > 2048
		},
	},
	{
		id:            "type-with-point",
		serverRefuses: true,
		text:          "a whole number with a point or an exponent, `1.0`, is none for CEL, so that the rules about `type` refuse it. kubectl sends `1`",
		explains: func(kind string, o map[string]any, _ field.ErrorList) bool {
			spec, _ := o["spec"].(map[string]any)
			_, float := spec["type"].(float64)
			return kind == v1.KindAzureIdentity && float
		},
	},
	{
		id:            "embedded-object",
		serverRefuses: true,
		text:          "the API server wants `apiVersion` and `kind` in the copies that an AzureAssignedIdentity holds, and metadata as every object has it",
		explains: func(kind string, o map[string]any, _ field.ErrorList) bool {
			return kind == v1.KindAzureAssignedIdentity && embedded(o)
		},
	},
	{
		id:            "condition",
		serverRefuses: true,
		text:          "the conditions in the status of an AzureAssignedIdentity, which only MIC writes, have the schema of all conditions: five fields are required, and their values have a form",
		explains: func(kind string, o map[string]any, _ field.ErrorList) bool {
			status, _ := o["status"].(map[string]any)
			return kind == v1.KindAzureAssignedIdentity && status["conditions"] != nil
		},
	},
}

func all(findings field.ErrorList, explained func(*field.Error) bool) bool {
	return len(findings) > 0 && !slices.ContainsFunc(findings, func(f *field.Error) bool { return !explained(f) })
}

// embedded reports whether a copy differs from a good one in what makes it an object.
func embedded(o map[string]any) bool {
	spec, _ := o["spec"].(map[string]any)
	for _, name := range []string{"azureIdentityRef", "azureBindingRef"} {
		ref, _ := spec[name].(map[string]any)
		if ref == nil {
			continue
		}
		metadata, _ := ref["metadata"].(map[string]any)
		good := map[string]any{"name": "demo", "namespace": "default"}
		kind := map[string]string{"azureIdentityRef": v1.KindAzureIdentity, "azureBindingRef": v1.KindAzureIdentityBinding}[name]
		if ref["apiVersion"] != v1.GroupVersion.String() || ref["kind"] != kind || !maps.EqualFunc(metadata, good, func(a, b any) bool { return a == b }) {
			return true
		}
	}
	return false
}

// handmade are samples that random mutations would hardly meet: one for each
// difference, and some that are none but were, or nearly.
func handmade(t *testing.T) []sample {
	t.Helper()
	annotated := func(key, value string) []byte {
		o := identity()
		o.SetAnnotations(map[string]string{key: value})
		return encode(t, o)
	}
	with := func(field string, value any) []byte {
		return encode(t, mutated(identity(), func(spec map[string]any) { spec[field] = value }))
	}
	sp := bases()[3]
	spWith := func(field string, value any) []byte {
		return encode(t, mutated(sp, func(spec map[string]any) { spec[field] = value }))
	}
	many := func(n int) []any {
		list := make([]any, n)
		for i := range list {
			list[i] = "contoso.com"
		}
		return list
	}
	labels := func(n int) []byte {
		pairs := map[string]any{}
		for i := range n {
			pairs[fmt.Sprintf("a-domain-of-some-length.example.com/a-key-of-some-length-%d", i)] = "value"
		}
		return encode(t, object(v1.KindAzurePodIdentityException, "exempt", map[string]any{"podLabels": pairs}))
	}
	assigned := bases()[9]
	id, binding, azureAssigned := v1.KindAzureIdentity, v1.KindAzureIdentityBinding, v1.KindAzureAssignedIdentity
	return []sample{
		{"the annotation with two letters swapped", id, annotated("aadpodidentity.k8s.io/Behaviro", v1.BehaviorNamespaced)},
		{"the annotation in another domain", id, annotated("aadpodidentity.io/Behavior", v1.BehaviorNamespaced)},
		{"the annotation in British English", id, annotated("aadpodidentity.k8s.io/behaviour", v1.BehaviorNamespaced)},
		{"the annotation with another value", id, annotated(v1.BehaviorAnnotationKey, "Namespaced")},
		{"the annotation in lower case", id, annotated("aadpodidentity.k8s.io/behavior", v1.BehaviorNamespaced)},
		{"the annotation on a binding", binding, encode(t, func() any {
			o := bases()[6]
			o.SetAnnotations(map[string]string{"aadpodidentity.k8s.io/behavior": "x"})
			return o
		}())},
		{"a malformed IPv6 address", id, with("adEndpoint", "https://[1:2:::3]/")},
		{"an IPv6 address", id, with("adEndpoint", "https://[::1]:8443/x")},
		{"an IPv4 address", id, with("adEndpoint", "https://10.0.0.1/x")},
		{"an annotation with a key that is none", id, annotated("a b", "x")},
		{"a field of the metadata that nobody knows", id, []byte(strings.Replace(string(encode(t, identity())), `"metadata":{`, `"metadata":{"future":1,`, 1))},
		{"a field of the metadata that is capitalised", id, []byte(strings.Replace(string(encode(t, identity())), `"metadata":{`, `"metadata":{"Labels":{"a":"b"},`, 1))},
		{"1000 labels of an exception", v1.KindAzurePodIdentityException, labels(1000)},
		{"1001 labels of an exception", v1.KindAzurePodIdentityException, labels(1001)},
		{"null for a text", id, with("adEndpoint", nil)},
		{"null for what is required", id, with("clientID", nil)},
		{"port 0", id, with("adEndpoint", "https://x:0/")},
		{"port 65536", id, with("adEndpoint", "https://x:65536/")},
		{"a long path", id, with("adEndpoint", "https://x/"+strings.Repeat("y", 2100))},
		{"a long resource ID of a service principal", id, spWith("resourceID", strings.Repeat("y", 1100))},
		{"100 tenants", id, spWith("auxiliaryTenantIDs", many(100))},
		{"101 tenants", id, spWith("auxiliaryTenantIDs", many(101))},
		{"a copy without kind", azureAssigned, encode(t, mutated(assigned, func(spec map[string]any) { delete(spec["azureIdentityRef"].(map[string]any), "kind") }))},
		{"a condition without reason", azureAssigned, encode(t, func() any {
			o := assigned.DeepCopy()
			o.Object["status"] = map[string]any{"conditions": []any{map[string]any{"type": "Assigned", "status": "True", "message": "", "lastTransitionTime": "2024-02-29T12:00:00Z"}}}
			return o
		}())},
		{"no spec", id, encode(t, func() any {
			o := identity()
			delete(o.Object, "spec")
			return o
		}())},
		{"a whole number with a point", id, with("replicas", json.Number("1.0"))},
		{"a number with an exponent", id, with("replicas", json.Number("1e3"))},
		{"a type with a point", id, with("type", json.Number("0.0"))},
		{"more than 32 bits", id, with("replicas", int64(1)<<31)},
		{"a field twice", id, []byte(strings.Replace(string(encode(t, identity())), `"type":0`, `"type":0,"type":0`, 1))},
		{"spec capitalised", id, []byte(strings.Replace(string(encode(t, identity())), `"spec"`, `"Spec"`, 1))},
	}
}
