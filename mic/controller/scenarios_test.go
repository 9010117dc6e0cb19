package controller

import (
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	v1 "github.com/aad-pod-identity/aad-pod-identity/api/v1"
	"github.com/aad-pod-identity/aad-pod-identity/internal/uninstall"
	"github.com/aad-pod-identity/aad-pod-identity/test/azure"
)

// TestMIC runs MIC against a real API server and the Azure emulator.
func TestMIC(t *testing.T) {
	c := startCluster(t)
	for name, run := range map[string]func(*scenario){
		"a pod gets its identity and gives it back":                          podLifecycle,
		"an identity stays while another pod of the scale set needs it":      sharedIdentity,
		"pods of one name in two namespaces are two pods":                    sameNames,
		"a refused identity holds up nobody and says why":                    refused,
		"an object deleted by hand is made again":                            deletedByHand,
		"an object whose finalizer was cleared is made again":                finalizerCleared,
		"a deleted binding takes identity and tags away":                     bindingDeleted,
		"another label means another identity":                               labelChanged,
		"an identity that points elsewhere is reassigned":                    identityChanged,
		"a finished pod gives its identity back":                             podFinished,
		"a deleted node releases its objects":                                nodeDeleted,
		"what happened while no MIC ran is made up for":                      missedDeletion,
		"what the previous release assigned is removed after its last use":   previousRelease,
		"a service principal needs no Azure":                                 servicePrincipal,
		"a pod on a node that is not of Azure waits and says so":             notAzure,
		"an identity confined to its namespace has its object there":         namespaced,
		"the uninstall marker takes everything away":                         uninstalled,
		"a foreign object without a pod is removed":                          orphan,
		"a long name and a name that another pod has are made unique":        names,
		"a scale set that is being deleted releases its objects":             deletingScaleSet,
		"an assignment that waits for a missing permission says so and ends": forbidden,
		"pods that come while a PATCH runs are all in the next one":          coalesced,
		"a pod whose identity is there already has it at once":               assignedAtOnce,
		"a pod whose identity is about to go waits until it is back":         comesWhileItGoes,
		"a pod that lost its label while no MIC ran loses its tags":          unlabelledMeanwhile,
		"nothing is written when nothing changes":                            atRest,
	} {
		t.Run(name, func(t *testing.T) {
			s := c.scenario(t)
			run(s)
		})
	}
}

func podLifecycle(s *scenario) {
	s.identity("default", "demo")
	s.bind("default", "demo-binding", "demo", "demo")
	p := s.pod("default", "app", "node0", "demo")
	s.assigned("default/app-default-demo=Assigned")
	s.onPool("demo")
	s.tags(p, "demo-binding", "demo", "default/demo-binding")
	s.event("AzureIdentityBinding", "demo-binding", "binding applied", "node node0")
	s.event("Pod", "app", "binding applied", "default/demo")

	a := s.all()[0]
	condition := meta.FindStatusCondition(a.Status.Conditions, v1.ConditionAssigned)
	if condition == nil || condition.Status != metav1.ConditionTrue || condition.Reason != v1.ReasonAssigned {
		s.t.Errorf("condition %+v", condition)
	}
	if a.Labels[v1.NodeNameLabelKey] != "node0" || a.Annotations[v1.PodUIDAnnotationKey] != string(p.UID) ||
		len(a.Finalizers) != 1 || a.Finalizers[0] != v1.AssignedIdentityFinalizer {
		s.t.Errorf("metadata %+v", a.ObjectMeta)
	}
	s.remove(s.t, p)
	s.assigned()
	s.onPool()
}

func sharedIdentity(s *scenario) {
	s.identity("default", "demo")
	s.bind("default", "demo", "demo", "demo")
	first := s.pod("default", "first", "node0", "demo")
	second := s.pod("default", "second", "node1", "demo")
	s.assigned("default/first-default-demo=Assigned", "default/second-default-demo=Assigned")
	s.remove(s.t, first)
	s.assigned("default/second-default-demo=Assigned")
	s.onPool("demo")
	s.remove(s.t, second)
	s.assigned()
	s.onPool()
	if n := s.patches(); n != 2 {
		s.t.Errorf("%d PATCHes, want 2", n)
	}
}

