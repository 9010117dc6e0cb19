package controller

import (
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	v1 "github.com/aad-pod-identity/aad-pod-identity/api/v1"
	"github.com/aad-pod-identity/aad-pod-identity/internal/uninstall"
	"github.com/aad-pod-identity/aad-pod-identity/test/azure"
)

// TestReadinessGate runs MIC with the readiness gate on against a real API server
// and the Azure emulator.
func TestReadinessGate(t *testing.T) {
	c := startCluster(t)
	for name, run := range map[string]func(*scenario){
		"a pod with the gate waits for its identity":               gateOpens,
		"it waits for a binding, and closes when that goes":        gateWithoutBinding,
		"it waits for an identity that does not exist yet":         gateWithoutIdentity,
		"a refused identity keeps it closed and says why":          gateRefused,
		"it closes when the label is taken off":                    gateUnlabelled,
		"a pod on no node yet is left alone":                       gateUnscheduled,
		"pods without the gate get no condition":                   gateAbsent,
		"what somebody else wrote into the condition is corrected": gateOverwritten,
		"nothing is written at rest":                               gateAtRest,
		"an uninstallation makes no pod unready":                   gateUninstalling,
	} {
		t.Run(name, func(t *testing.T) {
			s := c.scenario(t)
			s.stop()
			s.gates = true
			s.startMIC()
			run(s)
		})
	}
	t.Run("with the feature off nobody sets the condition", func(t *testing.T) { gateOff(c.scenario(t)) })
}

// gatePod creates a pod with the gate.
func (s *scenario) gatePod(name, node, label string) *corev1.Pod {
	s.t.Helper()
	p := gatePod(label)
	p.ObjectMeta = metav1.ObjectMeta{Namespace: "default", Name: name, Labels: p.Labels}
	p.Spec.NodeName, p.Spec.Containers = node, []corev1.Container{{Name: "c", Image: "none"}}
	s.create(s.t, p)
	return p
}

// condition waits until the gate's condition says this.
func (s *scenario) condition(p *corev1.Pod, status corev1.ConditionStatus, reason, text string) {
	s.t.Helper()
	s.eventually(fmt.Sprintf("condition of pod %s to be %s %s %q", p.Name, status, reason, text), func() string {
		got := gateStateOf(s.get(p))
		if got.status != status || got.reason != reason || !strings.Contains(got.message, text) {
			return fmt.Sprintf("is %+v", got)
		}
		return ""
	})
}

func (s *scenario) get(p *corev1.Pod) *corev1.Pod {
	s.t.Helper()
	now := &corev1.Pod{}
	check(s.t, s.client.Get(s.t.Context(), client.ObjectKeyFromObject(p), now))
	return now
}

func gateOpens(s *scenario) {
	settings := s.azure.Settings()
	settings.VMSSOperation = azure.Duration(patience)
	check(s.t, s.azure.SetSettings(settings))
	s.identity("default", "demo")
	s.bind("default", "demo", "demo", "demo")
	p := s.gatePod("app", "node0", "demo")
	s.condition(p, corev1.ConditionFalse, v1.ReasonPending, "AzureIdentity default/demo: waiting")
	s.azure.CompleteOperations()
	settings.VMSSOperation = 0
	check(s.t, s.azure.SetSettings(settings))
	s.condition(p, corev1.ConditionTrue, v1.ReasonAssigned, "default/demo")
	s.assigned("default/app-default-demo=Assigned")
	c := gateCondition(s.get(p))
	if c.LastTransitionTime.IsZero() {
		s.t.Errorf("condition %+v", c)
	}
}

func gateWithoutBinding(s *scenario) {
	s.identity("default", "demo")
	p := s.gatePod("app", "node0", "demo")
	s.condition(p, corev1.ConditionFalse, v1.ReasonNoIdentityMatched, `no AzureIdentityBinding has selector "demo"`)
	s.event("Pod", "app", v1.ReasonNoIdentityMatched, `no AzureIdentityBinding has selector "demo"`)
	b := s.bind("default", "demo", "demo", "demo")
	s.condition(p, corev1.ConditionTrue, v1.ReasonAssigned, "default/demo")
	s.remove(s.t, b)
	s.condition(p, corev1.ConditionFalse, v1.ReasonNoIdentityMatched, `no AzureIdentityBinding has selector "demo"`)
	s.bind("default", "other", "demo", "demo")
	s.condition(p, corev1.ConditionTrue, v1.ReasonAssigned, "default/demo")
}

