package compute

import (
	"errors"
	"testing"

	"github.com/aad-pod-identity/aad-pod-identity/internal/azure/arm"
	"github.com/aad-pod-identity/aad-pod-identity/internal/resourceid"
	"github.com/aad-pod-identity/aad-pod-identity/test/azure"
)

func asARM(err error, e **arm.Error) bool { return errors.As(err, e) }

// A target goes between two looks at it; its knowledge is fresh.
func TestATargetThatGoesUnderMICsHands(t *testing.T) {
	for name, test := range map[string]struct {
		goes           func(w *world)
		gone, deleting bool
		err            bool
	}{
		"it is being deleted": {
			goes: func(w *world) { try(w.t, w.azure.SetProvisioningState(w.pool.String(), "Deleting")) }, deleting: true,
		},
		"it is gone": {
			goes: func(w *world) { try(w.t, w.azure.DeleteCompute(w.pool.String())) }, gone: true,
		},
		"its group is being deleted": {
			goes: func(w *world) {
				must(w.azure.AddFault(azure.Fault{Operation: azure.OpVMSSUpdate, Status: 409, Code: "ResourceGroupBeingDeleted", Message: "going"}))
			}, deleting: true,
		},
		"a delete overtakes the update": {
			goes: func(w *world) {
				must(w.azure.AddFault(azure.Fault{Operation: azure.OpVMSSUpdate, Async: true, Code: "OperationPreemptedByDelete", Message: "going"}))
			}, deleting: true,
		},
		"something else is not found, and it is there": {
			goes: func(w *world) {
				must(w.azure.AddFault(azure.Fault{Operation: azure.OpVMSSUpdate, Status: 404, Code: "ResourceNotFound", Message: "The Resource 'Microsoft.Network/x/y' was not found."}))
			}, err: true,
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, azure.Settings{})
			a, b := w.identity("a"), w.identity("b")
			w.sure(w.pool, a)
			w.restart() // so that MIC knows the client IDs
			w.sure(w.pool, a)
			before := w.calls(azure.OpVMSSUpdate)
			test.goes(w)
			result, err := w.reconcile(w.pool, b)
			if (err != nil) != test.err || result.Gone != test.gone || result.Deleting != test.deleting {
				t.Errorf("error %v, result %+v", err, result)
			}
			if n := w.calls(azure.OpVMSSUpdate) - before; n != 1 {
				t.Errorf("%d PATCHes", n)
			}
			if (len(result.Held) != 0) != test.err || result.Present[resourceid.Key(b)] {
				t.Errorf("result %+v", result)
			}
			if names := w.ledgerObjects(); (len(names) == 0) != test.gone {
				t.Errorf("ledgers %q", names)
			}
		})
	}
}

func TestAPATCHThatIsAnsweredByNotFoundForAnIdentity(t *testing.T) {
	w := newWorld(t, azure.Settings{})
	a, b := w.identity("a"), w.identity("b")
	must(w.azure.AddFault(azure.Fault{
		Operation: azure.OpVMSSUpdate, BodyMatch: "/b\"", Status: 404, Code: "ResourceNotFound",
		Message: "The Resource 'Microsoft.ManagedIdentity/userAssignedIdentities/b' under resource group 'nodes' was not found.",
	}))
	result := w.sure(w.pool, a, b)
	w.has(w.pool, "a")
	if _, failed := result.Failed[resourceid.Key(b)]; result.Gone || !failed {
		t.Errorf("result %+v", result)
	}
}

func TestTargetsThatAreForgotten(t *testing.T) {
	w := newWorld(t, azure.Settings{})
	a := w.identity("a")
	w.sure(w.pool, a)
	w.sure(w.vm)
	if _, known := w.engine.Target(w.vm.Key()); known {
		t.Error("a target without anything of MIC's is remembered")
	}
	w.sure(w.pool)
	if _, known := w.engine.Target(w.pool.Key()); known {
		t.Error("a target that MIC has cleaned is remembered")
	}
	w.sure(w.pool, a)
	if targets := w.engine.Targets(); len(targets) != 1 {
		t.Errorf("targets %v", targets)
	}
}