func sameNames(s *scenario) {
	s.identity("default", "demo")
	s.bind("default", "demo", "demo", "demo")
	s.pod("default", "app-0", "node0", "demo")
	p := s.pod("other", "app-0", "node1", "demo")
	s.assigned("default/app-0-default-demo=Assigned", "default/app-0-other-demo=Assigned")
	s.remove(s.t, p)
	s.assigned("default/app-0-default-demo=Assigned")
	s.onPool("demo")
}

func refused(s *scenario) {
	s.identity("default", "good")
	bad := s.identity("default", "bad")
	check(s.t, s.azure.DeleteIdentity(bad.Spec.ResourceID))
	s.bind("default", "good", "good", "demo")
	s.bind("default", "bad", "bad", "demo")
	s.pod("default", "app", "node0", "demo")
	s.assigned("default/app-default-good=Assigned", "default/app-default-bad=Created")
	s.event("AzureIdentityBinding", "bad", "binding apply error", "FailedIdentityOperation")
	s.event("Pod", "app", "binding apply error", "FailedIdentityOperation")
	s.event("Pod", "app", "binding apply error", "(request ")
	s.event("AzureIdentity", "bad", "binding apply error", "not assigned: FailedIdentityOperation")
	s.eventually("condition of the refused one", func() string {
		for _, a := range s.all() {
			if a.Spec.AzureIdentityRef.Name == "bad" {
				c := meta.FindStatusCondition(a.Status.Conditions, v1.ConditionAssigned)
				if c == nil || c.Reason != v1.ReasonAssignmentFailed || !strings.Contains(c.Message, "FailedIdentityOperation") || !strings.Contains(c.Message, "(request ") {
					return fmt.Sprintf("%+v", c)
				}
			}
		}
		return ""
	})
	_, err := s.azure.PutIdentity(azure.Identity{ID: bad.Spec.ResourceID})
	check(s.t, err)
	s.assigned("default/app-default-good=Assigned", "default/app-default-bad=Assigned")
}

func deletedByHand(s *scenario) {
	s.identity("default", "demo")
	s.bind("default", "demo", "demo", "demo")
	s.pod("default", "app", "node0", "demo")
	s.assigned("default/app-default-demo=Assigned")
	old := s.all()[0]
	s.remove(s.t, &old)
	s.eventually("a new object", func() string {
		all := s.all()
		if len(all) != 1 || all[0].UID == old.UID || all[0].Status.Status != v1.AssignedIDAssigned {
			return fmt.Sprintf("%d objects", len(all))
		}
		return ""
	})
	s.onPool("demo")
	if n := s.patches(); n != 1 {
		s.t.Errorf("%d PATCHes: the identity was taken from a pod that uses it", n)
	}
}

func finalizerCleared(s *scenario) {
	s.identity("default", "demo")
	s.bind("default", "demo", "demo", "demo")
	p := s.pod("default", "app", "node0", "demo")
	s.assigned("default/app-default-demo=Assigned")
	s.stop()
	old := s.all()[0]
	check(s.t, s.client.Patch(s.t.Context(), &old, client.RawPatch(types.MergePatchType, []byte(`{"metadata":{"finalizers":null}}`))))
	s.remove(s.t, &old)
	s.startMIC()
	s.assigned("default/app-default-demo=Assigned")
	s.remove(s.t, p)
	s.assigned()
	s.onPool()
}

func bindingDeleted(s *scenario) {
	s.identity("default", "demo")
	b := s.bind("default", "demo", "demo", "demo")
	p := s.pod("default", "app", "node0", "demo")
	s.assigned("default/app-default-demo=Assigned")
	s.tags(p, "demo", "demo", "default/demo")
	s.remove(s.t, b)
	s.assigned()
	s.onPool()
	s.tags(p, "", "", "")
}

func labelChanged(s *scenario) {
	s.identity("default", "one")
	s.identity("default", "two")
	s.bind("default", "one", "one", "one")
	s.bind("default", "two", "two", "two")
	p := s.pod("default", "app", "node0", "one")
	s.assigned("default/app-default-one=Assigned")
	check(s.t, s.client.Patch(s.t.Context(), p, client.RawPatch(types.MergePatchType, []byte(`{"metadata":{"labels":{"aadpodidbinding":"two"}}}`))))
	s.assigned("default/app-default-two=Assigned")
	s.onPool("two")
	s.tags(p, "two", "two", "default/two")
	check(s.t, s.client.Patch(s.t.Context(), p, client.RawPatch(types.MergePatchType, []byte(`{"metadata":{"labels":{"aadpodidbinding":null}}}`))))
	s.assigned()
	s.onPool()
	s.tags(p, "", "", "")
}