func gateWithoutIdentity(s *scenario) {
	s.identity("default", "demo")
	s.bind("default", "demo", "demo", "demo")
	s.bind("default", "late", "late", "demo")
	p := s.gatePod("app", "node0", "demo")
	s.condition(p, corev1.ConditionFalse, v1.ReasonIdentityNotFound, "AzureIdentity default/late of AzureIdentityBinding default/late does not exist")
	s.event("Pod", "app", v1.ReasonIdentityNotFound, "default/late")
	s.identity("default", "late")
	s.condition(p, corev1.ConditionTrue, v1.ReasonAssigned, "default/demo, default/late")
}

func gateRefused(s *scenario) {
	s.identity("default", "good")
	bad := s.identity("default", "bad")
	check(s.t, s.azure.DeleteIdentity(bad.Spec.ResourceID))
	s.bind("default", "good", "good", "demo")
	s.bind("default", "bad", "bad", "demo")
	p := s.gatePod("app", "node0", "demo")
	s.condition(p, corev1.ConditionFalse, v1.ReasonAssignmentFailed, "AzureIdentity default/bad: FailedIdentityOperation")
	s.assigned("default/app-default-good=Assigned", "default/app-default-bad=Created")
	_, err := s.azure.PutIdentity(azure.Identity{ID: bad.Spec.ResourceID})
	check(s.t, err)
	s.condition(p, corev1.ConditionTrue, v1.ReasonAssigned, "default/bad, default/good")
}

func gateUnlabelled(s *scenario) {
	s.identity("default", "demo")
	s.bind("default", "demo", "demo", "demo")
	p := s.gatePod("app", "node0", "demo")
	s.condition(p, corev1.ConditionTrue, v1.ReasonAssigned, "default/demo")
	s.tags(p, "demo", "demo", "default/demo")
	check(s.t, s.client.Patch(s.t.Context(), s.get(p), client.RawPatch(types.MergePatchType, []byte(`{"metadata":{"labels":{"aadpodidbinding":null}}}`))))
	s.condition(p, corev1.ConditionFalse, v1.ReasonNoIdentityMatched, "the pod has no label aadpodidbinding")
	s.tags(p, "", "", "")
	s.assigned()
	check(s.t, s.client.Patch(s.t.Context(), s.get(p), client.RawPatch(types.MergePatchType, []byte(`{"metadata":{"labels":{"aadpodidbinding":"demo"}}}`))))
	s.condition(p, corev1.ConditionTrue, v1.ReasonAssigned, "default/demo")
}

func gateUnscheduled(s *scenario) {
	s.identity("default", "demo")
	s.bind("default", "demo", "demo", "demo")
	p := s.gatePod("app", "", "demo")
	s.tags(p, "demo", "demo", "default/demo") // so MIC has seen it
	last := s.gatePod("last", "node0", "demo")
	s.condition(last, corev1.ConditionTrue, v1.ReasonAssigned, "default/demo")
	if c := gateCondition(s.get(p)); c != nil {
		s.t.Errorf("condition %+v", c)
	}
	check(s.t, s.client.SubResource("binding").Create(s.t.Context(), p, &corev1.Binding{Target: corev1.ObjectReference{Kind: "Node", Name: "node0"}}))
	s.condition(p, corev1.ConditionTrue, v1.ReasonAssigned, "default/demo")
}

func gateAbsent(s *scenario) {
	s.identity("default", "demo")
	s.bind("default", "demo", "demo", "demo")
	p := s.pod("default", "app", "node0", "demo")
	s.tags(p, "demo", "demo", "default/demo")
	s.assigned("default/app-default-demo=Assigned")
	last := s.gatePod("last", "node0", "demo")
	s.condition(last, corev1.ConditionTrue, v1.ReasonAssigned, "default/demo")
	if c := gateCondition(s.get(p)); c != nil {
		s.t.Errorf("condition %+v", c)
	}
}

