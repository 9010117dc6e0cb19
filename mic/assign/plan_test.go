package assign

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	v1 "github.com/aad-pod-identity/aad-pod-identity/api/v1"
	"github.com/aad-pod-identity/aad-pod-identity/internal/binding"
)

const resource = "/subscriptions/11111111-2222-3333-4444-555555555555/resourcegroups/rg/providers/Microsoft.ManagedIdentity/userAssignedIdentities/"

func pod(change ...func(*Pod)) *Pod {
	p := &Pod{Namespace: "ns", Name: "app", UID: "pod-uid", Node: "node0"}
	for _, c := range change {
		c(p)
	}
	return p
}

// match gives a binding and an identity of one name.
func match(name string, change ...func(*binding.Match)) binding.Match {
	m := binding.Match{
		Binding: &v1.AzureIdentityBinding{
			ObjectMeta: metav1.ObjectMeta{Namespace: "ids", Name: name, UID: types.UID("b-" + name), ResourceVersion: "7", Labels: map[string]string{"a": "b"}},
			Spec:       v1.AzureIdentityBindingSpec{AzureIdentity: name, Selector: "demo"},
		},
		Identity: &v1.AzureIdentity{
			ObjectMeta: metav1.ObjectMeta{Namespace: "ids", Name: name, UID: types.UID("i-" + name), ResourceVersion: "8", Annotations: map[string]string{"note": "x"}},
			Spec:       v1.AzureIdentitySpec{ResourceID: resource + name, ClientID: "client"},
		},
	}
	for _, c := range change {
		c(&m)
	}
	return m
}

func namespacedMatch(m *binding.Match) {
	m.Identity.Annotations = map[string]string{v1.BehaviorAnnotationKey: v1.BehaviorNamespaced}
}

// existing is the object as this package would have made it, then Assigned, then
// changed.
func existing(p *Pod, m binding.Match, change ...func(*v1.AzureAssignedIdentity)) *v1.AzureAssignedIdentity {
	plan := ForPod(Input{Pod: p, Matches: []binding.Match{m}})
	a := plan.Create[0].DeepCopy()
	a.UID, a.ResourceVersion = "a-uid", "9"
	a.CreationTimestamp = metav1.NewTime(time.Unix(1000, 0))
	a.Status.Status = v1.AssignedIDAssigned
	a.Status.Conditions = []metav1.Condition{{Type: v1.ConditionAssigned, Status: metav1.ConditionTrue, Reason: v1.ReasonAssigned}}
	for _, c := range change {
		c(a)
	}
	return a
}

// outline renders a plan as lines, in a form that a test can write.
func outline(p Plan) []string {
	var lines []string
	name := func(a *v1.AzureAssignedIdentity) string { return a.Namespace + "/" + a.Name }
	for _, a := range p.Create {
		lines = append(lines, "create "+name(a))
	}
	for _, a := range p.Update {
		lines = append(lines, fmt.Sprintf("update %s %s", name(a), a.Status.Status))
	}
	for _, a := range p.Delete {
		lines = append(lines, "delete "+name(a))
	}
	slices.Sort(lines)
	return lines
}

