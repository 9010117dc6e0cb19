package controller

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	v1 "github.com/aad-pod-identity/aad-pod-identity/api/v1"
	"github.com/aad-pod-identity/aad-pod-identity/test/azure"
)

// TestCrashes lets MIC die, or lose the API server, at bad moments.
func TestCrashes(t *testing.T) {
	c := startCluster(t)
	for name, run := range map[string]func(*scenario){
		"killed between any two writes":                                    killedAnywhere,
		"the API server is away while things change":                       serverAway,
		"told to stop before the caches are filled":                        stoppedAtOnce,
		"a pod made again under its name on its node":                      madeAgain,
		"a pod made again under its name on another scale set":             madeAgainElsewhere,
		"a node is deleted while its pods linger, and comes back":          nodeBack,
		"an object is deleted and its finalizer cleared while MIC works":   clearedAtWork,
		"nothing is written by a new leader if nothing changed":            newLeaderAtRest,
		"an identity that is refused writes no more than its first events": refusedAtRest,
	} {
		t.Run(name, func(t *testing.T) { run(c.scenario(t)) })
	}
}

// stoppedAtOnce ends MIC while its caches are not filled; that it ends is the test.
func stoppedAtOnce(s *scenario) {
	s.stop()
	s.listless = true
	s.startMIC()
	s.stop()
}

// killedAnywhere lets each MIC live for one write, to Kubernetes or Azure, and then
// for two, on the way to two pods that have their identities and on the way back.
func killedAnywhere(s *scenario) {
	there := func() string {
		return cmp.Or(s.assignedAre("default/one-default-shared=Assigned", "default/two-default-own=Assigned"), s.poolHas("own", "shared"),
			s.conditionIs(&v1.AzureIdentity{}, "own", v1.ConditionInUse, v1.ReasonInUse), s.conditionIs(&v1.AzureIdentityBinding{}, "own", v1.ConditionPodsMatched, v1.ReasonPodsMatched))
	}
	gone := func() string {
		return cmp.Or(s.assignedAre(), s.poolHas(), s.ledgersAre(0), s.conditionIs(&v1.AzureIdentity{}, "own", v1.ConditionInUse, v1.ReasonNotInUse))
	}
	live := func(writes int, state func() string) {
		s.cut = &writes
		for lives := 1; state() != ""; lives++ {
			if lives > 40 {
				s.t.Fatalf("after %d lives of %d writes each: %s", lives, writes, state())
			}
			s.startMIC()
			s.eventually("the end of MIC, or of its work", func() string {
				if s.wire.isCut() {
					return ""
				}
				return state()
			})
			s.stop()
		}
	}
	s.stop()
	s.identity("default", "shared")
	s.identity("default", "own")
	for _, writes := range []int{1, 2} {
		objects := []client.Object{
			s.bind("default", "shared", "shared", "demo"), s.bind("default", "own", "own", "own"),
			s.pod("default", "one", "node0", "demo"), s.pod("default", "two", "node1", "own"),
		}
		live(writes, there)
		for _, o := range objects {
			s.remove(s.t, o)
		}
		live(writes, gone)
	}
}

// serverAway takes the API server from MIC. What happened meanwhile is found by the
// lists that come before new watches.
func serverAway(s *scenario) {
	s.identity("default", "demo")
	s.identity("default", "late")
	s.bind("default", "demo", "demo", "demo")
	first := s.pod("default", "first", "node0", "demo")
	s.assigned("default/first-default-demo=Assigned")
	s.wire.setCut(true)
	s.remove(s.t, first)
	s.pod("default", "second", "node1", "late")
	b := s.bind("default", "late", "late", "late")
	s.wire.setCut(false)
	s.assigned("default/second-default-late=Assigned")
	s.onPool("late")
	s.wire.setCut(true)
	s.remove(s.t, b)
	s.wire.setCut(false)
	s.assigned()
	s.onPool()
}

func (s *scenario) patches() int {
	return len(s.azure.Calls(azure.CallFilter{Operation: azure.OpVMSSUpdate}))
}

