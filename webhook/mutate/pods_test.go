package mutate

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	jsonpatch "gopkg.in/evanphx/json-patch.v4"
	admissionv1 "k8s.io/api/admission/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/webhook/admission"

	v1 "github.com/aad-pod-identity/aad-pod-identity/api/v1"
	"github.com/aad-pod-identity/aad-pod-identity/internal/binding"
)

// cluster is what the Tagger sees.
type cluster struct {
	bindings   []*v1.AzureIdentityBinding
	identities []*v1.AzureIdentity
	err        error
}

func (c cluster) BindingsBySelector(_ context.Context, value string) ([]*v1.AzureIdentityBinding, error) {
	var selected []*v1.AzureIdentityBinding
	for _, b := range c.bindings {
		if b.Spec.Selector == value {
			selected = append(selected, b)
		}
	}
	return selected, c.err
}

func (c cluster) Identity(_ context.Context, namespace, name string) (*v1.AzureIdentity, error) {
	for _, id := range c.identities {
		if id.Namespace == namespace && id.Name == name {
			return id, nil
		}
	}
	return nil, nil
}

func bindingTo(namespace, name, identity, selector string) *v1.AzureIdentityBinding {
	return &v1.AzureIdentityBinding{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name},
		Spec:       v1.AzureIdentityBindingSpec{AzureIdentity: identity, Selector: selector},
	}
}

func managedIdentity(namespace, name string) *v1.AzureIdentity {
	return &v1.AzureIdentity{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name},
		Spec: v1.AzureIdentitySpec{
			ResourceID: "/subscriptions/0f3c5e2a-91b7-4d1e-8c57-2b1f6a9d4e30/resourcegroups/rg/providers/Microsoft.ManagedIdentity/userAssignedIdentities/" + name,
		},
	}
}

func create(pod string) admission.Request {
	return admission.Request{AdmissionRequest: admissionv1.AdmissionRequest{
		Kind:      metav1.GroupVersionKind{Version: "v1", Kind: "Pod"},
		Namespace: "apps",
		Operation: admissionv1.Create,
		Object:    runtime.RawExtension{Raw: []byte(pod)},
	}}
}

// patched returns a pod after the patch of a response.
func patched(t *testing.T, pod string, resp admission.Response) string {
	t.Helper()
	if !resp.Allowed {
		t.Fatalf("refused: %+v", resp.Result)
	}
	if len(resp.Patches) > 0 {
		raw, err := json.Marshal(resp.Patches)
		if err != nil {
			t.Fatal(err)
		}
		patch, err := jsonpatch.DecodePatch(raw)
		if err != nil {
			t.Fatal(err)
		}
		result, err := patch.Apply([]byte(pod))
		if err != nil {
			t.Fatalf("patch %s: %v", raw, err)
		}
		pod = string(result)
	}
	return pod
}

// apply returns the pod's metadata after the patch of a response.
func apply(t *testing.T, pod string, resp admission.Response) map[string]any {
	t.Helper()
	pod = patched(t, pod, resp)
	var object struct {
		Metadata map[string]any `json:"metadata"`
	}
	if err := json.Unmarshal([]byte(pod), &object); err != nil {
		t.Fatal(err)
	}
	return object.Metadata
}

const (
	tagBinding  = `"aadpodidentity.k8s.io/binding"`
	tagIdentity = `"aadpodidentity.k8s.io/identity"`
	tagBindings = `"aadpodidentity.k8s.io/bindings"`
)

func metadata(t *testing.T, text string) map[string]any {
	t.Helper()
	var m map[string]any
	if err := json.Unmarshal([]byte(text), &m); err != nil {
		t.Fatal(err)
	}
	return m
}