func identityChanged(s *scenario) {
	id := s.identity("default", "one")
	other := s.identity("default", "two")
	s.bind("default", "one", "one", "one")
	s.pod("default", "app", "node0", "one")
	s.assigned("default/app-default-one=Assigned")
	s.onPool("one")
	s.change(id, func() { id.Spec = other.Spec })
	s.onPool("two")
	s.assigned("default/app-default-one=Assigned")
	if got := s.all()[0].Spec.AzureIdentityRef.Spec.ResourceID; got != other.Spec.ResourceID {
		s.t.Errorf("the object holds %s", got)
	}
}

func podFinished(s *scenario) {
	s.identity("default", "demo")
	s.bind("default", "demo", "demo", "demo")
	p := s.pod("default", "job", "node0", "demo")
	s.assigned("default/job-default-demo=Assigned")
	p.Status.Phase = corev1.PodSucceeded
	check(s.t, s.client.Status().Patch(s.t.Context(), p, client.RawPatch(types.MergePatchType, []byte(`{"status":{"phase":"Succeeded"}}`))))
	s.assigned()
	s.onPool()
}

func nodeDeleted(s *scenario) {
	s.identity("default", "demo")
	s.bind("default", "demo", "demo", "demo")
	s.pod("default", "first", "node0", "demo")
	s.pod("default", "second", "node1", "demo")
	s.assigned("default/first-default-demo=Assigned", "default/second-default-demo=Assigned")
	s.remove(s.t, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node0"}})
	s.assigned("default/second-default-demo=Assigned")
	s.onPool("demo")
	s.remove(s.t, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node1"}})
	s.assigned()
	s.onPool()
}

func missedDeletion(s *scenario) {
	s.identity("default", "demo")
	s.bind("default", "demo", "demo", "demo")
	p := s.pod("default", "app", "node0", "demo")
	s.assigned("default/app-default-demo=Assigned")
	s.stop()
	// Everything that pointed to the identity goes, the object by force.
	s.remove(s.t, p)
	a := s.all()[0]
	check(s.t, s.client.Patch(s.t.Context(), &a, client.RawPatch(types.MergePatchType, []byte(`{"metadata":{"finalizers":null}}`))))
	s.remove(s.t, &a)
	for _, node := range []string{"node0", "node1"} {
		s.remove(s.t, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: node}})
	}
	s.startMIC()
	s.onPool()
}

func previousRelease(s *scenario) {
	s.stop()
	id := s.identity("default", "demo")
	b := s.bind("default", "demo", "demo", "demo")
	p := s.pod("default", "app", "node0", "demo")
	_, err := s.azure.PutCompute(azure.Compute{ID: azure.VMSSID(testSub, testGroup, "pool1"), UserAssigned: []azure.Assignment{{ID: id.Spec.ResourceID}}})
	check(s.t, err)
	ref, bound := id.DeepCopy(), b.DeepCopy()
	ref.TypeMeta = metav1.TypeMeta{APIVersion: v1.GroupVersion.String(), Kind: v1.KindAzureIdentity}
	bound.TypeMeta = metav1.TypeMeta{APIVersion: v1.GroupVersion.String(), Kind: v1.KindAzureIdentityBinding}
	s.create(s.t, &v1.AzureAssignedIdentity{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: "default", Name: "app-default-demo",
			Labels: map[string]string{v1.NodeNameLabelKey: "node0"}, Finalizers: []string{v1.AssignedIdentityFinalizer},
		},
		Spec:   v1.AzureAssignedIdentitySpec{AzureIdentityRef: ref, AzureBindingRef: bound, Pod: "app", PodNamespace: "default", NodeName: "node0"},
		Status: v1.AzureAssignedIdentityStatus{Status: v1.AssignedIDAssigned, AvailableReplicas: 1},
	})
	s.startMIC()
	s.eventually("the annotation", func() string {
		if got := s.all()[0].Annotations[v1.PodUIDAnnotationKey]; got != string(p.UID) {
			return "is " + got
		}
		return ""
	})
	s.assigned("default/app-default-demo=Assigned")
	s.remove(s.t, p)
	s.assigned()
	s.onPool()
}

