package controller

import (
	"cmp"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	v1 "github.com/aad-pod-identity/aad-pod-identity/api/v1"
)

// TestMatching is about who gets what, and what its authors are told.
func TestMatching(t *testing.T) {
	c := startCluster(t)
	for name, run := range map[string]func(*scenario){
		"conditions say how identities and bindings stand":                conditionsFollow,
		"of two identities of one name the first wins, and it is said":    sameIdentityName,
		"one identity by two bindings is one object":                      twoBindings,
		"the flag confines every identity":                                confinedByFlag,
		"an invalid identity holds up nobody and is taken when corrected": invalidAmongValid,
		"tags follow bindings and outlive a webhook that was away":        tagsFollow,
	} {
		t.Run(name, func(t *testing.T) { run(c.scenario(t)) })
	}
}

func (s *scenario) identityIs(name, kind, reason string) {
	s.t.Helper()
	s.eventually("condition of identity "+name, func() string { return s.conditionIs(&v1.AzureIdentity{}, name, kind, reason) })
}

func (s *scenario) bindingIs(name, kind, reason string) {
	s.t.Helper()
	s.eventually("condition of binding "+name, func() string { return s.conditionIs(&v1.AzureIdentityBinding{}, name, kind, reason) })
}

func conditionsFollow(s *scenario) {
	s.bind("default", "demo", "demo", "demo")
	s.bindingIs("demo", v1.ConditionResolved, v1.ReasonIdentityNotFound)
	s.bindingIs("demo", v1.ConditionPodsMatched, v1.ReasonNoPodsMatched)
	id := s.identity("default", "demo")
	s.bindingIs("demo", v1.ConditionResolved, v1.ReasonResolved)
	s.identityIs("demo", v1.ConditionValid, v1.ReasonValid)
	s.identityIs("demo", v1.ConditionInUse, v1.ReasonNotInUse)
	first := s.pod("default", "first", "node0", "demo")
	second := s.pod("other", "second", "node1", "demo")
	s.bindingIs("demo", v1.ConditionPodsMatched, v1.ReasonPodsMatched)
	s.identityIs("demo", v1.ConditionInUse, v1.ReasonInUse)
	s.change(id, func() { id.Annotations = map[string]string{v1.BehaviorAnnotationKey: v1.BehaviorNamespaced} })
	s.assigned("default/first-default-demo=Assigned")
	s.remove(s.t, first)
	s.bindingIs("demo", v1.ConditionPodsMatched, v1.ReasonPodsInOtherNamespaces)
	s.identityIs("demo", v1.ConditionInUse, v1.ReasonNotInUse)
	s.remove(s.t, second)
	s.bindingIs("demo", v1.ConditionPodsMatched, v1.ReasonNoPodsMatched)

	// What somebody else writes into a condition is corrected; what is not MIC's stays.
	now := &v1.AzureIdentity{}
	check(s.t, s.client.Get(s.t.Context(), client.ObjectKeyFromObject(id), now))
	before := now.DeepCopy()
	now.Status.Conditions[0].Status = metav1.ConditionFalse
	now.Status.Conditions[0].Reason = "Forged"
	now.Status.AvailableReplicas = 3
	check(s.t, s.client.Status().Patch(s.t.Context(), now, client.MergeFrom(before)))
	s.identityIs("demo", v1.ConditionValid, v1.ReasonValid)
	if problem := s.stored(v1.KindAzureIdentity, "demo", int64(3), "status", "availableReplicas"); problem != "" {
		s.t.Error(problem)
	}
	s.remove(s.t, id)
	s.bindingIs("demo", v1.ConditionResolved, v1.ReasonIdentityNotFound)
}