func TestTagger(t *testing.T) {
	long := strings.Repeat("long-", 20) + "name"
	world := cluster{
		bindings: []*v1.AzureIdentityBinding{
			bindingTo("b", "second", "two", "web"),
			bindingTo("a", "first", "one", "web"),
			bindingTo("a", "lost", "nobody", "lost"),
			bindingTo("a", "half-1", "one", "half"),
			bindingTo("a", "half-2", "nobody", "half"),
			bindingTo("a", long, "one", "long"),
		},
		identities: []*v1.AzureIdentity{managedIdentity("a", "one"), managedIdentity("b", "two")},
	}
	crowded := strings.Repeat("x", apivalidation.TotalAnnotationSizeLimitB-40)
	var crowd cluster
	for i := range 2000 {
		crowd.bindings = append(crowd.bindings, bindingTo("a", fmt.Sprintf("b-%05d", i), fmt.Sprintf("one-%05d", i), "web"))
		crowd.identities = append(crowd.identities, managedIdentity("a", fmt.Sprintf("one-%05d", i)))
	}
	crowdList := ""
	for i := range 817 { // as many as 8 KiB hold
		crowdList += fmt.Sprintf("a/b-%05d,", i)
	}
	crowdList += "and 1183 more"
	tests := map[string]struct {
		cluster      *cluster // world if nil
		force        bool
		metadata     string
		want         string // "" is unchanged
		wantWarnings []string
	}{
		"the first match names the labels, all matches the annotation": {
			metadata: `{"name":"p","labels":{"aadpodidbinding":"web"}}`,
			want:     `{"name":"p","labels":{"aadpodidbinding":"web",` + tagBinding + `:"first",` + tagIdentity + `:"one"},"annotations":{` + tagBindings + `:"a/first,b/second"}}`,
		},
		"other labels and annotations stay": {
			metadata: `{"name":"p","labels":{"aadpodidbinding":"web","a":"b"},"annotations":{"c/d":"e"}}`,
			want:     `{"name":"p","labels":{"aadpodidbinding":"web","a":"b",` + tagBinding + `:"first",` + tagIdentity + `:"one"},"annotations":{"c/d":"e",` + tagBindings + `:"a/first,b/second"}}`,
		},
		"forged tags are overwritten": {
			metadata: `{"name":"p","labels":{"aadpodidbinding":"web",` + tagBinding + `:"forged",` + tagIdentity + `:"admin"},"annotations":{` + tagBindings + `:"a/forged"}}`,
			want:     `{"name":"p","labels":{"aadpodidbinding":"web",` + tagBinding + `:"first",` + tagIdentity + `:"one"},"annotations":{` + tagBindings + `:"a/first,b/second"}}`,
		},
		"forged tags go where nothing matches": {
			metadata:     `{"name":"p","labels":{"aadpodidbinding":"none",` + tagIdentity + `:"admin"},"annotations":{` + tagBindings + `:"a/forged","c":"d"}}`,
			want:         `{"name":"p","labels":{"aadpodidbinding":"none"},"annotations":{"c":"d"}}`,
			wantWarnings: []string{`no AzureIdentityBinding has selector "none" (yet): the pod gets no identity`},
		},
		"the identity of the only match does not exist": {
			metadata:     `{"generateName":"p-","labels":{"aadpodidbinding":"lost"}}`,
			wantWarnings: []string{"AzureIdentity a/nobody of AzureIdentityBinding a/lost does not exist"},
		},
		"the identity of one match does not exist": {
			metadata:     `{"name":"p","labels":{"aadpodidbinding":"half"}}`,
			want:         `{"name":"p","labels":{"aadpodidbinding":"half",` + tagBinding + `:"half-1",` + tagIdentity + `:"one"},"annotations":{` + tagBindings + `:"a/half-1"}}`,
			wantWarnings: []string{"AzureIdentity a/nobody of AzureIdentityBinding a/half-2 does not exist"},
		},
		"identities are for their own namespace": {
			force:    true,
			metadata: `{"name":"p","labels":{"aadpodidbinding":"web"}}`,
			wantWarnings: []string{
				"AzureIdentity a/one is for pods of namespace a only, pod apps/p is in another",
				"AzureIdentity b/two is for pods of namespace b only, pod apps/p is in another",
			},
		},
		"a name longer than a label value": {
			metadata: `{"name":"p","labels":{"aadpodidbinding":"long"}}`,
			want: `{"name":"p","labels":{"aadpodidbinding":"long",` + tagBinding + `:"` + binding.LabelValue(long) + `",` + tagIdentity + `:"one"},` +
				`"annotations":{` + tagBindings + `:"a/` + long + `"}}`,
		},
		"an empty label": {
			metadata: `{"name":"p","labels":{"aadpodidbinding":""}}`,
		},
		"tagged already, as at a reinvocation": {
			metadata: `{"name":"p","labels":{"aadpodidbinding":"web",` + tagBinding + `:"first",` + tagIdentity + `:"one"},"annotations":{` + tagBindings + `:"a/first,b/second"}}`,
		},
		"annotations that leave no room for another": {
			metadata: `{"name":"p","labels":{"aadpodidbinding":"web"},"annotations":{"big":"` + crowded + `"}}`,
			want:     `{"name":"p","labels":{"aadpodidbinding":"web",` + tagBinding + `:"first",` + tagIdentity + `:"one"},"annotations":{"big":"` + crowded + `"}}`,
		},
		"as many more bindings than can be listed": {
			cluster:  &crowd,
			metadata: `{"name":"p","labels":{"aadpodidbinding":"web"}}`,
			want: `{"name":"p","labels":{"aadpodidbinding":"web",` + tagBinding + `:"b-00000",` + tagIdentity + `:"one-00000"},` +
				`"annotations":{` + tagBindings + `:"` + crowdList + `"}}`,
		},
		"as many more bindings without an identity": {
			cluster:  &cluster{bindings: crowd.bindings},
			metadata: `{"name":"p","labels":{"aadpodidbinding":"web"}}`,
			wantWarnings: []string{
				"AzureIdentity a/one-00000 of AzureIdentityBinding a/b-00000 does not exist", "AzureIdentity a/one-00001 of AzureIdentityBinding a/b-00001 does not exist",
				"AzureIdentity a/one-00002 of AzureIdentityBinding a/b-00002 does not exist", "AzureIdentity a/one-00003 of AzureIdentityBinding a/b-00003 does not exist",
				"AzureIdentity a/one-00004 of AzureIdentityBinding a/b-00004 does not exist", "AzureIdentity a/one-00005 of AzureIdentityBinding a/b-00005 does not exist",
				"AzureIdentity a/one-00006 of AzureIdentityBinding a/b-00006 does not exist", "AzureIdentity a/one-00007 of AzureIdentityBinding a/b-00007 does not exist",
				"AzureIdentity a/one-00008 of AzureIdentityBinding a/b-00008 does not exist", "AzureIdentity a/one-00009 of AzureIdentityBinding a/b-00009 does not exist",
				`1990 more AzureIdentityBindings with selector "web" give the pod nothing`,
			},
		},
		"a mirror pod": {
			metadata: `{"name":"p","labels":{"aadpodidbinding":"web"},"annotations":{"kubernetes.io/config.mirror":"x"}}`,
		},
		"the cluster cannot be asked": {
			cluster:      &cluster{err: errors.New("no cache")},
			metadata:     `{"name":"p","labels":{"aadpodidbinding":"web",` + tagBinding + `:"forged"}}`,
			want:         `{"name":"p","labels":{"aadpodidbinding":"web"}}`,
			wantWarnings: []string{"the labels about pod identity are set later: no cache"},
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			tagger := &Tagger{Reader: world, ForceNamespaced: tt.force}
			if tt.cluster != nil {
				tagger.Reader = *tt.cluster
			}
			pod := fmt.Sprintf(`{"metadata":%s,"spec":{"x":"kept"}}`, tt.metadata)
			resp := tagger.Handle(t.Context(), create(pod))
			got := apply(t, pod, resp)
			want := tt.want
			if want == "" {
				want = tt.metadata
				if len(resp.Patches) > 0 {
					t.Errorf("the patch is not empty: %v", resp.Patches)
				}
			}
			if diff := cmp.Diff(metadata(t, want), got); diff != "" {
				t.Errorf("metadata (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(tt.wantWarnings, resp.Warnings); diff != "" {
				t.Errorf("warnings (-want +got):\n%s", diff)
			}
		})
	}
}