func gateOverwritten(s *scenario) {
	p := s.gatePod("app", "node0", "demo")
	s.condition(p, corev1.ConditionFalse, v1.ReasonNoIdentityMatched, "")
	patch := `{"status":{"conditions":[{"type":"` + v1.PodConditionIdentityAssigned + `","status":"True","reason":"Forged","message":""}]}}`
	check(s.t, s.client.Status().Patch(s.t.Context(), s.get(p), client.RawPatch(types.StrategicMergePatchType, []byte(patch))))
	s.condition(p, corev1.ConditionFalse, v1.ReasonNoIdentityMatched, "")
}

func gateAtRest(s *scenario) {
	s.identity("default", "demo")
	s.bind("default", "demo", "demo", "demo")
	p := s.gatePod("app", "node0", "demo")
	without := s.gatePod("without", "node0", "nobody")
	s.condition(p, corev1.ConditionTrue, v1.ReasonAssigned, "default/demo")
	s.condition(without, corev1.ConditionFalse, v1.ReasonNoIdentityMatched, "")
	s.tags(p, "demo", "demo", "default/demo")
	// A pod that comes now is served by a MIC that knows what it has written so far.
	s.pod("default", "settled", "node0", "demo")
	s.assigned("default/app-default-demo=Assigned", "default/settled-default-demo=Assigned")
	first := s.wire
	before := statusWrites(first)
	if before == 0 {
		s.t.Error("no write was counted at all")
	}
	// Changes that concern the pods, and mean nothing, and a MIC that starts anew.
	// A pod that comes last is served when all before it has been seen.
	for _, o := range []client.Object{
		&v1.AzureIdentity{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "demo"}},
		&v1.AzureIdentityBinding{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "demo"}},
		&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node0"}},
	} {
		check(s.t, s.client.Patch(s.t.Context(), o, client.RawPatch(types.MergePatchType, []byte(`{"metadata":{"labels":{"touched":"yes"}}}`))))
	}
	s.stop()
	s.startMIC()
	s.pod("default", "zz-last", "node0", "demo")
	s.assigned("default/app-default-demo=Assigned", "default/settled-default-demo=Assigned", "default/zz-last-default-demo=Assigned")
	if after := statusWrites(first) + statusWrites(s.wire); after != before {
		s.t.Errorf("%d writes of the status of pods", after-before)
	}
}

// statusWrites is how many times a MIC asked to patch the status of a pod, be it to
// what it was.
func statusWrites(w *wire) int {
	writes, _ := w.written()
	total := 0
	for _, call := range writes {
		if strings.Contains(call, "/pods/") && strings.HasSuffix(call, "/status") {
			total++
		}
	}
	return total
}

func gateUninstalling(s *scenario) {
	s.identity("default", "demo")
	s.bind("default", "demo", "demo", "demo")
	p := s.gatePod("app", "node0", "demo")
	s.condition(p, corev1.ConditionTrue, v1.ReasonAssigned, "default/demo")
	s.create(s.t, &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Namespace: micNamespace, Name: uninstall.Name},
		Data:       map[string]string{uninstall.PhaseKey: uninstall.PhaseUnassign},
	})
	s.assigned()
	s.condition(p, corev1.ConditionTrue, v1.ReasonAssigned, "default/demo")
}

func gateOff(s *scenario) {
	s.identity("default", "demo")
	s.bind("default", "demo", "demo", "demo")
	p := s.gatePod("app", "node0", "demo")
	s.assigned("default/app-default-demo=Assigned")
	s.tags(p, "demo", "demo", "default/demo")
	last := s.gatePod("last", "node0", "demo")
	s.tags(last, "demo", "demo", "default/demo")
	if c := gateCondition(s.get(p)); c != nil {
		s.t.Errorf("condition %+v", c)
	}
}
