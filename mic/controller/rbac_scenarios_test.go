package controller

import (
	"cmp"
	"context"
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	v1 "github.com/aad-pod-identity/aad-pod-identity/api/v1"
	"github.com/aad-pod-identity/aad-pod-identity/test/helmtest"
)

// TestWithTheRightsOfTheChart runs MIC as the service account, with the roles and
// under the policies that the chart gives it.
func TestWithTheRightsOfTheChart(t *testing.T) {
	s := startCluster(t).scenario(t)
	s.stop()
	s.old(append(s.oldPair("demo"), object{
		"kind": v1.KindAzurePodIdentityException, "metadata": named("exception"), "spec": object{"PodLabels": object{"app": "x"}},
	}, object{
		"kind": v1.KindAzureIdentity, "metadata": named("sp"), "spec": object{"type": int64(1), "TenantID": testSub, "ClientID": testSub, "ClientPassword": object{"Name": "secret", "Namespace": "default"}},
	})...)
	s.install()
	s.upgrade = &TypeUpgrade{ConfigMap: "aad-pod-identity-config", Key: "type-upgrade-status"}
	s.gates, s.as = true, "system:serviceaccount:"+micNamespace+":aad-pod-identity-mic"
	s.startMIC()
	s.eventually("the record", s.upgradeRecorded)
	if problem := cmp.Or(s.stored(v1.KindAzureIdentity, "demo", nil, "spec", "ResourceID"), s.stored(v1.KindAzureIdentityBinding, "demo", "demo", "spec", "selector"),
		s.stored(v1.KindAzurePodIdentityException, "exception", "x", "spec", "podLabels", "app"), s.stored(v1.KindAzureIdentity, "sp", "secret", "spec", "clientPassword", "name")); problem != "" {
		t.Error(problem)
	}
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "app", Labels: map[string]string{v1.BindingLabelKey: "demo"}},
		Spec: corev1.PodSpec{
			NodeName: "node0", Containers: []corev1.Container{{Name: "c", Image: "none"}},
			ReadinessGates: []corev1.PodReadinessGate{{ConditionType: v1.PodConditionIdentityAssigned}},
		},
	}
	s.create(t, p)
	s.assigned("default/app-default-demo=Assigned")
	s.tags(p, "demo", "demo", "default/demo")
	s.identityIs("demo", v1.ConditionInUse, v1.ReasonInUse)
	s.bindingIs("demo", v1.ConditionPodsMatched, v1.ReasonPodsMatched)
	s.event("Pod", "app", "binding applied", "")
	s.eventually("the readiness gate", func() string {
		check(t, s.client.Get(t.Context(), client.ObjectKeyFromObject(p), p))
		if c := gateCondition(p); c == nil || c.Status != corev1.ConditionTrue {
			return fmt.Sprintf("%+v", c)
		}
		return ""
	})
	s.remove(t, p)
	s.assigned()
	s.onPool()
	s.identityIs("demo", v1.ConditionInUse, v1.ReasonNotInUse)
	if problem := s.ledgersAre(0); problem != "" {
		t.Error(problem)
	}
}

// install installs the roles and policies of the chart until the end of the test.
func (s *scenario) install() {
	s.t.Helper()
	helmtest.Require(s.t)
	out, err := helmtest.Run(s.t, "template", "aad-pod-identity", "../../charts/aad-pod-identity", "--namespace", micNamespace, "--kube-version", "1.37.0",
		"--set", "readinessGate.enabled=true,webhook.certificates.mode=self")
	check(s.t, err)
	ctx := context.WithoutCancel(s.t.Context())
	var installed []client.Object
	s.t.Cleanup(func() {
		for _, o := range installed {
			check(s.t, client.IgnoreNotFound(s.client.Delete(ctx, o)))
		}
		s.eventually("policies gone", func() string {
			if s.refusesForgeries(ctx) {
				return "a forged object is refused"
			}
			return ""
		})
	})
	for _, o := range helmtest.Objects(s.t, out) {
		if kind := o.GetKind(); o.GetAnnotations()["helm.sh/hook"] != "" || (!strings.Contains(kind, "Role") && !strings.HasPrefix(kind, "ValidatingAdmissionPolicy")) {
			continue
		}
		s.create(s.t, o)
		installed = append(installed, o)
	}
	s.eventually("policies in force", func() string {
		if !s.refusesForgeries(ctx) {
			return "a forged object is taken"
		}
		return ""
	})
}

// refusesForgeries says whether the policy about AzureAssignedIdentities is in force.
func (s *scenario) refusesForgeries(ctx context.Context) bool {
	forged := &v1.AzureAssignedIdentity{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "forged"},
		Spec:       v1.AzureAssignedIdentitySpec{Pod: "p", PodNamespace: "default", NodeName: "n"},
	}
	return apierrors.IsForbidden(s.client.Create(ctx, forged, client.DryRunAll))
}

// asUser returns the configuration for another user.
func asUser(config *rest.Config, name string) *rest.Config {
	config = rest.CopyConfig(config)
	if name != "" {
		config.Impersonate = rest.ImpersonationConfig{UserName: name, Groups: []string{"system:authenticated", "system:serviceaccounts"}}
	}
	return config
}
