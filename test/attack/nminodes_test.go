package attack

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

const (
	policyNMINodes = "aad-pod-identity-nmi-nodes"
	nmiUser        = "system:serviceaccount:" + releaseNamespace + ":aad-pod-identity-nmi"
)

// Who has NMI's token may patch every node by RBAC, when the startup taint is on; the
// policy leaves the taking off of that taint, from the node that the token is of.
func (s *server) testNMIAndNodes(t *testing.T) {
	for _, kind := range []string{"ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding"} {
		for _, o := range render(t, kind, "--set", "nmi.startupTaint.enabled=true") {
			if o.GetName() == policyNMINodes {
				check(t, s.admin.Create(t.Context(), o))
			}
		}
	}
	node := &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: "n1", Labels: map[string]string{"pool": "a"}},
		Spec: corev1.NodeSpec{PodCIDR: "10.0.0.0/24", PodCIDRs: []string{"10.0.0.0/24"}, ProviderID: "azure:///x", Taints: []corev1.Taint{
			{Key: "aadpodidentity.k8s.io/nmi-not-ready", Effect: corev1.TaintEffectNoSchedule},
			{Key: "gpu", Value: "yes", Effect: corev1.TaintEffectNoSchedule},
		}},
	}
	check(t, s.admin.Create(t.Context(), node))
	t.Cleanup(func() { check(t, s.admin.Delete(context.WithoutCancel(t.Context()), node)) })
	// The token of a pod says its node; here the administrator says it for NMI, who
	// may do everything by RBAC then.
	as := func(extra map[string][]string) client.Client {
		config := rest.CopyConfig(s.config)
		config.Impersonate = rest.ImpersonationConfig{UserName: nmiUser, Groups: []string{"system:masters"}, Extra: extra}
		c, err := client.New(config, client.Options{})
		check(t, err)
		return c
	}
	onNode := func(name string) client.Client {
		return as(map[string][]string{"authentication.kubernetes.io/node-name": {name}})
	}
	patch := func(c client.Client, body string) error {
		return c.Patch(t.Context(), node.DeepCopy(), client.RawPatch(types.MergePatchType, []byte(body)), client.DryRunAll)
	}
	// The API server adds taints of its own to a new node.
	taints := func(change func(t *corev1.Taint) (keep bool)) string {
		var left []corev1.Taint
		for _, taint := range node.Spec.Taints {
			if change(&taint) {
				left = append(left, taint)
			}
		}
		body, err := json.Marshal(map[string]any{"spec": map[string]any{"taints": left}})
		check(t, err)
		return string(body)
	}
	const startup, cordon = "aadpodidentity.k8s.io/nmi-not-ready", `{"spec":{"unschedulable":true}}`
	takenOff := taints(func(t *corev1.Taint) bool { return t.Key != startup })
	other := taints(func(t *corev1.Taint) bool {
		if t.Key == "gpu" {
			t.Effect = corev1.TaintEffectNoExecute
		}
		return t.Key != startup
	})
	s.eventually(t, "policy "+policyNMINodes, func() error {
		if err := patch(onNode("n1"), cordon); err == nil || !strings.Contains(err.Error(), policyNMINodes) {
			return errors.Join(errors.New("not obeyed"), err)
		}
		return nil
	})
	if err := patch(onNode("n1"), takenOff); err != nil {
		t.Errorf("NMI cannot take the startup taint off its node: %v", err)
	}
	refused := map[string]struct {
		who            client.Client
		patch, refusal string
	}{
		"the taint of another node":   {onNode("n2"), takenOff, "no other node than its own"},
		"by a token without a node":   {as(nil), takenOff, "no other node than its own"},
		"another taint":               {onNode("n1"), `{"spec":{"taints":null}}`, "changes other taints"},
		"a taint with another effect": {onNode("n1"), other, "changes other taints"},
		"a cordon":                    {onNode("n1"), cordon, "changes the spec"},
		"a label":                     {onNode("n1"), `{"metadata":{"labels":{"pool":"b"}}}`, "changes the metadata"},
		"an annotation":               {onNode("n1"), `{"metadata":{"annotations":{"a":"b"}}}`, "changes the metadata"},
		"a finalizer":                 {onNode("n1"), `{"metadata":{"finalizers":["example.com/x"]}}`, "changes the metadata"},
	}
	for name, tt := range refused {
		t.Run(name, func(t *testing.T) {
			if err := patch(tt.who, tt.patch); err == nil || !strings.Contains(err.Error(), policyNMINodes) || !strings.Contains(err.Error(), tt.refusal) {
				t.Errorf("error %v, want a refusal of policy %s that says %q", err, policyNMINodes, tt.refusal)
			}
			if err := patch(s.admin, tt.patch); err != nil {
				t.Errorf("it holds for others than NMI: %v", err)
			}
		})
	}
}
