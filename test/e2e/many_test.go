package e2e

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/aad-pod-identity/aad-pod-identity/test/azure"
	"github.com/aad-pod-identity/aad-pod-identity/test/soak"
)

// TestManyPods has two scenarios of the 1.8 releases: many pods over five identities
// all get theirs; then the identities go one by one, in random order, and the others
// stay and serve.
func TestManyPods(t *testing.T) {
	soak.Only(t)
	const identities, each = 5, 8
	ns := namespace(t)
	manifest := ""
	ids := make([]azure.Identity, identities)
	for i := range ids {
		name := fmt.Sprintf("many-%d", i)
		ids[i] = azureIdentity(t, name)
		manifest += identityManifest(ns, name, ids[i]) + bindingManifest(ns, name, name, name)
		for p := range each {
			manifest += podManifest(ns, pod(i, p), name)
		}
	}
	apply(t, manifest)
	waitCount(t, ns, identities*each)
	kubectl(t, "wait", "-n", ns, "--for=condition=Ready", "pods", "--all", "--timeout=150s")
	for i, id := range ids {
		for p := range each {
			wantToken(t, ns, pod(i, p), id)
		}
	}

	seed := uint64(time.Now().UnixNano())
	order := rand.New(rand.NewPCG(seed, 0)).Perm(identities)
	t.Logf("identities go in the order %v", order)
	for n, gone := range order {
		kubectl(t, "delete", "azureidentity", "-n", ns, fmt.Sprintf("many-%d", gone))
		waitCount(t, ns, (identities-n-1)*each)
		waitOnScaleSet(t, ids[gone].ID, false)
		for _, stays := range order[n+1:] {
			if has, err := onScaleSet(t.Context(), ids[stays].ID); err != nil || !has {
				t.Errorf("identity %d is off the scale set (%v) after number %d was deleted", stays, err, gone)
			}
			wantToken(t, ns, pod(stays, 0), ids[stays])
		}
	}
}

// pod is the name of a pod of an identity.
func pod(identity, number int) string { return fmt.Sprintf("web-%d-%d", identity, number) }
