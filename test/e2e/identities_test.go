package e2e

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/aad-pod-identity/aad-pod-identity/test/azure"
	"github.com/aad-pod-identity/aad-pod-identity/test/stack"
)

// This file has the scenarios of the 1.8 releases' end-to-end tests about what MIC
// assigns. All of them run within TestTogether.

// immutableClientID is the identity that the release is told never to remove.
const immutableClientID = "33333333-3333-4333-8333-333333333333"

// waitCount waits until the pods of a namespace have so many assigned identities,
// each in state Assigned.
func waitCount(t *testing.T, podNamespace string, want int) {
	t.Helper()
	eventually(t, fmt.Sprintf("%d assigned identities in namespace %s", want, podNamespace), func(ctx context.Context) error {
		out, err := env.Kubectl(ctx, "", "get", "azureassignedidentities", "-A",
			"-o", `jsonpath={range .items[*]}{.spec.podNamespace} {.status.status}{"\n"}{end}`)
		if err != nil {
			return err
		}
		all, assigned := 0, 0
		for line := range strings.Lines(out) {
			if f := strings.Fields(line); len(f) > 0 && f[0] == podNamespace {
				all++
				if len(f) == 2 && f[1] == "Assigned" {
					assigned++
				}
			}
		}
		if all != want || assigned != want {
			return fmt.Errorf("there are %d, of which %d are Assigned", all, assigned)
		}
		return nil
	})
}

func labelChanged(t *testing.T) {
	ns := namespace(t)
	one, two := azureIdentity(t, "label-1"), azureIdentity(t, "label-2")
	apply(t, identityManifest(ns, "one", one)+bindingManifest(ns, "one", "one", "label-one")+
		identityManifest(ns, "two", two)+bindingManifest(ns, "two", "two", "label-two")+podManifest(ns, "web", "label-one"))
	waitState(t, ns, "web", "one", "Assigned")
	kubectl(t, "label", "pod", "-n", ns, "web", "--overwrite", "aadpodidbinding=label-two")
	waitState(t, ns, "web", "two", "Assigned")
	waitUnassigned(t, ns, "web", "one")
	waitOnScaleSet(t, one.ID, false)
	waitReady(t, ns, "web")
	wantToken(t, ns, "web", two)
	wantNoToken(t, ns, "web", "--client-id="+one.ClientID)
}

// identityChanged lets an AzureIdentity point elsewhere.
func identityChanged(t *testing.T) {
	ns := namespace(t)
	one, two := azureIdentity(t, "points-1"), azureIdentity(t, "points-2")
	apply(t, identityManifest(ns, "points", one)+bindingManifest(ns, "points", "points", "points")+podManifest(ns, "web", "points"))
	waitState(t, ns, "web", "points", "Assigned")
	waitOnScaleSet(t, one.ID, true)
	apply(t, identityManifest(ns, "points", two))
	waitOnScaleSet(t, two.ID, true)
	waitOnScaleSet(t, one.ID, false)
	waitState(t, ns, "web", "points", "Assigned")
	waitReady(t, ns, "web")
	wantToken(t, ns, "web", two)
}

// existingSurvivesInvalid gives a pod two identities that do not exist when it has
// a good one already.
func existingSurvivesInvalid(t *testing.T) {
	ns := namespace(t)
	good := azureIdentity(t, "survivor")
	apply(t, identityManifest(ns, "good", good)+bindingManifest(ns, "good", "good", "survivor")+podManifest(ns, "web", "survivor"))
	waitState(t, ns, "web", "good", "Assigned")
	calls, err := env.Azure.Calls(t.Context(), azure.CallFilter{})
	if err != nil || len(calls) == 0 {
		t.Fatalf("calls of Azure: %d, %v", len(calls), err)
	}
	manifest := ""
	for i := range 2 {
		name := fmt.Sprintf("nowhere-%d", i)
		bad := azure.Identity{ID: azure.IdentityID(stack.Subscription, stack.IdentityGroup, name), ClientID: "22222222-2222-4222-8222-222222222222"}
		manifest += identityManifest(ns, name, bad) + bindingManifest(ns, name, name, "survivor")
	}
	apply(t, manifest)
	for i := range 2 {
		waitState(t, ns, "web", fmt.Sprintf("nowhere-%d", i), "Created")
	}
	waitRefused(t, calls[len(calls)-1].Seq, "nowhere-0", "nowhere-1")
	waitState(t, ns, "web", "good", "Assigned")
	if has, err := onScaleSet(t.Context(), good.ID); err != nil || !has {
		t.Errorf("the good identity is gone (%v)", err)
	}
	waitReady(t, ns, "web")
	wantToken(t, ns, "web", good, "--client-id="+good.ClientID)
}

