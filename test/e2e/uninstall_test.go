package e2e

import (
	"strings"
	"testing"

	"github.com/aad-pod-identity/aad-pod-identity/test/stack"
)

// TestUninstall takes the release down while pods use identities. Nothing of it
// may stay in ARM, on the node or in the API server; the users' objects stay. It
// is the last test in the order of files; TestMain installs for the next run.
func TestUninstall(t *testing.T) {
	ns := namespace(t)
	id := azureIdentity(t, "uninstall")
	apply(t, identityManifest(ns, "uninstall", id)+bindingManifest(ns, "uninstall", "uninstall", "uninstall")+podManifest(ns, "web", "uninstall"))
	waitState(t, ns, "web", "uninstall", "Assigned")

	out, err := env.Helm(t.Context(), "uninstall", stack.Release, "--wait")
	if err != nil {
		t.Fatal(err)
	}
	t.Log(out)

	if has, err := onScaleSet(t.Context(), id.ID); err != nil || has {
		t.Errorf("the identity is still on the scale set (%v)", err)
	}
	r, err := host(t.Context(), "iptables", "-t", "nat", "-S")
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(r.Output, "aad-metadata") {
		t.Errorf("the redirect is still there:\n%s", r.Output)
	}
	for _, kinds := range []string{
		"azureassignedidentities", "mutatingwebhookconfigurations", "validatingwebhookconfigurations",
		"validatingadmissionpolicies", "validatingadmissionpolicybindings", "configmaps", "leases", "jobs", "clusterroles",
		"clusterrolebindings", "deployments", "daemonsets", "services", "certificates", "issuers", "secrets", "serviceaccounts", "pods",
	} {
		for name := range strings.Lines(kubectl(t, "get", kinds, "-A", "-o", "name")) {
			if strings.Contains(name, stack.Release) || strings.Contains(name, "azureassignedidentit") {
				t.Errorf("%s is left", strings.TrimSpace(name))
			}
		}
	}
	if got := kubectl(t, "get", "azureidentity", "-n", ns, "uninstall", "-o", "name"); got == "" {
		t.Error("the user's AzureIdentity is gone")
	}
}
