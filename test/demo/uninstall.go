package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/aad-pod-identity/aad-pod-identity/test/stack"
)

// uninstall removes the release while a pod still uses its identity, and checks
// that nothing of it stays in ARM, on the node or in the API server.
func (t *teller) uninstall(ctx context.Context) {
	t.begin("helm uninstall leaves nothing behind, even while a pod uses its identity")
	t.expect(ctx, "the pod is created again", []string{"kubectl", "apply", "-f", manifests + "pod.yaml"}, "pod/demo created")
	t.check("the identity is on the scale set", t.onScaleSet(ctx, true))
	t.expect(ctx, "helm uninstall", []string{"helm", "uninstall", stack.Release, "--wait"}, "uninstalled")
	t.check("ARM no longer lists the identity", t.onScaleSet(ctx, false))
	t.expect(ctx, "the redirect is gone from the node", []string{"sh", "-c", "iptables -t nat -S | grep -c aad-metadata || true"}, "0")
	for _, kind := range []string{"azureassignedidentities", "validatingwebhookconfigurations,mutatingwebhookconfigurations", "validatingadmissionpolicies,validatingadmissionpolicybindings"} {
		t.check("no "+kind+" of the release are left", t.noneOfRelease(ctx, kind))
	}
	t.expect(ctx, "the objects of users stay, and can be deleted", []string{"kubectl", "delete", "-f", manifests + "identity.yaml", "-f", manifests + "binding.yaml", "-f", manifests + "pod.yaml", "--now"}, "deleted")
}

// noneOfRelease says that there are no objects of these kinds with the release's name in theirs.
func (t *teller) noneOfRelease(ctx context.Context, kinds string) error {
	out, err := t.stack.Kubectl(ctx, "", "get", kinds, "--all-namespaces", "--ignore-not-found", "-o", "name")
	if err != nil {
		return err
	}
	for name := range strings.Lines(out) {
		if strings.Contains(name, "azureassignedidentit") || strings.Contains(name, stack.Release) {
			return fmt.Errorf("%s is left", strings.TrimSpace(name))
		}
	}
	return nil
}

// nothingLeft checks the machine after the cluster is removed.
func (t *teller) nothingLeft(ctx context.Context) {
	t.begin("The cluster is removed from this machine")
	left, err := t.stack.Cluster.Leftovers(ctx)
	if err == nil && len(left) > 0 {
		err = fmt.Errorf("left over: %s", strings.Join(left, "; "))
	}
	t.check("no process, mount, link, address or iptables rule is left", err)
}