// waitRefused waits until ARM has refused each of some identities.
func waitRefused(t *testing.T, after int64, names ...string) {
	t.Helper()
	eventually(t, "ARM's refusal", func(ctx context.Context) error {
		calls, err := env.Azure.Calls(ctx, azure.CallFilter{Operation: azure.OpVMSSUpdate, After: after})
		if err != nil {
			return err
		}
		for _, name := range names {
			refused := false
			for _, c := range calls {
				refused = refused || c.Error == "FailedIdentityOperation" && strings.Contains(c.Body, "/"+name+`"`)
			}
			if !refused {
				return fmt.Errorf("%s was not refused", name)
			}
		}
		return nil
	})
}

// keptIdentities are never taken off: the one that a value of the chart names, and
// the cluster's own, which azure.json names.
func keptIdentities(t *testing.T) {
	ns := namespace(t)
	manifest := ""
	all := map[string]azure.Identity{}
	for name, clientID := range map[string]string{"immutable": immutableClientID, "cluster": stack.ClusterClientID, "ordinary": ""} {
		id, err := env.Azure.PutIdentity(t.Context(), azure.Identity{ID: azure.IdentityID(stack.Subscription, stack.IdentityGroup, "kept-"+name), ClientID: clientID})
		if err != nil {
			t.Fatal(err)
		}
		all[name] = id
		manifest += identityManifest(ns, name, id) + bindingManifest(ns, name, name, "kept")
	}
	apply(t, manifest+podManifest(ns, "web", "kept"))
	for name := range all {
		waitState(t, ns, "web", name, "Assigned")
	}
	kubectl(t, "delete", "pod", "-n", ns, "web", "--now", "--wait=false")
	waitCount(t, ns, 0)
	// When this one is gone, what was to go is gone.
	waitOnScaleSet(t, all["ordinary"].ID, false)
	for _, name := range []string{"immutable", "cluster"} {
		if has, err := onScaleSet(t.Context(), all[name].ID); err != nil || !has {
			t.Errorf("the %s identity is gone (%v)", name, err)
		}
	}
}

// oneNameInTwoNamespaces gives a pod two identities of one name: the first binding,
// by namespace, wins.
func oneNameInTwoNamespaces(t *testing.T) {
	first, second := namespace(t, "-a"), namespace(t, "-b")
	one, two := azureIdentity(t, "name-1"), azureIdentity(t, "name-2")
	apply(t, identityManifest(second, "name", two)+bindingManifest(second, "name", "name", first)+
		identityManifest(first, "name", one)+bindingManifest(first, "name", "name", first)+podManifest(first, "web", first))
	waitState(t, first, "web", "name", "Assigned")
	eventually(t, "the identity of the first namespace", func(ctx context.Context) error {
		out, err := env.Kubectl(ctx, "", "get", "azureassignedidentities", "-A",
			"-o", `jsonpath={range .items[?(@.spec.podNamespace=="`+first+`")]}{.spec.azureIdentityRef.metadata.namespace} {.spec.azureBindingRef.metadata.namespace} {.status.status};{end}`)
		if want := first + " " + first + " Assigned;"; err == nil && out != want {
			err = fmt.Errorf("%q, want %q", out, want)
		}
		return err
	})
	waitReady(t, first, "web")
	wantToken(t, first, "web", one)
}

// takenAwayByHand removes an identity from the scale set.
func takenAwayByHand(ctx context.Context, id string) error {
	c, err := env.Azure.Compute(ctx, env.VMSSID())
	if err != nil {
		return err
	}
	var others []azure.Assignment
	for _, a := range c.UserAssigned {
		if !strings.EqualFold(a.ID, id) {
			others = append(others, a)
		}
	}
	c.UserAssigned = others
	_, err = env.Azure.PutCompute(ctx, c)
	return err
}

// TestPodOfAnIdentityTakenAwayByHand removes the pod as well: its assigned identity
// must not wait for what is gone. It writes the whole scale set, so it runs alone.
func TestPodOfAnIdentityTakenAwayByHand(t *testing.T) {
	ns := namespace(t)
	id := azureIdentity(t, "by-hand")
	apply(t, identityManifest(ns, "hand", id)+bindingManifest(ns, "hand", "hand", "by-hand")+podManifest(ns, "web", "by-hand"))
	waitState(t, ns, "web", "hand", "Assigned")
	if err := takenAwayByHand(t.Context(), id.ID); err != nil {
		t.Fatal(err)
	}
	kubectl(t, "delete", "pod", "-n", ns, "web", "--now", "--wait=false")
	waitCount(t, ns, 0)
	waitOnScaleSet(t, id.ID, false)
}
