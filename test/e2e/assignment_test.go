package e2e

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/aad-pod-identity/aad-pod-identity/test/azure"
	"github.com/aad-pod-identity/aad-pod-identity/test/stack"
)

// TestTogether runs at once what has namespaces and identities of its own and leaves
// what all share alone: it mostly waits. It comes before the tests that restart
// things.
func TestTogether(t *testing.T) {
	for name, test := range map[string]func(*testing.T){
		"SingleIdentity":                singleIdentity,
		"IdentityStaysUntilItsLastUse":  identityStaysUntilItsLastUse,
		"SameNamesInTwoNamespaces":      sameNamesInTwoNamespaces,
		"BadIdentityDoesNotBlockOthers": badIdentityDoesNotBlockOthers,
		"ForbiddenByARM":                forbiddenByARM,
		"LabelChanged":                  labelChanged,
		"IdentityChanged":               identityChanged,
		"ExistingSurvivesInvalid":       existingSurvivesInvalid,
		"KeptIdentities":                keptIdentities,
		"OneNameInTwoNamespaces":        oneNameInTwoNamespaces,
		"TagsCatchUp":                   tagsCatchUp,
		"BadManifests":                  badManifests,
		"GoodManifests":                 goodManifests,
		"ForgedTags":                    forgedTags,
		"AnswersOfTheTokenEndpoint":     answersOfTheTokenEndpoint,
		"GuideLogLines":                 guideLogLines,
		"ServicePrincipals":             servicePrincipals,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t)
		})
	}
}

func singleIdentity(t *testing.T) {
	ns := namespace(t)
	id := azureIdentity(t, "single")
	apply(t, identityManifest(ns, "single", id)+bindingManifest(ns, "single-binding", "single", "single")+podManifest(ns, "web", "single"))
	waitReady(t, ns, "web")
	waitState(t, ns, "web", "single", "Assigned")

	t.Run("tagged", func(t *testing.T) {
		got := kubectl(t, "get", "pod", "-n", ns, "web", "-o",
			`jsonpath={.metadata.labels.aadpodidentity\.k8s\.io/binding} {.metadata.labels.aadpodidentity\.k8s\.io/identity} {.metadata.annotations.aadpodidentity\.k8s\.io/bindings}`)
		if want := "single-binding single " + ns + "/single-binding"; got != want {
			t.Errorf("tags %q, want %q", got, want)
		}
	})
	t.Run("token by default, by client ID and by resource ID", func(t *testing.T) {
		wantToken(t, ns, "web", id)
		wantToken(t, ns, "web", id, "--client-id="+strings.ToUpper(id.ClientID))
		wantToken(t, ns, "web", id, "--resource-id="+id.ID)
	})
	t.Run("no token for an identity that is not the pod's", func(t *testing.T) {
		other := azureIdentity(t, "single-other")
		wantNoToken(t, ns, "web", "--client-id="+other.ClientID)
	})
	t.Run("event on the binding", func(t *testing.T) {
		eventually(t, "binding applied", func(ctx context.Context) error {
			out, err := env.Kubectl(ctx, "", "get", "events", "-n", ns, "--field-selector=involvedObject.name=single-binding", "-o", "jsonpath={.items[*].reason}")
			if err == nil && !strings.Contains(out, "binding applied") {
				err = fmt.Errorf("events %q", out)
			}
			return err
		})
	})
	t.Run("removed with the binding", func(t *testing.T) {
		kubectl(t, "delete", "azureidentitybinding", "-n", ns, "single-binding")
		waitUnassigned(t, ns, "web", "single")
		waitOnScaleSet(t, id.ID, false)
		wantNoToken(t, ns, "web")
	})
}

func identityStaysUntilItsLastUse(t *testing.T) {
	ns := namespace(t)
	id := azureIdentity(t, "shared")
	apply(t, identityManifest(ns, "shared", id)+bindingManifest(ns, "shared", "shared", "shared")+
		podManifest(ns, "a", "shared")+podManifest(ns, "b", "shared"))
	waitState(t, ns, "a", "shared", "Assigned")
	waitState(t, ns, "b", "shared", "Assigned")
	waitReady(t, ns, "a", "b")

	kubectl(t, "delete", "pod", "-n", ns, "a", "--now")
	waitUnassigned(t, ns, "a", "shared")
	if has, err := onScaleSet(t.Context(), id.ID); err != nil || !has {
		t.Errorf("the identity left the scale set while a pod uses it (%v)", err)
	}
	wantToken(t, ns, "b", id)

	kubectl(t, "delete", "azureidentity", "-n", ns, "shared")
	waitUnassigned(t, ns, "b", "shared")
	waitOnScaleSet(t, id.ID, false)
	wantNoToken(t, ns, "b")
}

func sameNamesInTwoNamespaces(t *testing.T) {
	one, two := namespace(t, "-1"), namespace(t, "-2")
	id := azureIdentity(t, "twins")
	for _, ns := range []string{one, two} {
		apply(t, identityManifest(ns, "twins-"+ns, id)+bindingManifest(ns, "twins", "twins-"+ns, ns)+podManifest(ns, "web-0", ns))
	}
	waitState(t, one, "web-0", "twins-"+one, "Assigned")
	waitState(t, two, "web-0", "twins-"+two, "Assigned")
	waitReady(t, two, "web-0")
	kubectl(t, "delete", "pod", "-n", one, "web-0", "--now")
	waitUnassigned(t, one, "web-0", "twins-"+one)
	wantToken(t, two, "web-0", id)
}