func sameIdentityName(s *scenario) {
	first := s.identity("default", "demo")
	s.create(s.t, &v1.AzureIdentity{ObjectMeta: metav1.ObjectMeta{Namespace: "other", Name: "demo"}, Spec: first.Spec})
	s.bind("default", "one", "demo", "demo")
	s.bind("other", "two", "demo", "demo")
	s.pod("default", "app", "node0", "demo")
	s.assigned("default/app-default-demo=Assigned")
	if ref := s.all()[0].Spec.AzureIdentityRef; ref.Namespace != "default" {
		s.t.Errorf("it is of namespace %s", ref.Namespace)
	}
	s.event("AzureIdentityBinding", "two", "binding apply error", "has AzureIdentity default/demo already, so other/demo of the same name is not used")
	s.event("Pod", "app", "binding apply error", "so other/demo of the same name is not used")
	s.remove(s.t, first)
	s.eventually("the other one takes its place", func() string {
		if all := s.all(); len(all) != 1 || all[0].Spec.AzureIdentityRef.Namespace != "other" || all[0].Status.Status != v1.AssignedIDAssigned {
			return s.assignedAre("default/app-default-demo=Assigned") + " of default"
		}
		return ""
	})
}

func twoBindings(s *scenario) {
	s.identity("default", "demo")
	s.bind("default", "a", "demo", "demo")
	b := s.bind("default", "b", "demo", "demo")
	p := s.pod("default", "app", "node0", "demo")
	s.assigned("default/app-default-demo=Assigned")
	uid := s.all()[0].UID
	s.remove(s.t, &v1.AzureIdentityBinding{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "a"}})
	s.tags(p, "b", "demo", "default/b")
	s.eventually("the object names the binding that is left", func() string {
		if all := s.all(); len(all) != 1 || all[0].UID != uid || all[0].Spec.AzureBindingRef.UID != b.UID || all[0].Status.Status != v1.AssignedIDAssigned {
			return "not yet"
		}
		return ""
	})
	if n := s.patches(); n != 1 {
		s.t.Errorf("%d PATCHes", n)
	}
}

func confinedByFlag(s *scenario) {
	s.stop()
	s.force = true
	s.startMIC()
	s.identity("other", "demo")
	s.bind("other", "demo", "demo", "demo")
	s.pod("default", "outsider", "node0", "demo")
	s.pod("other", "app", "node0", "demo")
	s.assigned("other/app-other-demo=Assigned")
}

func invalidAmongValid(s *scenario) {
	s.identity("default", "good")
	s.old(object{"kind": v1.KindAzureIdentity, "metadata": named("bad"), "spec": object{"resourceID": "subscriptions/no-slash", "clientID": testSub}})
	s.bind("default", "good", "good", "demo")
	s.bind("default", "bad", "bad", "demo")
	s.pod("default", "app", "node0", "demo")
	s.assigned("default/app-default-good=Assigned")
	s.identityIs("bad", v1.ConditionValid, v1.ReasonIdentityInvalid)
	s.bindingIs("bad", v1.ConditionResolved, v1.ReasonIdentityInvalid)
	s.event("AzureIdentity", "bad", "identity ignored", `Invalid resource id: "subscriptions/no-slash"`)
	other := s.identity("default", "spare")
	var bad v1.AzureIdentity
	check(s.t, s.client.Get(s.t.Context(), types.NamespacedName{Namespace: "default", Name: "bad"}, &bad))
	s.change(&bad, func() { bad.Spec = other.Spec })
	s.assigned("default/app-default-good=Assigned", "default/app-default-bad=Assigned")
	s.identityIs("bad", v1.ConditionValid, v1.ReasonValid)
	s.onPool("good", "spare")
}

func tagsFollow(s *scenario) {
	s.identity("default", "demo")
	s.bind("default", "b", "demo", "demo")
	p := s.pod("default", "app", "node0", "demo") // by an API server without the webhook
	s.tags(p, "b", "demo", "default/b")
	s.identity("default", "early")
	a := s.bind("default", "a", "early", "demo")
	s.tags(p, "a", "early", "default/a,default/b")
	s.change(a, func() { a.Spec.Selector = "none" })
	s.tags(p, "b", "demo", "default/b")
	check(s.t, s.client.Patch(s.t.Context(), p, client.RawPatch(types.MergePatchType, []byte(`{"metadata":{"labels":{"aadpodidentity.k8s.io/identity":"forged"}}}`))))
	s.tags(p, "b", "demo", "default/b")
	s.eventually("other labels stay", func() string {
		var now corev1.Pod
		check(s.t, s.client.Get(s.t.Context(), client.ObjectKeyFromObject(p), &now))
		return cmp.Or(map[bool]string{false: "the label is another"}[now.Labels[v1.BindingLabelKey] == "demo"], "")
	})
}
