package binding

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"

	v1 "github.com/aad-pod-identity/aad-pod-identity/api/v1"
)

func identity(ns, name string, mod ...func(*v1.AzureIdentity)) *v1.AzureIdentity {
	id := &v1.AzureIdentity{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name}}
	for _, m := range mod {
		m(id)
	}
	return id
}

func bindingTo(ns, name, identity, selector string) *v1.AzureIdentityBinding {
	return &v1.AzureIdentityBinding{
		ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name},
		Spec:       v1.AzureIdentityBindingSpec{AzureIdentity: identity, Selector: selector},
	}
}

func behavior(value string) func(*v1.AzureIdentity) {
	return func(id *v1.AzureIdentity) {
		id.Annotations = map[string]string{v1.BehaviorAnnotationKey: value}
	}
}

func deletingIdentity(id *v1.AzureIdentity) {
	now := metav1.Now()
	id.DeletionTimestamp = &now
}

func TestForPod(t *testing.T) {
	web := Pod{Namespace: "team-b", Name: "web-0", Label: "web"}
	tests := map[string]struct {
		pod        Pod
		bindings   []*v1.AzureIdentityBinding
		identities []*v1.AzureIdentity
		invalid    string // name of an identity that Valid refuses
		force      bool
		matches    []string // binding=identity
		skipped    []string // binding:reason
	}{
		"a pod without the label gets nothing, not even by an empty selector": {
			pod:        Pod{Namespace: "team-b", Name: "web-0"},
			bindings:   []*v1.AzureIdentityBinding{bindingTo("team-b", "b", "id", "")},
			identities: []*v1.AzureIdentity{identity("team-b", "id")},
		},
		"a selector of another case is another selector": {
			pod:        web,
			bindings:   []*v1.AzureIdentityBinding{bindingTo("team-b", "b", "id", "Web")},
			identities: []*v1.AzureIdentity{identity("team-b", "id")},
		},
		"bindings of all namespaces match, in the order of namespace, then name": {
			pod: web,
			bindings: []*v1.AzureIdentityBinding{
				bindingTo("team-b", "a", "b-a", "web"), bindingTo("team-a", "z", "a-z", "web"), bindingTo("team-a", "c", "a-c", "web"),
			},
			identities: []*v1.AzureIdentity{identity("team-b", "b-a"), identity("team-a", "a-z"), identity("team-a", "a-c")},
			matches:    []string{"team-a/c=team-a/a-c", "team-a/z=team-a/a-z", "team-b/a=team-b/b-a"},
		},
		"the identity is looked up in the binding's namespace, not the pod's": {
			pod:        web,
			bindings:   []*v1.AzureIdentityBinding{bindingTo("team-a", "b", "id", "web")},
			identities: []*v1.AzureIdentity{identity("team-b", "id")},
			skipped:    []string{"team-a/b:IdentityNotFound"},
		},
		"a deleted identity is as good as none": {
			pod:        web,
			bindings:   []*v1.AzureIdentityBinding{bindingTo("team-b", "b", "id", "web")},
			identities: []*v1.AzureIdentity{identity("team-b", "id", deletingIdentity)},
			skipped:    []string{"team-b/b:IdentityNotFound"},
		},
		"an invalid identity does not keep a later one of its name away": {
			pod:        web,
			bindings:   []*v1.AzureIdentityBinding{bindingTo("team-a", "b", "id", "web"), bindingTo("team-b", "b", "id", "web")},
			identities: []*v1.AzureIdentity{identity("team-a", "id"), identity("team-b", "id")},
			invalid:    "team-a/id",
			matches:    []string{"team-b/b=team-b/id"},
			skipped:    []string{"team-a/b:IdentityInvalid"},
		},
		"an identity with the namespaced annotation is for its own namespace": {
			pod:        web,
			bindings:   []*v1.AzureIdentityBinding{bindingTo("team-a", "b", "a", "web"), bindingTo("team-b", "b", "b", "web")},
			identities: []*v1.AzureIdentity{identity("team-a", "a", behavior("namespaced")), identity("team-b", "b", behavior("namespaced"))},
			matches:    []string{"team-b/b=team-b/b"},
			skipped:    []string{"team-a/b:OtherNamespace"},
		},
		"a miscapitalised value of the annotation confines too": {
			pod:        web,
			bindings:   []*v1.AzureIdentityBinding{bindingTo("team-a", "b", "a", "web")},
			identities: []*v1.AzureIdentity{identity("team-a", "a", behavior("Namespaced"))},
			skipped:    []string{"team-a/b:OtherNamespace"},
		},
		"the cluster-wide setting confines every identity": {
			pod:        web,
			force:      true,
			bindings:   []*v1.AzureIdentityBinding{bindingTo("team-a", "b", "a", "web"), bindingTo("team-b", "b", "b", "web")},
			identities: []*v1.AzureIdentity{identity("team-a", "a"), identity("team-b", "b")},
			matches:    []string{"team-b/b=team-b/b"},
			skipped:    []string{"team-a/b:OtherNamespace"},
		},
		"it is looked at before the identity is": {
			pod:        web,
			force:      true,
			bindings:   []*v1.AzureIdentityBinding{bindingTo("team-a", "b", "none", "web"), bindingTo("team-c", "b", "bad", "web"), bindingTo("team-d", "b", "gone", "web")},
			identities: []*v1.AzureIdentity{identity("team-c", "bad"), identity("team-d", "gone", deletingIdentity)},
			invalid:    "team-c/bad",
			skipped:    []string{"team-a/b:OtherNamespace", "team-c/b:OtherNamespace", "team-d/b:OtherNamespace"},
		},
		"the annotation is looked at before the rest of an identity is": {
			pod:        web,
			bindings:   []*v1.AzureIdentityBinding{bindingTo("team-a", "b", "bad", "web"), bindingTo("team-b", "b", "own", "web")},
			identities: []*v1.AzureIdentity{identity("team-a", "bad", behavior("namespaced")), identity("team-b", "own", behavior("namespaced"))},
			invalid:    "team-a/bad",
			matches:    []string{"team-b/b=team-b/own"},
			skipped:    []string{"team-a/b:OtherNamespace"},
		},
		"two bindings to one identity give it once": {
			pod:        web,
			bindings:   []*v1.AzureIdentityBinding{bindingTo("team-b", "b2", "id", "web"), bindingTo("team-b", "b1", "id", "web")},
			identities: []*v1.AzureIdentity{identity("team-b", "id")},
			matches:    []string{"team-b/b1=team-b/id"},
			skipped:    []string{"team-b/b2:SameIdentity"},
		},
		"of one name in two namespaces the first wins": {
			pod:        web,
			bindings:   []*v1.AzureIdentityBinding{bindingTo("team-b", "b", "id", "web"), bindingTo("team-a", "b", "id", "web")},
			identities: []*v1.AzureIdentity{identity("team-a", "id"), identity("team-b", "id")},
			matches:    []string{"team-a/b=team-a/id"},
			skipped:    []string{"team-b/b:SameName"},
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			byName := map[string]*v1.AzureIdentity{}
			for _, id := range tc.identities {
				byName[id.Namespace+"/"+id.Name] = id
			}
			r := ForPod(Input{
				Pod: tc.pod, Bindings: tc.bindings, ForceNamespaced: tc.force,
				Identity: func(ns, n string) *v1.AzureIdentity { return byName[ns+"/"+n] },
				Valid: func(id *v1.AzureIdentity) error {
					if id.Namespace+"/"+id.Name == tc.invalid {
						return errors.New("spec.resourceID: Invalid value")
					}
					return nil
				},
			})
			var matches, skipped []string
			for _, m := range r.Matches {
				matches = append(matches, m.Binding.Namespace+"/"+m.Binding.Name+"="+m.Identity.Namespace+"/"+m.Identity.Name)
			}
			for _, s := range r.Skipped {
				skipped = append(skipped, s.Binding.Namespace+"/"+s.Binding.Name+":"+s.Reason)
				if s.Message == "" {
					t.Errorf("%s is skipped without a message", s.Binding.Name)
				}
			}
			if diff := cmp.Diff(tc.matches, matches); diff != "" {
				t.Errorf("matches (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(tc.skipped, skipped); diff != "" {
				t.Errorf("skipped (-want +got):\n%s", diff)
			}
		})
	}
}