func servicePrincipal(s *scenario) {
	s.create(s.t, &v1.AzureIdentity{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "sp"}, Spec: v1.AzureIdentitySpec{
		Type: v1.ServicePrincipal, TenantID: testSub, ClientID: testSub, ClientPassword: v1.SecretReference{Name: "secret", Namespace: "default"},
	}})
	s.bind("default", "sp", "sp", "demo")
	p := s.pod("default", "app", "node0", "demo")
	s.assigned("default/app-default-sp=Assigned")
	s.remove(s.t, p)
	s.assigned()
	if calls := s.azure.Calls(azure.CallFilter{Service: azure.ServiceARM}); len(calls) != 0 {
		s.t.Errorf("%d calls to ARM", len(calls))
	}
}

func notAzure(s *scenario) {
	s.node("kind-worker", "kind://docker/kind/kind-worker")
	s.identity("default", "demo")
	s.bind("default", "demo", "demo", "demo")
	p := s.pod("default", "app", "kind-worker", "demo")
	s.assigned("default/app-default-demo=Created")
	s.event("Pod", "app", "binding apply error", "kind://docker")
	s.remove(s.t, p)
	s.assigned()
}

func namespaced(s *scenario) {
	id := s.identity("other", "demo")
	s.change(id, func() { id.Annotations = map[string]string{v1.BehaviorAnnotationKey: v1.BehaviorNamespaced} })
	s.bind("other", "demo", "demo", "demo")
	s.pod("default", "outsider", "node0", "demo")
	s.pod("other", "app", "node0", "demo")
	s.assigned("other/app-other-demo=Assigned")
}

func uninstalled(s *scenario) {
	s.identity("default", "demo")
	s.bind("default", "demo", "demo", "demo")
	s.pod("default", "app", "node0", "demo")
	s.assigned("default/app-default-demo=Assigned")
	marker := &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Namespace: micNamespace, Name: uninstall.Name},
		Data:       map[string]string{uninstall.PhaseKey: uninstall.PhaseUnassign},
	}
	s.create(s.t, marker)
	s.eventually("MIC's word that it is done", func() string {
		check(s.t, s.client.Get(s.t.Context(), client.ObjectKeyFromObject(marker), marker))
		if got := marker.Data[uninstall.MICKey]; got != uninstall.Done {
			return fmt.Sprintf("says %q", got)
		}
		return ""
	})
	s.assigned()
	s.onPool()
	var ledgers corev1.ConfigMapList
	check(s.t, s.client.List(s.t.Context(), &ledgers, client.InNamespace(micNamespace), client.MatchingLabels{v1.LedgerLabelKey: "true"}))
	if len(ledgers.Items) != 0 {
		s.t.Errorf("%d ledgers are left", len(ledgers.Items))
	}
}

func orphan(s *scenario) {
	id := s.identity("default", "demo")
	ref := id.DeepCopy()
	ref.TypeMeta = metav1.TypeMeta{APIVersion: v1.GroupVersion.String(), Kind: v1.KindAzureIdentity}
	s.create(s.t, &v1.AzureAssignedIdentity{
		ObjectMeta: metav1.ObjectMeta{Namespace: "other", Name: "forged", Finalizers: []string{v1.AssignedIdentityFinalizer}},
		Spec:       v1.AzureAssignedIdentitySpec{AzureIdentityRef: ref, Pod: "nobody", PodNamespace: "default", NodeName: "node0"},
	})
	s.assigned()
	s.onPool()
}

func names(s *scenario) {
	s.identity("default", "demo")
	s.bind("default", "demo", "demo", "demo")
	s.pod("default", "app-other", "node0", "demo")
	s.assigned("default/app-other-default-demo=Assigned")
	p := s.pod("other-default", "app", "node0", "demo")
	s.eventually("two objects that are Assigned", func() string {
		all := s.all()
		for _, a := range all {
			if a.Status.Status != v1.AssignedIDAssigned {
				return a.Name + " is " + a.Status.Status
			}
		}
		if len(all) != 2 {
			return fmt.Sprintf("%d objects", len(all))
		}
		return ""
	})
	s.remove(s.t, p)
	s.assigned("default/app-other-default-demo=Assigned")
}