func TestForPod(t *testing.T) {
	deleting := func(a *v1.AzureAssignedIdentity) {
		now := metav1.Now()
		a.DeletionTimestamp = &now
	}
	for name, test := range map[string]struct {
		in   Input
		want []string
	}{
		"a pod with two identities gets two objects": {
			in:   Input{Pod: pod(), Matches: []binding.Match{match("one"), match("two")}},
			want: []string{"create default/app-ns-one", "create default/app-ns-two"},
		},
		"a pod that has what it must have is left alone": {
			in: Input{Pod: pod(), Matches: []binding.Match{match("one")}, Current: []*v1.AzureAssignedIdentity{existing(pod(), match("one"))}},
		},
		"a pod without a node waits": {
			in: Input{Pod: pod(func(p *Pod) { p.Node = "" }), Matches: []binding.Match{match("one")}},
		},
		"a pod without a match loses what it has": {
			in:   Input{Pod: pod(), Current: []*v1.AzureAssignedIdentity{existing(pod(), match("one"))}},
			want: []string{"delete default/app-ns-one"},
		},
		"a pod that is gone loses what it has": {
			in:   Input{Matches: nil, Current: []*v1.AzureAssignedIdentity{existing(pod(), match("one"))}},
			want: []string{"delete default/app-ns-one"},
		},
		"a finished pod loses what it has": {
			in:   Input{Pod: pod(func(p *Pod) { p.Finished = true }), Matches: []binding.Match{match("one")}, Current: []*v1.AzureAssignedIdentity{existing(pod(), match("one"))}},
			want: []string{"delete default/app-ns-one"},
		},
		"a terminating pod keeps what it has and gets nothing new": {
			in: Input{
				Pod: pod(func(p *Pod) { p.Terminating = true }), Matches: []binding.Match{match("one"), match("two")},
				Current: []*v1.AzureAssignedIdentity{existing(pod(), match("one"))},
			},
		},
		"a pod on a node that is gone loses what it has": {
			in:   Input{Pod: pod(), NodeGone: true, Matches: []binding.Match{match("one")}, Current: []*v1.AzureAssignedIdentity{existing(pod(), match("one"))}},
			want: []string{"delete default/app-ns-one"},
		},
		"an object without an identity is removed": {
			in: Input{Pod: pod(), Matches: []binding.Match{match("one")}, Current: []*v1.AzureAssignedIdentity{
				existing(pod(), match("one"), func(a *v1.AzureAssignedIdentity) { a.Spec.AzureIdentityRef = nil }),
			}},
			want: []string{"create default/app-ns-one", "delete default/app-ns-one"},
		},
		"an object that is being deleted is waited for": {
			in: Input{Pod: pod(), Matches: []binding.Match{match("one")}, Current: []*v1.AzureAssignedIdentity{existing(pod(), match("one"), deleting)}},
		},
		"an object that is being deleted in another namespace is not waited for": {
			in:   Input{Pod: pod(), Matches: []binding.Match{match("one", namespacedMatch)}, Current: []*v1.AzureAssignedIdentity{existing(pod(), match("one"), deleting)}},
			want: []string{"create ids/app-ns-one"},
		},
		"an identity that became confined moves to its namespace": {
			in:   Input{Pod: pod(), Matches: []binding.Match{match("one", namespacedMatch)}, Current: []*v1.AzureAssignedIdentity{existing(pod(), match("one"))}},
			want: []string{"create ids/app-ns-one", "delete default/app-ns-one"},
		},
		"with all identities confined the object is in the identity's namespace": {
			in:   Input{Pod: pod(), ForceNamespaced: true, Matches: []binding.Match{match("one")}},
			want: []string{"create ids/app-ns-one"},
		},
		"of two objects of one key the older stays": {
			in: Input{Pod: pod(), Matches: []binding.Match{match("one")}, Current: []*v1.AzureAssignedIdentity{
				existing(pod(), match("one"), func(a *v1.AzureAssignedIdentity) {
					a.Name, a.CreationTimestamp = "younger", metav1.NewTime(time.Unix(2000, 0))
				}),
				existing(pod(), match("one"), func(a *v1.AzureAssignedIdentity) { a.Name = "older" }),
			}},
			want: []string{"delete default/younger"},
		},
		"a name once given is kept": {
			in: Input{Pod: pod(), Matches: []binding.Match{match("one")}, Current: []*v1.AzureAssignedIdentity{
				existing(pod(), match("one"), func(a *v1.AzureAssignedIdentity) { a.Name = "some-name" }),
			}},
		},
		"another uid of the pod is noted and the assignment stays": {
			in:   Input{Pod: pod(func(p *Pod) { p.UID = "next" }), Matches: []binding.Match{match("one")}, Current: []*v1.AzureAssignedIdentity{existing(pod(), match("one"))}},
			want: []string{"update default/app-ns-one Assigned"},
		},
		"another node needs another assignment": {
			in:   Input{Pod: pod(func(p *Pod) { p.Node = "node1" }), Matches: []binding.Match{match("one")}, Current: []*v1.AzureAssignedIdentity{existing(pod(), match("one"))}},
			want: []string{"update default/app-ns-one Created"},
		},
		"another resource ID needs another assignment": {
			in: Input{Pod: pod(), Current: []*v1.AzureAssignedIdentity{existing(pod(), match("one"))}, Matches: []binding.Match{
				match("one", func(m *binding.Match) { m.Identity.Spec.ResourceID = resource + "elsewhere" }),
			}},
			want: []string{"update default/app-ns-one Created"},
		},
		"the same resource ID in another spelling does not": {
			in: Input{Pod: pod(), Current: []*v1.AzureAssignedIdentity{existing(pod(), match("one"))}, Matches: []binding.Match{
				match("one", func(m *binding.Match) {
					m.Identity.Spec.ResourceID = strings.Replace(resource, "resourcegroups", "resourceGroups", 1) + "one"
				}),
			}},
			want: []string{"update default/app-ns-one Assigned"},
		},
		"another client ID is copied and the assignment stays": {
			in: Input{Pod: pod(), Current: []*v1.AzureAssignedIdentity{existing(pod(), match("one"))}, Matches: []binding.Match{
				match("one", func(m *binding.Match) { m.Identity.Spec.ClientID = "other" }),
			}},
			want: []string{"update default/app-ns-one Assigned"},
		},
		"an identity that was deleted and made again is copied": {
			in: Input{Pod: pod(), Current: []*v1.AzureAssignedIdentity{existing(pod(), match("one"))}, Matches: []binding.Match{
				match("one", func(m *binding.Match) { m.Identity.UID = "new" }),
			}},
			want: []string{"update default/app-ns-one Assigned"},
		},
		"another binding for the same identity is copied": {
			in: Input{Pod: pod(), Current: []*v1.AzureAssignedIdentity{existing(pod(), match("one"))}, Matches: []binding.Match{
				match("one", func(m *binding.Match) { m.Binding.Name, m.Binding.UID = "b2", "b2" }),
			}},
			want: []string{"update default/app-ns-one Assigned"},
		},
		"status and metadata of identity and binding rewrite nothing": {
			in: Input{Pod: pod(), Current: []*v1.AzureAssignedIdentity{existing(pod(), match("one"))}, Matches: []binding.Match{
				match("one", func(m *binding.Match) {
					m.Identity.ResourceVersion, m.Identity.Labels, m.Identity.Generation = "99", map[string]string{"x": "y"}, 4
					m.Identity.Status.Conditions = []metav1.Condition{{Type: v1.ConditionValid}}
					m.Binding.ResourceVersion, m.Binding.Annotations = "100", map[string]string{"x": "y"}
				}),
			}},
		},
		"a missing finalizer is put back": {
			in: Input{Pod: pod(), Matches: []binding.Match{match("one")}, Current: []*v1.AzureAssignedIdentity{
				existing(pod(), match("one"), func(a *v1.AzureAssignedIdentity) { a.Finalizers = nil }),
			}},
			want: []string{"update default/app-ns-one Assigned"},
		},
		"a changed node label is put right": {
			in: Input{Pod: pod(), Matches: []binding.Match{match("one")}, Current: []*v1.AzureAssignedIdentity{
				existing(pod(), match("one"), func(a *v1.AzureAssignedIdentity) { a.Labels = nil }),
			}},
			want: []string{"update default/app-ns-one Assigned"},
		},
		"an object of the previous release is annotated": {
			in: Input{Pod: pod(), Matches: []binding.Match{match("one")}, Current: []*v1.AzureAssignedIdentity{
				existing(pod(), match("one"), func(a *v1.AzureAssignedIdentity) { a.Annotations = nil }),
			}},
			want: []string{"update default/app-ns-one Assigned"},
		},
		"two matches of one identity are one object": {
			in:   Input{Pod: pod(), Matches: []binding.Match{match("one"), match("one")}},
			want: []string{"create default/app-ns-one"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			plan := ForPod(test.in)
			if got := outline(plan); !slices.Equal(got, test.want) {
				t.Errorf("plan is %q, want %q", got, test.want)
			}
		})
	}
}

