package podindex

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	v1 "github.com/aad-pod-identity/aad-pod-identity/api/v1"
)

// drain empties the queue.
func drain(t *testing.T, x *Index) []string {
	t.Helper()
	var names []string
	for {
		ended, cancel := context.WithCancel(t.Context())
		cancel()
		pod, err := x.NextAssigned(ended)
		if errors.Is(err, context.Canceled) {
			return names
		}
		names = append(names, pod.Name)
	}
}

func TestNextAssigned(t *testing.T) {
	x := New(node)
	state := func(a *v1.AzureAssignedIdentity, status string) *v1.AzureAssignedIdentity {
		a.Status.Status = status
		return a
	}
	pod := func(name string, opts ...func(*corev1.Pod)) { x.SetPod(NewPod(podObject(name, opts...))) }
	key := func(name string) types.NamespacedName { return types.NamespacedName{Namespace: "default", Name: name} }
	for _, step := range []struct {
		what string
		do   func()
		want []string
	}{
		{"a pod", func() { pod("a") }, nil},
		{"an identity to be assigned", func() { x.SetAssigned(state(assigned("1", "a", "ns", "b"), v1.AssignedIDCreated)) }, nil},
		{"it is assigned", func() { x.SetAssigned(state(assigned("1", "a", "ns", "b"), v1.AssignedIDAssigned)) }, []string{"a"}},
		{"it is written again", func() { x.SetAssigned(state(assigned("1", "a", "ns", "b"), v1.AssignedIDAssigned)) }, nil},
		{"the pod's status changes", func() { pod("a", phase(corev1.PodPending)) }, nil},
		{"a second identity", func() { x.SetAssigned(state(assigned("2", "a", "ns", "c"), "")) }, []string{"a"}},
		{"the pod is made again", func() { pod("a", func(p *corev1.Pod) { p.UID = "2" }) }, []string{"a"}},
		{"an identity before its pod", func() { x.SetAssigned(state(assigned("3", "b", "ns", "b"), v1.AssignedIDAssigned)) }, nil},
		{"the pod", func() { pod("b") }, []string{"b"}},
		{"a pod that has ended", func() {
			pod("c", phase(corev1.PodFailed))
			x.SetAssigned(state(assigned("4", "c", "ns", "b"), v1.AssignedIDAssigned))
		}, nil},
		{"an identity is taken away", func() { x.SetAssigned(state(assigned("3", "b", "ns", "b"), v1.AssignedIDUnassigned)) }, nil},
		{"and given back, twice, and the pod goes", func() {
			x.SetAssigned(state(assigned("3", "b", "ns", "b"), v1.AssignedIDAssigned))
			x.DeleteAssigned(key("3"))
			x.SetAssigned(state(assigned("3", "b", "ns", "b"), v1.AssignedIDAssigned))
			x.DeletePod(key("b"))
		}, nil},
		{"two at once, each once, in order", func() {
			pod("d")
			pod("e")
			for _, name := range []string{"e", "d", "e"} {
				x.DeleteAssigned(key("of-" + name))
				x.SetAssigned(state(assigned("of-"+name, name, "ns", "b"), v1.AssignedIDAssigned))
			}
		}, []string{"e", "d"}},
	} {
		step.do()
		if got := drain(t, x); !slices.Equal(got, step.want) {
			t.Errorf("%s: %v, want %v", step.what, got, step.want)
		}
	}
	got := make(chan string, 1)
	go func() {
		if pod, err := x.NextAssigned(t.Context()); err == nil {
			got <- pod.Name
		}
	}()
	x.SetAssigned(state(assigned("5", "a", "ns", "d"), v1.AssignedIDAssigned))
	if name := <-got; name != "a" {
		t.Errorf("whoever waited got %s", name)
	}
	if len(x.fresh.pods) != 0 || len(x.fresh.waiting) != 0 {
		t.Errorf("left: %v", x.fresh)
	}
}

func TestResources(t *testing.T) {
	var many []string
	for n := range 20 {
		many = append(many, fmt.Sprint(n))
	}
	for list, want := range map[string][]string{
		"":                             nil,
		" , ":                          nil,
		"https://a":                    {"https://a"},
		"https://a,https://b/, ,x\nx ": {"https://a", "https://b/", "x"},
		strings.Join(many, ","):        many[:maxResources],
	} {
		o := podObject("a")
		o.Annotations = map[string]string{v1.ResourcesAnnotationKey: list, "large": strings.Repeat("x", 1000)}
		kept := reducePod(o)
		if got := NewPod(kept).Resources; !slices.Equal(got, want) || len(kept.Annotations) != 1 {
			t.Errorf("%q: %q, annotations kept: %d", list, got, len(kept.Annotations))
		}
	}
}