func deletingScaleSet(s *scenario) {
	s.identity("default", "demo")
	s.bind("default", "demo", "demo", "demo")
	p := s.pod("default", "app", "node0", "demo")
	s.assigned("default/app-default-demo=Assigned")
	check(s.t, s.azure.SetProvisioningState(azure.VMSSID(testSub, testGroup, "pool1"), "Deleting"))
	s.remove(s.t, p)
	s.assigned()
	// One may be refused: Azure says so then, and is not asked again.
	accepted, refused := 0, 0
	for _, c := range s.azure.Calls(azure.CallFilter{Operation: azure.OpVMSSUpdate}) {
		if c.Status < 300 {
			accepted++
		} else {
			refused++
		}
	}
	if accepted != 1 || refused > 1 {
		s.t.Errorf("%d PATCHes accepted and %d refused, want 1 and at most 1", accepted, refused)
	}
}

func forbidden(s *scenario) {
	fault, err := s.azure.AddFault(azure.Fault{Operation: azure.OpVMSSUpdate, Status: 403, Code: "AuthorizationFailed", Message: "no write on the scale set"})
	check(s.t, err)
	s.identity("default", "demo")
	s.bind("default", "demo", "demo", "demo")
	s.pod("default", "app", "node0", "demo")
	s.event("Pod", "app", "binding apply error", "AuthorizationFailed")
	s.event("AzureIdentityBinding", "demo", "binding apply error", "no write on the scale set")
	s.assigned("default/app-default-demo=Created")
	s.azure.RemoveFault(fault.ID)
	s.assigned("default/app-default-demo=Assigned")
}

func coalesced(s *scenario) {
	settings := s.azure.Settings()
	settings.VMSSOperation = azure.Duration(time.Hour) // until it is completed below
	check(s.t, s.azure.SetSettings(settings))
	var want, on []string
	for i := range 20 {
		name := fmt.Sprintf("id%02d", i)
		s.identity("default", name)
		s.bind("default", name, name, name)
		on = append(on, name)
	}
	for i := range 20 {
		s.pod("default", fmt.Sprintf("app%02d", i), fmt.Sprintf("node%d", i%2), on[i])
		want = append(want, fmt.Sprintf("default/app%02d-default-%s=Assigned", i, on[i]))
		if i == 0 {
			s.eventually("the first PATCH", func() string {
				if s.patches() == 0 {
					return "none"
				}
				return ""
			})
		}
	}
	s.eventually("the objects of all pods, while the first PATCH runs", func() string {
		if n := len(s.all()); n != len(want) {
			return fmt.Sprintf("%d objects", n)
		}
		return ""
	})
	settings.VMSSOperation = 0 // first: the next PATCH begins when this one is completed
	check(s.t, s.azure.SetSettings(settings))
	s.azure.CompleteOperations()
	s.assigned(want...)
	s.onPool(on...)
	if n := s.patches(); n != 2 {
		s.t.Errorf("%d PATCHes, want 2", n)
	}
}

func assignedAtOnce(s *scenario) {
	s.identity("default", "demo")
	s.bind("default", "demo", "demo", "demo")
	s.pod("default", "first", "node0", "demo")
	s.assigned("default/first-default-demo=Assigned")
	// The API server counts how often spec or status were written.
	if n := s.all()[0].Generation; n != 2 {
		s.t.Errorf("the object of the first pod was written %d times, want 2", n)
	}
	// A pod that comes at the moment when a pass begins waits for it, as the first one
	// did. That does not happen to one after the other.
	want := []string{"default/first-default-demo=Assigned"}
	for n := int64(2); n > 1; {
		if len(want) > 10 {
			s.t.Fatalf("the object of each of %d pods was written more than once", len(want))
		}
		name := fmt.Sprintf("next%d", len(want))
		s.pod("default", name, "node1", "demo")
		want = append(want, "default/"+name+"-default-demo=Assigned")
		s.assigned(want...)
		s.event("Pod", name, "binding applied", "node node1")
		for _, a := range s.all() {
			if a.Spec.Pod == name {
				n = a.Generation
			}
		}
	}
	for _, a := range s.all() {
		if c := meta.FindStatusCondition(a.Status.Conditions, v1.ConditionAssigned); c == nil || c.Reason != v1.ReasonAssigned || c.Message != "assigned to pool1" {
			s.t.Errorf("the object of pod %s has condition %+v", a.Spec.Pod, c)
		}
	}
	if n := s.patches(); n != 1 {
		s.t.Errorf("%d PATCHes, want 1", n)
	}
}

