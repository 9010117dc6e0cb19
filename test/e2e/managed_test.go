package e2e

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/aad-pod-identity/aad-pod-identity/test/azure"
	"github.com/aad-pod-identity/aad-pod-identity/test/soak"
	"github.com/aad-pod-identity/aad-pod-identity/test/stack"
)

// TestManagedMode upgrades the release to the mode without MIC and back: somebody
// else puts the identity on the scale set, and a binding of the pod's namespace is
// all that a pod needs.
func TestManagedMode(t *testing.T) {
	soak.Only(t)
	waitSettled(t)
	ns, other := namespace(t), namespace(t, "-other")
	t.Cleanup(func() {
		if err := helmUpgrade(context.Background(), "--set", "operationMode=standard,readinessGate.enabled=true"); err != nil {
			t.Errorf("restoring the release: %v", err)
		}
	})
	// MIC sets the condition of the gate, so the chart refuses the two together.
	if err := helmUpgrade(t.Context(), "--set", "operationMode=managed,readinessGate.enabled=false"); err != nil {
		t.Fatal(err)
	}

	id := azureIdentity(t, "managed")
	assign := func(ctx context.Context, wanted bool) error {
		c, err := env.Azure.Compute(ctx, env.VMSSID())
		if err != nil {
			return err
		}
		c.UserAssigned = slices.DeleteFunc(c.UserAssigned, func(a azure.Assignment) bool { return strings.EqualFold(a.ID, id.ID) })
		if wanted {
			c.UserAssigned = append(c.UserAssigned, azure.Assignment{ID: id.ID})
		}
		_, err = env.Azure.PutCompute(ctx, c)
		return err
	}
	t.Cleanup(func() {
		if err := assign(context.Background(), false); err != nil {
			t.Errorf("taking the identity off the scale set: %v", err)
		}
	})

	apply(t, identityManifest(ns, "managed", id)+bindingManifest(ns, "managed", "managed", "managed")+
		podManifest(ns, "web", "managed")+podManifest(other, "web", "managed"))
	waitReady(t, ns, "web")
	waitReady(t, other, "web")
	if out := wantNoToken(t, ns, "web"); !strings.Contains(out, "Identity not found") {
		t.Errorf("the identity is not on the scale set, and the answer is %s", out)
	}
	if err := assign(t.Context(), true); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a token", func(ctx context.Context) error {
		r, err := env.Run(ctx, stack.Command{Args: []string{"kubectl", "exec", "-n", ns, "web", "--", "/client", "token", "--once"}})
		if err == nil && r.Code != 0 {
			err = errors.New(r.Output)
		}
		return err
	})
	wantToken(t, ns, "web", id)
	wantToken(t, ns, "web", id, "--resource-id="+strings.ToUpper(id.ID))
	wantNoToken(t, other, "web")
	wantNoToken(t, other, "web", "--client-id="+id.ClientID)

	kubectl(t, "delete", "azureidentitybinding", "-n", ns, "managed")
	eventually(t, "no token without the binding", func(ctx context.Context) error {
		r, err := env.Run(ctx, stack.Command{Args: []string{"kubectl", "exec", "-n", ns, "web", "--", "/client", "token", "--once"}})
		if err == nil && r.Code == 0 {
			err = errors.New("there is one")
		}
		return err
	})
}
