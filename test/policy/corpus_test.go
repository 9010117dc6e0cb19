package policy_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	v1 "github.com/aad-pod-identity/aad-pod-identity/api/v1"
	"github.com/aad-pod-identity/aad-pod-identity/test/helmtest"
)

const (
	// The mutations are the same in every run; AADPODID_POLICY_CASES asks for more.
	seed          = 3
	casesVariable = "AADPODID_POLICY_CASES"
	defaultCases  = 2000
)

// sample is one object of the corpus, in JSON.
type sample struct {
	name, kind string
	raw        []byte
}

// corpus is every manifest, then handmade samples, then random mutations of valid
// objects.
func corpus(t *testing.T) []sample {
	t.Helper()
	count := defaultCases
	if text := os.Getenv(casesVariable); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil {
			t.Fatalf("%s: %v", casesVariable, err)
		}
		count = n
	}
	samples := append(manifestSamples(t), handmade(t)...)
	bases := bases()
	for i := range count {
		random := rand.New(rand.NewPCG(seed, uint64(i)))
		o := bases[random.IntN(len(bases))].DeepCopy().Object
		var how []string
		for range 1 + random.IntN(2) {
			what := ""
			for what == "" {
				what = mutate(random, o)
			}
			how = append(how, what)
		}
		samples = append(samples, sample{
			name: fmt.Sprintf("mutation %d: %s", i, strings.Join(how, ", ")),
			kind: o["kind"].(string),
			raw:  encode(t, o),
		})
	}
	return samples
}

func manifestSamples(t *testing.T) []sample {
	t.Helper()
	files, err := filepath.Glob(manifests + "/*/*.yaml")
	if err != nil || len(files) < 40 {
		t.Fatalf("%d manifests in %s, %v", len(files), manifests, err)
	}
	var samples []sample
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, o := range helmtest.Objects(t, string(text)) {
			o.SetNamespace("default")
			samples = append(samples, sample{name: strings.TrimPrefix(file, manifests+"/"), kind: o.GetKind(), raw: encode(t, o.Object)})
		}
	}
	return samples
}

// bases are valid objects that hold every field.
func bases() []*unstructured.Unstructured {
	metadata := func() map[string]any {
		return map[string]any{
			"name": "a", "generateName": "a", "namespace": "b", "selfLink": "/a", "uid": "u", "resourceVersion": "1", "generation": int64(1),
			"creationTimestamp": "2024-02-29T12:00:00Z", "deletionTimestamp": nil, "deletionGracePeriodSeconds": int64(30),
			"labels": map[string]any{"a": "b"}, "annotations": map[string]any{"a": "b"}, "finalizers": []any{"x/y"},
			"ownerReferences": []any{map[string]any{"apiVersion": "v1", "kind": "Pod", "name": "a", "uid": "u", "controller": true, "blockOwnerDeletion": false}},
			"managedFields": []any{map[string]any{"manager": "m", "operation": "Apply", "apiVersion": "v1", "time": "2024-02-29T12:00:00+01:00",
				"fieldsType": "FieldsV1", "fieldsV1": map[string]any{"f:spec": map[string]any{}}, "subresource": "status"}},
		}
	}
	full := identity()
	full.SetAnnotations(map[string]string{v1.BehaviorAnnotationKey: v1.BehaviorNamespaced, "other": "x"})
	full.Object["spec"].(map[string]any)["metadata"] = metadata()
	full.Object["spec"].(map[string]any)["adResourceID"] = "https://management.azure.com/"
	full.Object["spec"].(map[string]any)["replicas"] = int64(1)
	sp := func(typ int64, tenant string) *unstructured.Unstructured {
		return object(v1.KindAzureIdentity, "sp", map[string]any{
			"type": typ, "tenantID": tenant, "clientID": strings.ToUpper(clientID),
			"clientPassword":     map[string]any{"name": "sp-secret.v1", "namespace": "default"},
			"adEndpoint":         "https://login.microsoftonline.com/",
			"auxiliaryTenantIDs": []any{"3d2f8b6c-5a1e-4c79-b0d4-8e6f2a1c9b57", "contoso.onmicrosoft.com"},
		})
	}
	assigned := object(v1.KindAzureAssignedIdentity, "assigned", map[string]any{
		"pod": "web", "podNamespace": "default", "nodename": "node-0", "replicas": int64(1), "metadata": metadata(),
		"azureIdentityRef": map[string]any{
			"apiVersion": v1.GroupVersion.String(), "kind": v1.KindAzureIdentity, "metadata": map[string]any{"name": "demo", "namespace": "default"},
			"spec":   map[string]any{"type": int64(1), "clientID": "odd", "clientPassword": map[string]any{"name": "A_", "namespace": ""}, "metadata": map[string]any{"name": "a"}},
			"status": map[string]any{"availableReplicas": int64(1), "metadata": map[string]any{"name": "a"}},
		},
		"azureBindingRef": map[string]any{
			"apiVersion": v1.GroupVersion.String(), "kind": v1.KindAzureIdentityBinding, "metadata": map[string]any{"name": "demo", "namespace": "default"},
			"spec":   map[string]any{"azureIdentity": "", "selector": "not a label", "weight": int64(1)},
			"status": map[string]any{"availableReplicas": int64(1)},
		},
	})
	assigned.Object["status"] = map[string]any{
		"status": "Assigned", "availableReplicas": int64(1), "metadata": map[string]any{"name": "a"},
		"conditions": []any{map[string]any{"type": "Assigned", "status": "True", "reason": "Done", "message": "", "lastTransitionTime": "2024-02-29T12:00:00Z"}},
	}
	exception := object(v1.KindAzurePodIdentityException, "exempt", map[string]any{
		"podLabels": map[string]any{"app": "exempt", "kubernetes.azure.com/managedby": "aks", "empty": ""},
		"metadata":  metadata(),
	})
	exception.Object["status"] = map[string]any{"status": "kept", "metadata": map[string]any{"name": "a"}}
	return []*unstructured.Unstructured{
		identity(),
		mutated(identity(), func(spec map[string]any) {
			spec["resourceID"] = "/subscriptions/0F3C5E2A-91b7-4d1e-8c57-2b1f6a9d4e30/resourceGroups/_Größe(1).x-7/providers/Microsoft.ManagedIdentity/userAssignedIdentities/De-mo_1"
			delete(spec, "type")
		}),
		full,
		sp(1, "3d2f8b6c-5a1e-4c79-b0d4-8e6f2a1c9b57"),
		sp(2, "contoso.onmicrosoft.com"),
		object(v1.KindAzureIdentityBinding, "binding", map[string]any{"azureIdentity": "demo.v1", "selector": "De_mo.1", "weight": int64(2), "metadata": metadata()}),
		object(v1.KindAzureIdentityBinding, "binding", map[string]any{"azureIdentity": "demo", "selector": "d"}),
		exception,
		object(v1.KindAzurePodIdentityException, "exempt", map[string]any{"podLabels": map[string]any{"app": "exempt"}}),
		assigned,
	}
}