func comesWhileItGoes(s *scenario) {
	s.identity("default", "demo")
	s.bind("default", "demo", "demo", "demo")
	first := s.pod("default", "first", "node0", "demo")
	s.assigned("default/first-default-demo=Assigned")
	settings := s.azure.Settings()
	settings.VMSSOperation = azure.Duration(time.Hour) // until it is completed below
	check(s.t, s.azure.SetSettings(settings))
	s.remove(s.t, first)
	s.eventually("the PATCH that takes the identity off", func() string {
		if n := s.patches(); n != 2 {
			return fmt.Sprintf("%d PATCHes", n)
		}
		return ""
	})
	s.pod("default", "second", "node1", "demo")
	s.assigned("default/first-default-demo=Unassigned deleting", "default/second-default-demo=Created")
	settings.VMSSOperation = 0
	check(s.t, s.azure.SetSettings(settings))
	s.azure.CompleteOperations()
	s.assigned("default/second-default-demo=Assigned")
	s.onPool("demo")
}

func unlabelledMeanwhile(s *scenario) {
	s.identity("default", "demo")
	s.bind("default", "demo-binding", "demo", "demo")
	p := s.pod("default", "app", "", "demo") // on no node, so that no object tells of it
	s.tags(p, "demo-binding", "demo", "default/demo-binding")
	s.stop()
	check(s.t, s.client.Patch(s.t.Context(), p, client.RawPatch(types.MergePatchType, []byte(`{"metadata":{"labels":{"`+v1.BindingLabelKey+`":null}}}`))))
	s.startMIC()
	s.tags(p, "", "", "")
}

func atRest(s *scenario) {
	s.identity("default", "demo")
	s.bind("default", "demo", "demo", "demo")
	p := s.pod("default", "app", "node0", "demo")
	s.assigned("default/app-default-demo=Assigned")
	s.tags(p, "demo", "demo", "default/demo")
	versions := func() string {
		var pods corev1.PodList
		check(s.t, s.client.List(s.t.Context(), &pods, client.InNamespace("default")))
		var ledgers corev1.ConfigMapList
		check(s.t, s.client.List(s.t.Context(), &ledgers, client.InNamespace(micNamespace)))
		text := ""
		for _, x := range pods.Items {
			if x.Name == "app" {
				text += x.ResourceVersion + " "
			}
		}
		for _, x := range s.all() {
			if x.Spec.Pod == "app" {
				text += x.ResourceVersion + " "
			}
		}
		for _, x := range ledgers.Items {
			text += x.ResourceVersion + " "
		}
		return text
	}
	before, calls := versions(), len(s.azure.Calls(azure.CallFilter{Service: azure.ServiceARM}))
	// Changes that concern the pod, and mean nothing. A second pod of the same
	// identity comes last: when it is served, all before it has been seen.
	for _, o := range []client.Object{
		&v1.AzureIdentity{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "demo"}},
		&v1.AzureIdentityBinding{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "demo"}},
		&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node0"}},
	} {
		check(s.t, s.client.Patch(s.t.Context(), o, client.RawPatch(types.MergePatchType, []byte(`{"metadata":{"labels":{"touched":"yes"}}}`))))
	}
	s.pod("default", "second", "node0", "demo")
	s.assigned("default/app-default-demo=Assigned", "default/second-default-demo=Assigned")
	if after := versions(); after != before {
		s.t.Errorf("versions of pod, object and ledger were %q, are %q", before, after)
	}
	if now := len(s.azure.Calls(azure.CallFilter{Service: azure.ServiceARM})); now != calls {
		s.t.Errorf("%d calls to ARM", now-calls)
	}
}
