package compute

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/aad-pod-identity/aad-pod-identity/internal/resourceid"
	"github.com/aad-pod-identity/aad-pod-identity/test/azure"
)

// The next PATCH builds on what is known, whatever way ARM has of answering.
func TestHowManyCallsTwoWavesOfPodsCost(t *testing.T) {
	for name, test := range map[string]struct {
		settings     azure.Settings
		gets, writes int
	}{
		"202 with the resource":               {azure.Settings{}, 1, 2},
		"200 with the resource":               {azure.Settings{PatchStatus: http.StatusOK}, 1, 2},
		"202 without the resource":            {azure.Settings{PatchWithoutBody: true}, 2, 2},
		"200 without the resource":            {azure.Settings{PatchStatus: http.StatusOK, PatchWithoutBody: true}, 2, 2},
		"an ETag that moves on once":          {azure.Settings{ETagMoves: true}, 2, 3},
		"an operation that takes a while":     {azure.Settings{VMSSOperation: azure.Duration(20 * time.Millisecond)}, 1, 2},
		"a GET that shows other letters":      {azure.Settings{IDStyle: azure.IDStyleLower}, 1, 2},
		"a GET that shows the group in large": {azure.Settings{IDStyle: azure.IDStyleUpperGroup}, 1, 2},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, test.settings)
			a, b := w.identity("a"), w.identity("b")
			w.sure(w.pool, a)
			w.sure(w.pool, a, b)
			w.has(w.pool, "a", "b")
			w.ledgerIs(w.pool, "+a", "+b")
			if g, p := w.calls(azure.OpVMSSGet), w.calls(azure.OpVMSSUpdate); g != test.gets || p != test.writes {
				t.Errorf("%d GETs and %d PATCHes, want %d and %d", g, p, test.gets, test.writes)
			}
		})
	}
}

func TestTenScaleSetsCostTenReads(t *testing.T) {
	w := newWorld(t, azure.Settings{})
	var ids []string
	for i := range 20 {
		ids = append(ids, w.identity(fmt.Sprintf("id%02d", i)))
	}
	for i := range 10 {
		pool := w.pool
		pool.Name = fmt.Sprintf("many%d", i)
		must(w.azure.PutCompute(azure.Compute{ID: pool.String()}))
		w.sure(pool, ids[:3]...)
		w.sure(pool, ids...)
	}
	if g, p := w.calls(azure.OpVMSSGet), w.calls(azure.OpVMSSUpdate); g > 10 || p > 20 {
		t.Errorf("%d GETs and %d PATCHes, want at most 10 and 20", g, p)
	}
}

func TestAnETagThatMovesOnIsLearnt(t *testing.T) {
	w := newWorld(t, azure.Settings{ETagMoves: true})
	var ids []string
	for i := range 4 {
		ids = append(ids, w.identity(fmt.Sprintf("id%d", i)))
	}
	w.sure(w.pool, ids[:1]...)
	w.sure(w.pool, ids[:2]...) // refused once
	before := w.calls(azure.OpVMSSUpdate)
	w.sure(w.pool, ids[:3]...)
	w.sure(w.pool, ids...)
	w.sure(w.vm, ids[:1]...)
	w.sure(w.vm, ids[:2]...)
	if n := w.calls(azure.OpVMSSUpdate) - before; n != 2 {
		t.Errorf("%d PATCHes of the scale set, want 2: none is wasted any more", n)
	}
	if n := w.calls(azure.OpVMUpdate); n != 2 {
		t.Errorf("%d PATCHes of the VM, want 2: it holds for all targets", n)
	}
}

func TestWhatOthersDoBetweenTwoPATCHesSurvives(t *testing.T) {
	for name, settings := range map[string]azure.Settings{
		"with the ETag of an answer": {},
		"without":                    {PatchWithoutBody: true},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, settings)
			a, foreign := w.identity("a"), w.identity("foreign")
			w.sure(w.pool, a)
			// Within the same second somebody adds an identity and enables the
			// system-assigned one.
			must(w.azure.PutCompute(azure.Compute{
				ID: w.pool.String(), SystemAssigned: true, SystemPrincipalID: "sp",
				UserAssigned: []azure.Assignment{{ID: a}, {ID: foreign}},
			}))
			w.sure(w.pool)
			w.has(w.pool, "foreign")
			if c := must(w.azure.Compute(w.pool.String())); !c.SystemAssigned || c.SystemPrincipalID != "sp" {
				t.Errorf("the system-assigned identity is gone: %+v", c)
			}
		})
	}
}