func TestStripper(t *testing.T) {
	tests := map[string]struct{ metadata, want string }{
		"tags without binding label go": {
			`{"labels":{"a":"b",` + tagBinding + `:"x",` + tagIdentity + `:"y"},"annotations":{` + tagBindings + `:"n/x"}}`,
			`{"labels":{"a":"b"},"annotations":{}}`,
		},
		"nothing to do":         {`{"name":"p"}`, `{"name":"p"}`},
		"the Tagger's business": {`{"labels":{"aadpodidbinding":"web",` + tagBinding + `:"x"}}`, `{"labels":{"aadpodidbinding":"web",` + tagBinding + `:"x"}}`},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			pod := fmt.Sprintf(`{"metadata":%s}`, tt.metadata)
			got := apply(t, pod, Stripper{}.Handle(t.Context(), create(pod)))
			if diff := cmp.Diff(metadata(t, tt.want), got); diff != "" {
				t.Errorf("metadata (-want +got):\n%s", diff)
			}
		})
	}
}

func TestRequestsThatAreNotThePodsCreation(t *testing.T) {
	const pod = `{"metadata":{"labels":{"aadpodidbinding":"web","aadpodidentity.k8s.io/binding":"x"}}}`
	tests := map[string]struct {
		change  func(*admission.Request)
		allowed bool
	}{
		"an update":     {func(r *admission.Request) { r.Operation = admissionv1.Update }, true},
		"a subresource": {func(r *admission.Request) { r.SubResource = "binding" }, true},
		"another kind":  {func(r *admission.Request) { r.Kind.Kind = "Node" }, false},
		"no object":     {func(r *admission.Request) { r.Object.Raw = nil }, false},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			for _, h := range []admission.Handler{&Tagger{Reader: cluster{}}, Stripper{}, &Injector{Tagger: &Tagger{Reader: cluster{}}}} {
				req := create(pod)
				tt.change(&req)
				resp := h.Handle(t.Context(), req)
				if resp.Allowed != tt.allowed || len(resp.Patches) > 0 {
					t.Errorf("%T: allowed %v, patches %v", h, resp.Allowed, resp.Patches)
				}
			}
		})
	}
}