func badIdentityDoesNotBlockOthers(t *testing.T) {
	ns := namespace(t)
	good := azureIdentity(t, "good")
	bad := azure.Identity{ID: azure.IdentityID(stack.Subscription, stack.IdentityGroup, "does-not-exist"), ClientID: "22222222-2222-4222-8222-222222222222"}
	apply(t, identityManifest(ns, "good", good)+identityManifest(ns, "bad", bad)+
		bindingManifest(ns, "good", "good", "mixed")+bindingManifest(ns, "bad", "bad", "mixed")+podManifest(ns, "web", "mixed"))
	waitState(t, ns, "web", "good", "Assigned")
	waitState(t, ns, "web", "bad", "Created")
	waitReady(t, ns, "web")
	wantToken(t, ns, "web", good, "--client-id="+good.ClientID)
	eventually(t, "the failure is said on the binding", func(ctx context.Context) error {
		out, err := env.Kubectl(ctx, "", "get", "events", "-n", ns, "--field-selector=involvedObject.name=bad", "-o", "jsonpath={.items[*].message}")
		if err == nil && !strings.Contains(out, "FailedIdentityOperation") {
			err = fmt.Errorf("events %q", out)
		}
		return err
	})

	// Somebody creates it after all.
	if _, err := env.Azure.PutIdentity(t.Context(), bad); err != nil {
		t.Fatal(err)
	}
	waitState(t, ns, "web", "bad", "Assigned")
}

func forbiddenByARM(t *testing.T) {
	ns := namespace(t)
	id, err := env.Azure.PutIdentity(t.Context(), azure.Identity{ID: azure.IdentityID(stack.Subscription, "no-role-here", "forbidden")})
	if err != nil {
		t.Fatal(err)
	}
	restarts := func() string {
		t.Helper()
		return kubectl(t, "get", "pods", "-l", "component=mic", "-o", "jsonpath={range .items[*]}{.metadata.name}={.status.containerStatuses[*].restartCount} {end}")
	}
	before := restarts()
	apply(t, identityManifest(ns, "forbidden", id)+bindingManifest(ns, "forbidden", "forbidden", "forbidden")+podManifest(ns, "web", "forbidden"))
	eventually(t, "ARM's refusal is said on the binding", func(ctx context.Context) error {
		out, err := env.Kubectl(ctx, "", "get", "events", "-n", ns, "--field-selector=involvedObject.name=forbidden", "-o", "jsonpath={.items[*].message}")
		if err == nil && !strings.Contains(out, "LinkedAuthorizationFailed") {
			err = fmt.Errorf("events %q", out)
		}
		return err
	})
	if after := restarts(); after != before {
		t.Errorf("MIC restarted because ARM refused an identity: restarts before %s, after %s", before, after)
	}
}

func TestIdentitiesThatWereThereBeforeStay(t *testing.T) {
	waitSettled(t)
	ns := namespace(t)
	id := azureIdentity(t, "before")
	before, err := env.Azure.Compute(t.Context(), env.VMSSID())
	if err != nil {
		t.Fatal(err)
	}
	with := before
	with.UserAssigned = append(with.UserAssigned, azure.Assignment{ID: id.ID})
	if _, err := env.Azure.PutCompute(t.Context(), with); err != nil {
		t.Fatal(err)
	}
	apply(t, identityManifest(ns, "before", id)+bindingManifest(ns, "before", "before", "before")+podManifest(ns, "web", "before"))
	waitState(t, ns, "web", "before", "Assigned")
	kubectl(t, "delete", "pod", "-n", ns, "web", "--now")
	waitUnassigned(t, ns, "web", "before")
	after, err := env.Azure.Compute(t.Context(), env.VMSSID())
	if err != nil {
		t.Fatal(err)
	}
	if has, err := onScaleSet(t.Context(), id.ID); err != nil || !has {
		t.Errorf("an identity that was there before is gone (%v)", err)
	}
	if !after.SystemAssigned || after.SystemPrincipalID != before.SystemPrincipalID {
		t.Errorf("the system-assigned identity changed from %s to %s", before.SystemPrincipalID, after.SystemPrincipalID)
	}
}

func TestDriftIsRepaired(t *testing.T) {
	ns := namespace(t)
	id := azureIdentity(t, "drift")
	apply(t, identityManifest(ns, "drift", id)+bindingManifest(ns, "drift", "drift", "drift")+podManifest(ns, "web", "drift"))
	waitState(t, ns, "web", "drift", "Assigned")
	if err := takenAwayByHand(t.Context(), id.ID); err != nil {
		t.Fatal(err)
	}
	waitOnScaleSet(t, id.ID, true)
}

func TestNoInstanceIsEverTouched(t *testing.T) {
	calls, err := env.Azure.Calls(t.Context(), azure.CallFilter{Operation: azure.OpForbidden})
	if err != nil {
		t.Fatal(err)
	}
	if len(calls) > 0 {
		t.Errorf("MIC asked ARM to touch instances: %+v", calls)
	}
}