// remade is a StatefulSet's pod that was deleted and made again on a node while MIC was
// away: the name stays, the UID is another. It has its identity.
func (s *scenario) remade(node string) *corev1.Pod {
	s.t.Helper()
	s.identity("default", "demo")
	s.bind("default", "demo", "demo", "demo")
	old := s.pod("default", "app-0", "node0", "demo")
	s.assigned("default/app-0-default-demo=Assigned")
	s.stop()
	s.remove(s.t, old)
	again := s.pod("default", "app-0", node, "demo")
	s.startMIC()
	s.eventually("the object is the new pod's", func() string { return s.belongs(again, v1.AssignedIDAssigned) })
	return again
}

func madeAgain(s *scenario) {
	again := s.remade("node0")
	s.onPool("demo")
	if n := s.patches(); n != 1 {
		s.t.Errorf("%d PATCHes: the identity was taken from the scale set meanwhile", n)
	}
	// With MIC at work it may have been on its way off when the next pod comes.
	s.remove(s.t, again)
	third := s.pod("default", "app-0", "node1", "demo")
	s.eventually("the object is the third pod's", func() string { return s.belongs(third, v1.AssignedIDAssigned) })
	s.onPool("demo")
}

func madeAgainElsewhere(s *scenario) {
	s.pool2()
	s.remade("node2")
	s.onPool()
	s.eventually("the other scale set", func() string { return s.targetHas("pool2", "demo") })
}

// belongs says what is missing of an assigned identity being a pod's.
func (s *scenario) belongs(p *corev1.Pod, status string) string {
	all := s.all()
	if len(all) != 1 {
		return fmt.Sprintf("%d objects", len(all))
	}
	a := all[0]
	if a.Annotations[v1.PodUIDAnnotationKey] != string(p.UID) || a.Spec.NodeName != p.Spec.NodeName || a.Status.Status != status || !a.DeletionTimestamp.IsZero() {
		return fmt.Sprintf("of pod %s on %s, %s", a.Annotations[v1.PodUIDAnnotationKey], a.Spec.NodeName, a.Status.Status)
	}
	return ""
}

// pool2 makes a second scale set with node2.
func (s *scenario) pool2() {
	s.t.Helper()
	pool := azure.VMSSID(testSub, testGroup, "pool2")
	_, err := s.azure.PutCompute(azure.Compute{ID: pool})
	check(s.t, err)
	s.node("node2", "azure://"+azure.InstanceID(pool, "0"))
}

