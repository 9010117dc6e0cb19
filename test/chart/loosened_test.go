package chart_test

import (
	"context"
	"path/filepath"
	"strings"
	"testing"
	"time"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

const miscapitalisedID = "/subscriptions/0f3c5e2a-91b7-4d1e-8c57-2b1f6a9d4e30/RESOURCEGROUPS/rg/providers/Microsoft.ManagedIdentity/userAssignedIdentities/demo"

// testLoosened upgrades a release with webhook.resourceIDCase=warn and an AzureIdentity
// that needs it. Helm writes objects before it deletes any, so the policy that refuses
// the identity would stay for ever if the prepare hook did not delete it.
func (s *server) testLoosened(t *testing.T) {
	h := s.newHookRun(t)
	loosened := []string{"--set", "webhook.resourceIDCase=warn", "--set", "azureIdentities.demo.clientID=7eb6d1a0-2c4f-4b8e-9d3a-5f1e0c7ba6a9",
		"--set", "azureIdentities.demo.resourceID=" + miscapitalisedID, "--set", "azureIdentities.demo.binding.selector=demo"}
	h.all = mustRender(t, loosened...)
	kubeconfig := filepath.Join(t.TempDir(), "kubeconfig")
	if err := clientcmd.WriteToFile(*h.kubeconfig, kubeconfig); err != nil {
		t.Fatal(err)
	}
	// There is nothing here that could run a pod: of hooks and webhook, only what is run
	// below.
	run := func(args ...string) (string, error) {
		return helm(t, append(args, "--kubeconfig", kubeconfig, "--namespace", namespace, "--no-hooks")...)
	}
	upgrade := func(args ...string) (string, error) {
		return run(append([]string{"upgrade", "--install", release, chartDir, "--skip-crds", "--take-ownership", "--set", "webhook.certificates.mode=self,webhook.failurePolicy=Ignore"}, args...)...)
	}
	if out, err := upgrade(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	defer func() {
		if out, err := helm(t, "uninstall", release, "--kubeconfig", kubeconfig, "--namespace", namespace, "--no-hooks"); err != nil {
			t.Errorf("%v\n%s", err, out)
		}
		for _, o := range []client.Object{&rbacv1.ClusterRole{}, &rbacv1.ClusterRoleBinding{}} {
			o.SetName("aad-pod-identity-prepare") // other values, other rights
			if err := s.c.Delete(t.Context(), o); err != nil {
				t.Error(err)
			}
		}
	}()
	probe := func() error {
		o := h.all.get(t, "AzureIdentity/demo").DeepCopy()
		o.SetNamespace(namespace)
		return s.c.Create(t.Context(), o, client.DryRunAll)
	}
	until := func(what string, done func() bool) {
		t.Helper()
		err := wait.PollUntilContextTimeout(t.Context(), 100*time.Millisecond, 2*time.Minute, true, func(context.Context) (bool, error) { return done(), nil })
		if err != nil {
			t.Fatalf("waiting for %s: %v", what, err)
		}
	}
	refused := func() bool { err := probe(); return err != nil && strings.Contains(err.Error(), "-resource-id-case'") }
	until("the policy to be obeyed", refused)
	if out, err := upgrade(loosened...); err == nil || !strings.Contains(err.Error()+out, "-resource-id-case'") {
		t.Errorf("without the hook: %v\n%s", err, out)
	}
	if out := h.run(t, "prepare"); !strings.Contains(out, "deleted policy aad-pod-identity-resource-id-case") {
		t.Errorf("prepare says:\n%s", out)
	}
	until("the policy to be gone", func() bool { return !refused() })
	if out, err := upgrade(loosened...); err != nil {
		t.Errorf("after the hook: %v\n%s", err, out)
	}
	got := &unstructured.Unstructured{}
	got.SetGroupVersionKind(h.all.get(t, "AzureIdentity/demo").GroupVersionKind())
	if err := s.c.Get(t.Context(), client.ObjectKey{Namespace: namespace, Name: "demo"}, got); err != nil {
		t.Error(err)
	}
}