func TestTags(t *testing.T) {
	long := strings.Repeat("a", 120)
	match := func(ns, b, id string) Match {
		return Match{Binding: bindingTo(ns, b, id, "web"), Identity: identity(ns, id)}
	}
	tests := map[string]struct {
		matches []Match
		want    Tags
	}{
		"no match, no tags": {},
		"the first match is the label, all are the annotation": {
			matches: []Match{match("a", "b1", "i1"), match("b", "b2", "i2")},
			want:    Tags{Binding: "b1", Identity: "i1", Bindings: "a/b1,b/b2"},
		},
		"a name too long for a label is shortened in the label only": {
			matches: []Match{match("a", long, "i")},
			want:    Tags{Binding: LabelValue(long), Identity: "i", Bindings: "a/" + long},
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(tc.want, Result{Matches: tc.matches}.Tags()); diff != "" {
				t.Errorf("Tags (-want +got):\n%s", diff)
			}
		})
	}
}

func TestTagsOfVeryManyBindings(t *testing.T) {
	matches := func(n int) Result {
		var r Result
		for i := range n {
			name := fmt.Sprintf("%s-%05d", strings.Repeat("b", 200), i)
			r.Matches = append(r.Matches, Match{Binding: bindingTo("ns", name, "i", "web"), Identity: identity("ns", "i")})
		}
		return r
	}
	for _, n := range []int{1, 30, 1000, 50_000} {
		text := matches(n).Tags().Bindings
		names, more, _ := strings.Cut(text, ",and ")
		listed := len(strings.Split(names, ","))
		if more != "" {
			rest := 0
			if _, err := fmt.Sscanf(more, "%d more", &rest); err != nil {
				t.Fatalf("%d bindings: the list ends with %q", n, more)
			}
			listed += rest
		}
		if listed != n || len(text) > MaxBindingsLength || (n <= 30) != (more == "") {
			t.Errorf("%d bindings: %d bytes, that account for %d", n, len(text), listed)
		}
	}
}