// After a plan is carried out there is nothing left to do: no write loops.
func TestPlansConverge(t *testing.T) {
	old := existing(pod(), match("one"), func(a *v1.AzureAssignedIdentity) {
		a.Labels, a.Annotations, a.Finalizers, a.Spec.NodeName = nil, nil, nil, "gone"
	})
	in := Input{Pod: pod(), Matches: []binding.Match{match("one"), match("two")}, Current: []*v1.AzureAssignedIdentity{old}}
	plan := ForPod(in)
	in.Current = slices.Concat(plan.Create, plan.Update)
	if again := outline(ForPod(in)); len(again) > 0 {
		t.Errorf("a second plan: %q", again)
	}
	if old.Labels != nil || old.Spec.NodeName != "gone" {
		t.Error("the current object was changed in place")
	}
}

func TestTheObject(t *testing.T) {
	got := ForPod(Input{Pod: pod(), Matches: []binding.Match{match("one")}}).Create[0]
	want := &v1.AzureAssignedIdentity{
		TypeMeta: metav1.TypeMeta{APIVersion: "aadpodidentity.k8s.io/v1", Kind: "AzureAssignedIdentity"},
		ObjectMeta: metav1.ObjectMeta{
			Namespace: "default", Name: "app-ns-one",
			Labels:      map[string]string{"nodename": "node0"},
			Annotations: map[string]string{"aadpodidentity.k8s.io/pod-uid": "pod-uid"},
			Finalizers:  []string{"azureassignedidentity.finalizers.aadpodidentity.k8s.io"},
		},
		Spec: v1.AzureAssignedIdentitySpec{
			AzureIdentityRef: &v1.AzureIdentity{
				TypeMeta:   metav1.TypeMeta{APIVersion: "aadpodidentity.k8s.io/v1", Kind: "AzureIdentity"},
				ObjectMeta: metav1.ObjectMeta{Namespace: "ids", Name: "one", UID: "i-one", ResourceVersion: "8"},
				Spec:       v1.AzureIdentitySpec{ResourceID: resource + "one", ClientID: "client"},
			},
			AzureBindingRef: &v1.AzureIdentityBinding{
				TypeMeta:   metav1.TypeMeta{APIVersion: "aadpodidentity.k8s.io/v1", Kind: "AzureIdentityBinding"},
				ObjectMeta: metav1.ObjectMeta{Namespace: "ids", Name: "one", UID: "b-one", ResourceVersion: "7"},
				Spec:       v1.AzureIdentityBindingSpec{AzureIdentity: "one", Selector: "demo"},
			},
			Pod: "app", PodNamespace: "ns", NodeName: "node0",
		},
		Status: v1.AzureAssignedIdentityStatus{Status: "Created", AvailableReplicas: 1},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("object (-want +got):\n%s", diff)
	}
	confined := ForPod(Input{Pod: pod(), Matches: []binding.Match{match("one", namespacedMatch)}}).Create[0]
	if confined.Spec.AzureIdentityRef.Annotations[v1.BehaviorAnnotationKey] != v1.BehaviorNamespaced {
		t.Error("the copy of a confined identity lacks the annotation that older NMIs read")
	}
}

