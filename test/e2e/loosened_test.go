package e2e

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/aad-pod-identity/aad-pod-identity/test/azure"
	"github.com/aad-pod-identity/aad-pod-identity/test/soak"
)

// TestResourceIDCase upgrades the release to each policy about the capitalisation of
// resource IDs and back: what is admitted, with which words, and what is stored. With
// the first it gives the release an AzureIdentity that needs it, which converges at
// the second upgrade as docs/policies.md says.
func TestResourceIDCase(t *testing.T) {
	soak.Only(t)
	ns := namespace(t)
	id := azureIdentity(t, "case")
	miscapitalised := id
	miscapitalised.ID = strings.Replace(id.ID, "userAssignedIdentities", "userassignedidentities", 1)
	if miscapitalised.ID == id.ID {
		t.Fatalf("%s has no segment to miscapitalise", id.ID)
	}
	t.Cleanup(func() {
		if err := helmUpgrade(context.Background(), "--set", "webhook.resourceIDCase=reject", "--set-json", "azureIdentities={}"); err != nil {
			t.Errorf("restoring the release: %v", err)
		}
	})
	stored := func(t *testing.T, namespace, name string) string {
		t.Helper()
		return kubectl(t, "get", "azureidentity", "-n", namespace, name, "-o", "jsonpath={.spec.resourceID}")
	}

	if out := refused(t, identityManifest(ns, "case", miscapitalised), "apply", "-f", "-"); !strings.Contains(out, id.ID) {
		t.Errorf("the refusal does not say what to write:\n%s", out)
	}

	ofRelease := fmt.Sprintf(`azureIdentities={"case-of-release":{"type":0,"resourceID":%q,"clientID":%q,"binding":{"selector":"case"}}}`, miscapitalised.ID, id.ClientID)
	if err := helmUpgrade(t.Context(), "--set", "webhook.resourceIDCase=warn", "--set-json", ofRelease); err != nil {
		t.Logf("the first upgrade: %v", err)
		if !strings.Contains(err.Error(), id.ID) {
			t.Errorf("the first upgrade fails for another reason than the capitalisation: %v", err)
		}
		kubectl(t, "rollout", "status", webhookDeployment, "--timeout=80s")
		if err := helmUpgrade(t.Context(), "--set", "webhook.resourceIDCase=warn", "--set-json", ofRelease); err != nil {
			t.Fatalf("the same upgrade again: %v", err)
		}
	}
	waitOldWebhooksGone(t)
	if got := stored(t, "default", "case-of-release"); got != miscapitalised.ID {
		t.Errorf("the release's AzureIdentity holds %q", got)
	}
	out := apply(t, identityManifest(ns, "warned", miscapitalised))
	if !strings.Contains(out, "Warning:") || !strings.Contains(out, id.ID) {
		t.Errorf("there is no warning with the right text:\n%s", out)
	}
	if got := stored(t, ns, "warned"); got != miscapitalised.ID {
		t.Errorf("with warn %q is stored", got)
	}
	usable(t, ns, "warned", id)

	if err := helmUpgrade(t.Context(), "--set", "webhook.resourceIDCase=canonicalize"); err != nil {
		t.Fatal(err)
	}
	waitOldWebhooksGone(t)
	apply(t, identityManifest(ns, "canonical", miscapitalised))
	if got := stored(t, ns, "canonical"); got != id.ID {
		t.Errorf("with canonicalize %q is stored, not %q", got, id.ID)
	}

	if err := helmUpgrade(t.Context(), "--set", "webhook.resourceIDCase=reject", "--set-json", "azureIdentities={}"); err != nil {
		t.Fatal(err)
	}
	waitOldWebhooksGone(t)
	refused(t, identityManifest(ns, "case", miscapitalised), "apply", "-f", "-")
	// What is stored stays usable.
	kubectl(t, "label", "azureidentity", "-n", ns, "warned", "team=a")
	kubectl(t, "delete", "azureidentity", "-n", ns, "warned")
}

// waitOldWebhooksGone waits for the end of replicas that an upgrade replaced. Until then
// they answer on the connections that the API server has to them.
func waitOldWebhooksGone(t *testing.T) {
	t.Helper()
	eventually(t, "the old webhook's replicas are gone", func(ctx context.Context) error {
		out, err := env.Kubectl(ctx, "", "get", "pods", "-l", "component=webhook", "-o", "jsonpath={.items[*].metadata.deletionTimestamp}")
		if err == nil && out != "" {
			err = errors.New("some are still ending")
		}
		return err
	})
}

// usable proves that a pod gets the token of a stored identity.
func usable(t *testing.T, ns, name string, id azure.Identity) {
	t.Helper()
	apply(t, bindingManifest(ns, name, name, name)+podManifest(ns, "web", name))
	waitState(t, ns, "web", name, "Assigned")
	waitReady(t, ns, "web")
	wantToken(t, ns, "web", id)
}
