package e2e

import (
	"strings"
	"testing"
)

// TestConvergesWhenTheLeaderDies kills MIC's leader while objects are created.
func TestConvergesWhenTheLeaderDies(t *testing.T) {
	ns := namespace(t)
	id := azureIdentity(t, "leader")
	apply(t, identityManifest(ns, "leader", id)+bindingManifest(ns, "leader", "leader", "leader")+podManifest(ns, "a", "leader"))
	holder := kubectl(t, "get", "lease", "-n", "default", "aad-pod-identity-mic", "-o", "jsonpath={.spec.holderIdentity}")
	pod, _, _ := strings.Cut(holder, "_")
	kubectl(t, "delete", "pod", pod, "--grace-period=0", "--force")
	apply(t, podManifest(ns, "b", "leader"))
	waitState(t, ns, "a", "leader", "Assigned")
	waitState(t, ns, "b", "leader", "Assigned")
	kubectl(t, "rollout", "status", "deployment/aad-pod-identity-mic", "--timeout=80s")
}