func TestNames(t *testing.T) {
	long := strings.Repeat("x", 200)
	for name, test := range map[string]struct {
		pod   *Pod
		id    string
		taken bool
		check func(string) bool
	}{
		"the expected name": {pod: pod(), id: "one", check: func(n string) bool { return n == "app-ns-one" }},
		"a taken name gets a hash": {
			pod: pod(), id: "one", taken: true,
			check: func(n string) bool { return strings.HasPrefix(n, "app-ns-one-") && len(n) == len("app-ns-one-")+10 },
		},
		"a name too long is shortened and gets a hash": {
			pod: pod(func(p *Pod) { p.Name = long }), id: long,
			check: func(n string) bool { return len(n) == 253 && strings.HasPrefix(n, long+"-ns-x") },
		},
	} {
		t.Run(name, func(t *testing.T) {
			plan := ForPod(Input{
				Pod: test.pod, Matches: []binding.Match{match(test.id)},
				Taken: func(string, string) bool { return test.taken },
			})
			if got := plan.Create[0].Name; !test.check(got) {
				t.Errorf("name %q (%d characters)", got, len(got))
			}
		})
	}
	a := Key{PodNamespace: "c", Pod: "a-b", IdentityNamespace: "i", Identity: "n"}
	b := Key{PodNamespace: "b-c", Pod: "a", IdentityNamespace: "i", Identity: "n"}
	if a.Name() != b.Name() || a.UniqueName() == b.UniqueName() {
		t.Errorf("%s and %s, %s and %s", a.Name(), b.Name(), a.UniqueName(), b.UniqueName())
	}
}