// place is where a value stands: in an object under a name, or in a list.
type place struct {
	object map[string]any
	name   string
	list   []any
	index  int
	path   string
}

func (p place) get() any {
	if p.object != nil {
		return p.object[p.name]
	}
	return p.list[p.index]
}

func (p place) set(v any) {
	if p.object != nil {
		p.object[p.name] = v
		return
	}
	p.list[p.index] = v
}

// places lists the values below what users write and the rules judge.
func places(o map[string]any) []place {
	var all []place
	var walk func(v any, path string)
	walk = func(v any, path string) {
		switch v := v.(type) {
		case map[string]any:
			for _, name := range slices.Sorted(maps.Keys(v)) {
				all = append(all, place{object: v, name: name, path: path + "." + name})
				walk(v[name], path+"."+name)
			}
		case []any:
			for i := range v {
				at := fmt.Sprintf("%s[%d]", path, i)
				all = append(all, place{list: v, index: i, path: at})
				walk(v[i], at)
			}
		}
	}
	for _, part := range []string{"spec", "status"} {
		if v, ok := o[part]; ok {
			if part == "spec" {
				all = append(all, place{object: o, name: part, path: part})
			}
			walk(v, part)
		}
	}
	if metadata, _ := o["metadata"].(map[string]any); metadata["annotations"] != nil {
		annotations, _ := metadata["annotations"].(map[string]any)
		for _, name := range slices.Sorted(maps.Keys(annotations)) {
			all = append(all, place{object: annotations, name: name, path: "annotations." + name})
		}
	}
	return all
}

