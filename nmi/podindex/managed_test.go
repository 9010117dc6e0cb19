package podindex

import (
	"slices"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	v1 "github.com/aad-pod-identity/aad-pod-identity/api/v1"
)

// TestBound follows what a pod may use while objects come and go.
func TestBound(t *testing.T) {
	x := NewManaged(node)
	x.MarkSynced()
	x.SetPod(&Pod{Namespace: "ns", Name: "web", Live: true, Labels: map[string]string{v1.BindingLabelKey: "sel"}})
	identity := func(namespace, name string) *v1.AzureIdentity {
		return &v1.AzureIdentity{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}}
	}
	binding := func(namespace, name, id, selector string) *v1.AzureIdentityBinding {
		return &v1.AzureIdentityBinding{
			ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name},
			Spec:       v1.AzureIdentityBindingSpec{AzureIdentity: id, Selector: selector},
		}
	}
	in := func(name string) types.NamespacedName { return types.NamespacedName{Namespace: "ns", Name: name} }
	deleted := binding("ns", "0", "b", "sel")
	deleted.DeletionTimestamp = &metav1.Time{Time: time.Now()}
	for _, step := range []struct {
		what string
		do   func()
		want []string
	}{
		{"nothing", func() {}, nil},
		{"a binding to an identity that there is not", func() { x.SetBinding(binding("ns", "1", "a", "sel")) }, nil},
		{"the identity", func() { x.SetIdentity(identity("ns", "a")) }, []string{"a"}},
		{"the same elsewhere", func() { x.SetBinding(binding("other", "1", "z", "sel")); x.SetIdentity(identity("other", "z")) }, []string{"a"}},
		{"another identity, first in order", func() { x.SetIdentity(identity("ns", "b")); x.SetBinding(binding("ns", "0", "b", "sel")) }, []string{"b", "a"}},
		{"a second binding to one", func() { x.SetBinding(binding("ns", "2", "a", "sel")) }, []string{"b", "a"}},
		{"a binding that is being deleted", func() { x.SetBinding(deleted) }, []string{"a"}},
		{"and is gone", func() { x.DeleteBinding(in("0")); x.DeleteBinding(in("0")) }, []string{"a"}},
		{"a binding that selects others now", func() { x.SetBinding(binding("ns", "1", "a", "SEL")) }, []string{"a"}},
		{"so do all", func() { x.SetBinding(binding("ns", "2", "a", "")) }, nil},
		{"they select it again", func() { x.SetBinding(binding("ns", "2", "a", "sel")) }, []string{"a"}},
		{"the identity is gone", func() { x.DeleteIdentity(in("a")) }, nil},
	} {
		step.do()
		v, err := x.ByName(in("web"))
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, id := range v.Bound {
			got = append(got, id.Name)
		}
		if !v.Managed || !slices.Equal(got, step.want) {
			t.Errorf("%s: %v, want %v", step.what, got, step.want)
		}
	}
	x.DeleteBinding(in("1"))
	x.DeleteBinding(in("2"))
	x.DeleteBinding(types.NamespacedName{Namespace: "other", Name: "1"})
	if len(x.bound.bindings) != 0 || len(x.bound.selects) != 0 {
		t.Errorf("left: %v, %v", x.bound.bindings, x.bound.selects)
	}
}
