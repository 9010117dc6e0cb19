package server

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"

	v1 "github.com/aad-pod-identity/aad-pod-identity/api/v1"
	"github.com/aad-pod-identity/aad-pod-identity/nmi/podindex"
	"github.com/aad-pod-identity/aad-pod-identity/test/azure"
)

func TestPrefetchable(t *testing.T) {
	a, b, c := assignment("a", v1.AssignedIDAssigned), assignment("b", v1.AssignedIDCreated), assignment("c", v1.AssignedIDAssigned)
	stranger := assignment("d", v1.AssignedIDAssigned, func(a *v1.AzureAssignedIdentity) { a.Annotations[v1.PodUIDAnnotationKey] = "uid-0" })
	pod := &podindex.Pod{Namespace: "default", Name: "web", UID: "uid-1", Labels: map[string]string{v1.BindingLabelKey: "sel"}, Resources: []string{"r", "s"}}
	before := func(w workload) []string {
		if w.identity.Name == "c" && w.namespace == "default" && w.label == "sel" {
			return []string{"s", "t"}
		}
		return nil
	}
	var got []string
	for _, w := range prefetchable(podindex.View{Pod: pod, Assigned: []*v1.AzureAssignedIdentity{a, b, c, stranger}}, false, before) {
		got = append(got, w.identity.Name+" "+w.resource)
	}
	if want := []string{"a r", "a s", "c r", "c s", "c t"}; !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}

func TestHabits(t *testing.T) {
	h, w := newHabits(), workload{namespace: "ns"}
	for range 2 {
		for n := range rememberedResources + 2 {
			h.learn(w, fmt.Sprint(n))
		}
	}
	if got := h.of(w); len(got) != rememberedResources || !slices.Contains(got, fmt.Sprint(rememberedResources+1)) {
		t.Errorf("remembered %v", got)
	}
	if got := h.of(workload{namespace: "other"}); got != nil {
		t.Errorf("remembered of another workload %v", got)
	}
}

// prefetching runs the world's prefetching until the test ends.
func (w *world) prefetching() {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- w.server.Prefetch(ctx) }()
	w.t.Cleanup(func() {
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			w.t.Errorf("prefetching ended with %v", err)
		}
	})
}

func withResources(list string) func(*corev1.Pod) {
	return func(p *corev1.Pod) { p.Annotations = map[string]string{v1.ResourcesAnnotationKey: list} }
}

// TestPrefetch: the token is there before the pod asks, and for pods that may have
// it alone.
func TestPrefetch(t *testing.T) {
	w := newWorld(t, nil)
	w.prefetching()
	w.setPod("web", webIP, withResources(vault))
	w.assign("web", w.demo, v1.AssignedIDCreated)
	w.assign("web", w.demo, v1.AssignedIDAssigned)
	eventually(t, "IMDS is asked", func() bool { return w.tokenCalls() == 1 })
	w.get(webIP, tokenURL, nil).tokenOf(t)
	if n := w.tokenCalls(); n != 1 {
		t.Errorf("IMDS was asked %d times", n)
	}
	if r := w.get(otherIP, tokenURL, nil); r.status != 404 {
		t.Errorf("another pod: status %d", r.status)
	}
}

// TestPrefetchPassesOver an identity that NMI can get no token of.
func TestPrefetchPassesOver(t *testing.T) {
	w := newWorld(t, nil)
	w.setPod("web", webIP, withResources(vault))
	w.assignSpec("web", "a-strange-one", v1.AzureIdentitySpec{Type: 7, ClientID: "7eb6d1a0-2c4f-4b8e-9d3a-5f1e0c7ba6a9"})
	w.prefetching()
	w.assign("web", w.demo, v1.AssignedIDAssigned)
	eventually(t, "IMDS is asked", func() bool { return w.tokenCalls() == 1 })
}

// TestPrefetchByHabit: a pod like one that has asked gets its tokens ahead.
func TestPrefetchByHabit(t *testing.T) {
	w := newWorld(t, nil)
	w.assign("web", w.demo, v1.AssignedIDAssigned)
	app := w.application()
	w.assignSpec("web", "app", w.principal(app, nil))
	w.get(webIP, tokenURL+"&client_id="+app.ClientID, nil).tokenOf(t)
	// Another version of the credential: nothing is kept of it yet.
	w.setSecret("default", "app2", map[string][]byte{"clientSecret": []byte(applicationSecret)})
	w.prefetching()
	w.assignSpec("other", "app", w.principal(app, func(s *v1.AzureIdentitySpec) { s.ClientPassword.Name = "app2" }))
	eventually(t, "Azure AD is asked", func() bool { return len(w.azure.Calls(azure.CallFilter{Operation: azure.OpToken})) == 2 })
}

// TestPrefetchedRefusalIsNotKept: IMDS may learn of an assignment after us, and the
// pod must not be refused for that.
func TestPrefetchedRefusalIsNotKept(t *testing.T) {
	w := newWorld(t, nil)
	w.prefetching()
	late := w.identity("late")
	w.setPod("web", webIP, withResources(vault))
	w.assign("web", late, v1.AssignedIDAssigned)
	eventually(t, "IMDS refuses", func() bool { return w.tokenCalls() == 1 })
	if _, err := w.azure.PutCompute(azure.Compute{ID: vmID, SystemAssigned: true, UserAssigned: []azure.Assignment{{ID: late.ID}}}); err != nil {
		t.Fatal(err)
	}
	// The first request may still join the one ahead, which is refused.
	var r reply
	eventually(t, "a token", func() bool { r = w.get(webIP, tokenURL, nil); return r.status == 200 })
	if m := r.tokenOf(t); m["client_id"] != late.ClientID {
		t.Errorf("token of %s", m["client_id"])
	}
}

func TestNothingIsPrefetchedForExceptedPods(t *testing.T) {
	w := newWorld(t, nil)
	w.setPod("web", webIP, withResources(vault), func(p *corev1.Pod) { p.Spec.ServiceAccountName = "mic" })
	w.assign("web", w.demo, v1.AssignedIDAssigned)
	w.setPod("other", otherIP, withResources(vault))
	w.assign("other", w.second, v1.AssignedIDAssigned)
	w.prefetching()
	eventually(t, "the other pod's turn", func() bool { return w.askedFor()[w.second.ClientID] == 1 })
	if n := w.askedFor()[w.demo.ClientID]; n != 0 {
		t.Errorf("IMDS was asked %d times for an excepted pod", n)
	}
}