// mutate changes one thing and says what; "" is nothing.
func mutate(random *rand.Rand, o map[string]any) string {
	all := places(o)
	if len(all) == 0 {
		return "nothing is left"
	}
	p := all[random.IntN(len(all))]
	annotation := strings.HasPrefix(p.path, "annotations.")
	text, isText := p.get().(string)
	object, isObject := p.get().(map[string]any)
	switch op := random.IntN(10); {
	case op < 2 && p.object != nil: // a name in another capitalisation
		name := recase(random, p.name)
		if random.IntN(4) > 0 {
			p.object[name] = p.get()
			if name != p.name {
				delete(p.object, p.name)
			}
			return p.path + " is called " + name
		}
		p.object[name] = p.get()
		return p.path + " is also called " + name
	case op == 2 && p.object != nil:
		delete(p.object, p.name)
		return p.path + " is dropped"
	case op == 3 && !annotation:
		all := values()
		v := all[random.IntN(len(all))]
		p.set(v)
		return fmt.Sprintf("%s is %T %v", p.path, v, v)
	case op == 4 && isObject && !annotation:
		name := words[random.IntN(len(words))]
		object[name] = "x"
		return p.path + " has " + name
	case op == 5 && p.object != nil: // a typing mistake in a name
		name := alter(random, p.name)
		p.object[name] = p.get()
		if name != p.name {
			delete(p.object, p.name)
		}
		return fmt.Sprintf("%s is called %q", p.path, name)
	case isText && op == 6:
		p.set(words[random.IntN(len(words))])
		return fmt.Sprintf("%s is %q", p.path, p.get())
	case isText && op == 7:
		p.set(recase(random, text))
		return fmt.Sprintf("%s is %q", p.path, p.get())
	case isText && text != "" && op == 8 && random.IntN(3) == 0:
		n := lengths[random.IntN(len(lengths))]
		p.set(strings.Repeat(text, n/len(text)+1)[:n])
		return fmt.Sprintf("%s has %d bytes", p.path, n)
	case isText:
		p.set(alter(random, text))
		return fmt.Sprintf("%s is %q", p.path, p.get())
	}
	return ""
}

// values are of every JSON type.
func values() []any {
	return []any{
		nil, "", "0", "1", "true", int64(0), int64(1), int64(2), int64(3), int64(-1), int64(1) << 31, 1.5, json.Number("1.0"), json.Number("1e1"),
		true, []any{}, []any{"x"}, []any{nil}, []any{int64(1)}, map[string]any{}, map[string]any{"a": "b"}, map[string]any{"a": int64(1)},
	}
}

var (
	words = []string{
		"", "x", "demo", "default/demo", "Demo", "unknown", "name", "Name", "type", "resourceID", "ResourceID", "clientId", "spec", "nodename", "nodeName",
		"podLabels", "app.kubernetes.io/name", "a/b/c", "/a", "a/", "-a", "a-", "a b", clientID, "{" + clientID + "}", strings.ReplaceAll(clientID, "-", ""),
		" " + clientID, "contoso.onmicrosoft.com", "contoso", "Contoso.COM", ".com", "a..b", "https://login.microsoftonline.com", "http://login.microsoftonline.com/",
		"HTTPS://x/", "https://", "https://u@x/", "https://x/?q", "https://x?", "https://x/#f", "https://x/#", "https://x:1/a%zz", "https://[::1]:443/", "https:x", "//x/", "https://x y/",
		"namespaced", "Namespaced", "2024-02-30T00:00:00Z", "2024-02-29T00:00:00Z", "yesterday", "ſ", "é", "a\nb", "\u200bdemo",
	}
	lengths  = []int{1, 2, 3, 36, 63, 64, 90, 91, 128, 129, 253, 254, 317, 1024, 1025, 2048, 2049}
	alphabet = []rune("aZ09-_./ @#?%:\"'\\()éſ\n\t\u200b\u0660")
)

func recase(random *rand.Rand, s string) string {
	switch random.IntN(5) {
	case 0:
		return strings.ToUpper(s)
	case 1:
		return strings.ToLower(s)
	case 2:
		if s != "" {
			return strings.ToUpper(s[:1]) + s[1:]
		}
		return s
	default:
		runes := []rune(s)
		if len(runes) == 0 {
			return s
		}
		i := random.IntN(len(runes))
		if one := string(runes[i]); strings.ToUpper(one) != one {
			runes[i] = []rune(strings.ToUpper(one))[0]
		} else {
			runes[i] = []rune(strings.ToLower(one))[0]
		}
		return string(runes)
	}
}

func alter(random *rand.Rand, s string) string {
	runes := []rune(s)
	r := alphabet[random.IntN(len(alphabet))]
	at := random.IntN(len(runes) + 1)
	if len(runes) > 0 && random.IntN(4) == 0 { // the ends are where mistakes are made
		at = []int{0, len(runes)}[random.IntN(2)]
	}
	switch random.IntN(3) {
	case 0:
		return string(slices.Insert(runes, at, r))
	case 1:
		if at < len(runes) {
			return string(slices.Delete(runes, at, at+1))
		}
		return string(append(runes, r))
	default:
		if at < len(runes) {
			runes[at] = r
		}
		return string(runes)
	}
}
