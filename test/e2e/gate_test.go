package e2e

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/aad-pod-identity/aad-pod-identity/test/azure"
)

// TestReadinessGate holds Azure's operations: a kubelet keeps a running pod unready
// until its identity is assigned. It changes the whole cloud, so it runs alone.
func TestReadinessGate(t *testing.T) {
	ns := namespace(t)
	id := azureIdentity(t, "gated")
	before, err := env.Azure.Settings(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	held := before
	held.VMSSOperation, held.PollAfter = azure.Duration(time.Hour), azure.Duration(time.Second)
	set := func(ctx context.Context, s azure.Settings) {
		if err := env.Azure.SetSettings(ctx, s); err != nil {
			t.Errorf("settings of the emulator: %v", err)
		}
	}
	complete := func(ctx context.Context) {
		if _, err := env.Azure.CompleteOperations(ctx); err != nil {
			t.Errorf("ending operations: %v", err)
		}
	}
	t.Cleanup(func() { set(context.Background(), before); complete(context.Background()) })
	set(t.Context(), held)

	gated := strings.Replace(podManifest(ns, "web", "gated"), "metadata: {", `metadata: {annotations: {aadpodidentity.k8s.io/readiness-gate: "true"}, `, 1)
	apply(t, identityManifest(ns, "gated", id)+bindingManifest(ns, "gated", "gated", "gated")+gated+podManifest(ns, "plain", "gated"))
	kubectl(t, "wait", "-n", ns, "pod/web", "--for=condition=ContainersReady", "--timeout=80s")
	waitReady(t, ns, "plain") // another one does not wait
	condition := func(ctx context.Context, kind string) (string, error) {
		return env.Kubectl(ctx, "", "get", "pod", "-n", ns, "web", "-o", `jsonpath={range .status.conditions[?(@.type=="`+kind+`")]}{.status} {.reason}{end}`)
	}
	eventually(t, "MIC says that it waits", func(ctx context.Context) error {
		got, err := condition(ctx, "aadpodidentity.k8s.io/identity-assigned")
		if err == nil && got != "False Pending" {
			err = fmt.Errorf("the condition is %q", got)
		}
		return err
	})
	if got, err := condition(t.Context(), "Ready"); err != nil || got != "False ReadinessGatesNotReady" {
		t.Errorf("the pod's readiness is %q (%v) while nothing is assigned", got, err)
	}

	set(t.Context(), before)
	complete(t.Context())
	waitReady(t, ns, "web")
	if got, err := condition(t.Context(), "aadpodidentity.k8s.io/identity-assigned"); err != nil || got != "True Assigned" {
		t.Errorf("the pod is Ready, and the condition %q (%v)", got, err)
	}
	waitState(t, ns, "web", "gated", "Assigned")
	wantToken(t, ns, "web", id)
}