func TestNeverWithoutAnETagWhereThereIsOne(t *testing.T) {
	w := newWorld(t, azure.Settings{})
	a, b := w.identity("a"), w.identity("b")
	// The autoscaler changes the scale set between GET and PATCH.
	w.onLedger = func() error {
		w.onLedger = nil
		must(w.azure.PutCompute(azure.Compute{ID: w.pool.String(), SystemAssigned: true}))
		return nil
	}
	w.sure(w.pool, a, b)
	w.has(w.pool, "a", "b")
	if c := must(w.azure.Compute(w.pool.String())); !c.SystemAssigned {
		t.Error("the system-assigned identity that was enabled meanwhile is gone")
	}
}

func TestKnowledgeThatIsNotFreshIsReadAgain(t *testing.T) {
	w := newWorld(t, azure.Settings{})
	a, b := w.identity("a"), w.identity("b")
	w.sure(w.pool, a)
	w.now = w.now.Add(freshFor)
	must(w.azure.PutCompute(azure.Compute{ID: w.pool.String(), UserAssigned: []azure.Assignment{{ID: a}}}))
	w.sure(w.pool, a, b)
	if g, p := w.calls(azure.OpVMSSGet), w.calls(azure.OpVMSSUpdate); g != 2 || p != 2 {
		t.Errorf("%d GETs and %d PATCHes, want 2 and 2: reads are cheaper than refused writes", g, p)
	}
}

func TestATargetThatSomebodyElseChangesIsLookedAtSoon(t *testing.T) {
	w := newWorld(t, azure.Settings{})
	a := w.identity("a")
	must(w.azure.PutCompute(azure.Compute{ID: w.pool.String(), UserAssigned: []azure.Assignment{{ID: a}}, ProvisioningState: "Updating"}))
	if got := w.sure(w.pool, a).RetryAfter; got != unsettledFor {
		t.Errorf("looks again after %s, want %s: the change may fail", got, unsettledFor)
	}
}

// Targets of one name in two groups or subscriptions have nothing to do with
// each other; nor has a VM of a Flexible scale set with the set.
func TestTargetsOfOneName(t *testing.T) {
	const otherSub = "99999999-2222-3333-4444-555555555555"
	w := newWorld(t, azure.Settings{})
	a, b, c, d := w.identity("a"), w.identity("b"), w.identity("c"), w.identity("d")
	targets := map[string]string{
		"azure://" + azure.InstanceID(azure.VMSSID(testSub, testGroup, "pool1"), "0"): a,
		"azure://" + azure.InstanceID(azure.VMSSID(testSub, "other", "POOL1"), "0"):   b,
		"azure://" + azure.InstanceID(azure.VMSSID(otherSub, "nodes", "pool1"), "0"):  c,
		"azure://" + azure.VMID(testSub, testGroup, "pool1_4f2a"):                     d,
	}
	for providerID, id := range targets {
		target := must(resourceid.ParseProviderID(providerID))
		must(w.azure.PutCompute(azure.Compute{ID: target.String()}))
		for _, role := range []string{azure.RoleVirtualMachineContributor, azure.RoleManagedIdentityOperator} {
			try(t, w.azure.Grant(azure.Role{PrincipalID: w.app.ObjectID, Role: role, Scope: "/subscriptions/" + target.Subscription + "/resourceGroups/" + target.ResourceGroup}))
		}
		w.sure(target, id)
	}
	for providerID, id := range targets {
		target := must(resourceid.ParseProviderID(providerID))
		name := id[strings.LastIndex(id, "/")+1:]
		w.has(target, name)
		w.ledgerIs(target, "+"+name)
	}
	if n := len(w.ledgerObjects()); n != len(targets) {
		t.Errorf("%d ledgers for %d targets", n, len(targets))
	}
	for providerID := range targets {
		target := must(resourceid.ParseProviderID(providerID))
		w.sure(target)
		w.has(target)
	}
	if n := w.calls(azure.OpForbidden) + w.calls(azure.OpUnknown); n != 0 {
		t.Errorf("%d calls to operations on instances", n)
	}
}