func nodeBack(s *scenario) {
	s.identity("default", "demo")
	s.bind("default", "demo", "demo", "demo")
	s.pod("default", "app", "node0", "demo")
	s.assigned("default/app-default-demo=Assigned")
	s.remove(s.t, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node0"}})
	s.assigned()
	s.onPool()
	s.node("node0", "azure://"+azure.InstanceID(azure.VMSSID(testSub, testGroup, "pool1"), "0"))
	s.assigned("default/app-default-demo=Assigned")
	s.onPool("demo")
}

func clearedAtWork(s *scenario) {
	s.identity("default", "demo")
	s.bind("default", "demo", "demo", "demo")
	p := s.pod("default", "app", "node0", "demo")
	s.assigned("default/app-default-demo=Assigned")
	old := s.all()[0]
	check(s.t, s.client.Patch(s.t.Context(), &old, client.RawPatch(types.MergePatchType, []byte(`{"metadata":{"finalizers":null}}`))))
	s.eventually("the finalizer is back", func() string {
		if all := s.all(); len(all) != 1 || len(all[0].Finalizers) != 1 || all[0].Status.Status != v1.AssignedIDAssigned {
			return fmt.Sprintf("%+v", all)
		}
		return ""
	})
	s.remove(s.t, p)
	s.assigned()
	s.onPool()
}

// without returns the writes that do not name a thing.
func without(writes []string, name string) []string {
	return slices.DeleteFunc(writes, func(w string) bool { return strings.Contains(w, name) })
}

// newLeaderAtRest counts what a leader writes that finds all as it must be.
func newLeaderAtRest(s *scenario) {
	s.pool2()
	s.identity("default", "demo")
	s.identity("default", "marker")
	s.bind("default", "demo", "demo", "demo")
	s.bind("default", "idle", "demo", "idle")
	s.bind("default", "missing", "missing", "demo")
	s.create(s.t, &v1.AzureIdentity{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "sp"}, Spec: v1.AzureIdentitySpec{
		Type: v1.ServicePrincipal, TenantID: testSub, ClientID: testSub, ClientPassword: v1.SecretReference{Name: "secret", Namespace: "default"},
	}})
	s.bind("default", "sp", "sp", "demo")
	p := s.pod("default", "app", "node0", "demo")
	s.assigned("default/app-default-demo=Assigned", "default/app-default-sp=Assigned")
	s.tags(p, "demo", "demo", "default/demo,default/sp")
	for name, reason := range map[string]string{"demo": v1.ReasonPodsMatched, "idle": v1.ReasonNoPodsMatched, "missing": v1.ReasonPodsMatched} {
		s.eventually("condition of binding "+name, func() string {
			return s.conditionIs(&v1.AzureIdentityBinding{}, name, v1.ConditionPodsMatched, reason)
		})
	}
	for name, reason := range map[string]string{"demo": v1.ReasonInUse, "sp": v1.ReasonInUse, "marker": v1.ReasonNotInUse} {
		s.eventually("condition of identity "+name, func() string {
			return s.conditionIs(&v1.AzureIdentity{}, name, v1.ConditionInUse, reason)
		})
	}
	s.stop()
	s.startMIC()
	// Changes that mean nothing.
	for _, o := range []client.Object{
		&v1.AzureIdentity{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "demo"}},
		&v1.AzureIdentityBinding{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "demo"}},
		&v1.AzureAssignedIdentity{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "app-default-demo"}},
		&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "app"}},
		&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node0"}},
	} {
		check(s.t, s.client.Patch(s.t.Context(), o, client.RawPatch(types.MergePatchType, []byte(`{"metadata":{"labels":{"touched":"yes"}}}`))))
	}
	// Work elsewhere, to its last write: by then all of the above was seen.
	s.bind("default", "marker", "marker", "marker")
	marker := s.pod("default", "marker", "node2", "marker")
	s.assigned("default/app-default-demo=Assigned", "default/app-default-sp=Assigned", "default/marker-default-marker=Assigned")
	s.tags(marker, "marker", "marker", "default/marker")
	s.eventually("condition of the marker's binding", func() string {
		return s.conditionIs(&v1.AzureIdentityBinding{}, "marker", v1.ConditionPodsMatched, v1.ReasonPodsMatched)
	})
	s.eventually("condition of the marker", func() string { return s.conditionIs(&v1.AzureIdentity{}, "marker", v1.ConditionInUse, v1.ReasonInUse) })
	writes, events := s.wire.written()
	// The marker's may be asked for twice, by a MIC whose caches are behind.
	all := len(writes)
	if writes = without(without(writes, "marker"), "pool2"); all == 0 || len(writes) > 0 {
		s.t.Errorf("%d writes, of which %q are not the marker's", all, writes)
	}
	if events > 2 {
		s.t.Errorf("%d events, want those of the marker", events)
	}
}

// refusedAtRest lets ARM refuse an identity again and again.
func refusedAtRest(s *scenario) {
	bad := s.identity("default", "bad")
	check(s.t, s.azure.DeleteIdentity(bad.Spec.ResourceID))
	s.bind("default", "bad", "bad", "demo")
	p := s.pod("default", "app", "node0", "demo")
	// All that the first refusal leads to: the events come last, and may come late.
	for kind, name := range map[string]string{"Pod": "app", "AzureIdentity": "bad", "AzureIdentityBinding": "bad"} {
		s.event(kind, name, "binding apply error", "FailedIdentityOperation")
	}
	s.tags(p, "bad", "bad", "default/bad")
	s.eventually("conditions", func() string {
		return cmp.Or(s.conditionIs(&v1.AzureIdentity{}, "bad", v1.ConditionInUse, v1.ReasonInUse), s.conditionIs(&v1.AzureIdentityBinding{}, "bad", v1.ConditionPodsMatched, v1.ReasonPodsMatched))
	})
	twoRefusals := func() {
		last := s.patches() + 2
		s.eventually("two more refusals", func() string {
			if n := s.patches(); n < last {
				return fmt.Sprintf("%d PATCHes, not %d", n, last)
			}
			return ""
		})
	}
	twoRefusals()
	writes, events := s.wire.written()
	twoRefusals()
	after, eventsAfter := s.wire.written()
	// A PATCH and the ledger before and after it are the attempt itself.
	after = without(without(after[len(writes):], "virtualMachineScaleSets"), "/configmaps")
	if len(after) > 0 || eventsAfter != events {
		s.t.Errorf("two more refusals: writes %q, %d more events", after, eventsAfter-events)
	}
}
