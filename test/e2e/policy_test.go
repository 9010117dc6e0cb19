package e2e

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/aad-pod-identity/aad-pod-identity/test/stack"
)

// forged is an AzureAssignedIdentity that would give its pod any identity on the node.
func forged(namespace string) string {
	return fmt.Sprintf(`apiVersion: aadpodidentity.k8s.io/v1
kind: AzureAssignedIdentity
metadata: {name: forged, namespace: %s}
spec: {pod: x, podNamespace: %s, nodename: %s}
status: {status: Assigned}
`, namespace, namespace, env.Cluster.NodeName())
}

// TestAssignedIdentitiesAreMICsAlone is tried as the cluster's administrator:
// what is refused is refused whatever RBAC allows.
func TestAssignedIdentitiesAreMICsAlone(t *testing.T) {
	waitSettled(t)
	ns := namespace(t)
	id := azureIdentity(t, "policy")
	apply(t, identityManifest(ns, "policy", id)+bindingManifest(ns, "policy", "policy", "policy")+podManifest(ns, "web", "policy"))
	waitState(t, ns, "web", "policy", "Assigned")
	name := "web-" + ns + "-policy"
	const says = "Only MIC"

	for what, out := range map[string]string{
		"create": refused(t, forged(ns), "create", "-f", "-"),
		"status": refused(t, "", "patch", "azureassignedidentity", name, "--type=merge", "-p", `{"status":{"status":"Created"}}`),
		"spec":   refused(t, "", "patch", "azureassignedidentity", name, "--type=merge", "-p", `{"spec":{"pod":"other"}}`),
		"labels": refused(t, "", "label", "azureassignedidentity", name, "nodename=other", "--overwrite"),
	} {
		if !strings.Contains(strings.ToLower(out), strings.ToLower(says)) {
			t.Errorf("%s: the refusal does not say %q:\n%s", what, says, out)
		}
	}

	t.Run("the guide's commands clear finalizers", func(t *testing.T) {
		// As printed in the guide; the pipe is bash's.
		cmd := `kubectl get azureassignedidentity -A -o=json | jq '.items[].metadata.finalizers=null' | kubectl apply -f -`
		r, err := env.Run(t.Context(), stack.Command{Args: []string{"bash", "-c", cmd}})
		if err != nil || r.Code != 0 || !strings.Contains(r.Output, name+" configured") {
			t.Fatalf("%v, exit code %d:\n%s", err, r.Code, r.Output)
		}
		kubectl(t, "delete", "azureassignedidentity", "--all")
		// MIC finds the assignment missing and makes it again.
		waitState(t, ns, "web", "policy", "Assigned")
	})
}

// ignoreWebhook makes the API server pass over a webhook that does not answer, for
// the rest of the test: what is still refused is refused by CRDs and policies.
func ignoreWebhook(t *testing.T) {
	t.Helper()
	policy := func(ctx context.Context, value string) error {
		for _, kind := range []string{"mutating", "validating"} {
			_, err := env.Kubectl(ctx, "", "patch", kind+"webhookconfiguration", "aad-pod-identity-webhook", "--type=json",
				"-p", `[{"op":"replace","path":"/webhooks/0/failurePolicy","value":"`+value+`"}]`)
			if err != nil {
				return err
			}
		}
		return nil
	}
	t.Cleanup(func() {
		if err := policy(context.Background(), "Fail"); err != nil {
			t.Errorf("restoring the webhook configurations: %v", err)
		}
	})
	if err := policy(t.Context(), "Ignore"); err != nil {
		t.Fatal(err)
	}
}

// tagsCatchUp creates the binding after the pod: MIC tags the pod later.
func tagsCatchUp(t *testing.T) {
	ns := namespace(t)
	apply(t, podManifest(ns, "early", "late"))
	id := azureIdentity(t, "late")
	apply(t, identityManifest(ns, "late", id)+bindingManifest(ns, "late-binding", "late", "late"))
	waitState(t, ns, "early", "late", "Assigned")
	eventually(t, "tags", func(ctx context.Context) error {
		out, err := env.Kubectl(ctx, "", "get", "pod", "-n", ns, "early", "--no-headers", "-L", "aadpodidentity.k8s.io/binding,aadpodidentity.k8s.io/identity")
		if err == nil && !strings.Contains(out, "late-binding") {
			err = fmt.Errorf("the pod has no tags: %s", out)
		}
		return err
	})
}