func TestLabelValue(t *testing.T) {
	dotted := strings.Repeat("a", 50) + "..." + strings.Repeat("b", 60)
	for _, name := range []string{"short", strings.Repeat("a", 63), strings.Repeat("a", 64), strings.Repeat("a", 253), dotted} {
		got := LabelValue(name)
		if errs := validation.IsValidLabelValue(got); len(errs) > 0 {
			t.Errorf("LabelValue(%q) = %q is no label value: %v", name, got, errs)
		}
		if len(name) <= 63 && got != name {
			t.Errorf("LabelValue(%q) = %q changes a name that fits", name, got)
		}
	}
	if LabelValue(strings.Repeat("a", 100)) == LabelValue(strings.Repeat("a", 101)) {
		t.Error("two long names with the same beginning get the same label value")
	}
}

func TestException(t *testing.T) {
	exc := func(ns, name string, labels map[string]string) *v1.AzurePodIdentityException {
		return &v1.AzurePodIdentityException{
			ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name},
			Spec:       v1.AzurePodIdentityExceptionSpec{PodLabels: labels},
		}
	}
	tests := map[string]struct {
		labels map[string]string
		all    []*v1.AzurePodIdentityException
		want   string
	}{
		"one of several pairs is enough": {
			labels: map[string]string{"app": "proxy"},
			all:    []*v1.AzurePodIdentityException{exc("ns", "e", map[string]string{"app": "proxy", "tier": "node"})},
			want:   "e",
		},
		"values ignore case": {
			labels: map[string]string{"app": "Proxy"},
			all:    []*v1.AzurePodIdentityException{exc("ns", "e", map[string]string{"app": "pRoxy"})},
			want:   "e",
		},
		"keys do not": {
			labels: map[string]string{"App": "proxy"},
			all:    []*v1.AzurePodIdentityException{exc("ns", "e", map[string]string{"app": "proxy"})},
		},
		"an absent label does not equal an empty value": {
			labels: map[string]string{},
			all:    []*v1.AzurePodIdentityException{exc("ns", "e", map[string]string{"app": ""})},
		},
		"an exception of another namespace is none": {
			labels: map[string]string{"app": "proxy"},
			all:    []*v1.AzurePodIdentityException{exc("other", "e", map[string]string{"app": "proxy"})},
		},
		"an exception without labels excepts nobody": {
			labels: map[string]string{"app": "proxy"},
			all:    []*v1.AzurePodIdentityException{exc("ns", "e", nil)},
		},
		"the first by name": {
			labels: map[string]string{"app": "proxy"},
			all: []*v1.AzurePodIdentityException{
				exc("ns", "z", map[string]string{"app": "proxy"}), exc("ns", "a", map[string]string{"app": "proxy"}),
			},
			want: "a",
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			got := ""
			if e := Exception("ns", tc.labels, tc.all); e != nil {
				got = e.Name
			}
			if got != tc.want {
				t.Errorf("Exception = %q, want %q", got, tc.want)
			}
		})
	}
}
