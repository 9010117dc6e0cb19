package compute

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	v1 "github.com/aad-pod-identity/aad-pod-identity/api/v1"
	"github.com/aad-pod-identity/aad-pod-identity/internal/azure/arm"
	"github.com/aad-pod-identity/aad-pod-identity/internal/azure/cloud"
	"github.com/aad-pod-identity/aad-pod-identity/internal/resourceid"
	"github.com/aad-pod-identity/aad-pod-identity/test/azure"
)

func TestAssignAndRemove(t *testing.T) {
	for name, target := range map[string]func(*world) resourceid.Compute{
		"a scale set": func(w *world) resourceid.Compute { return w.pool },
		"a VM":        func(w *world) resourceid.Compute { return w.vm },
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, azure.Settings{VMSSOperation: azure.Duration(20 * time.Millisecond), VMOperation: azure.Duration(20 * time.Millisecond)})
			target := target(w)
			a, b := w.identity("a"), w.identity("b")
			result := w.sure(target, a, b)
			if !result.Present[resourceid.Key(a)] || !result.Present[resourceid.Key(b)] {
				t.Errorf("result does not say that the identities are present: %+v", result)
			}
			w.has(target, "a", "b")
			w.ledgerIs(target, "+a", "+b")

			w.sure(target, b)
			w.has(target, "b")
			w.ledgerIs(target, "+b")

			w.sure(target)
			w.has(target)
			if names := w.ledgerObjects(); len(names) != 0 {
				t.Errorf("ledgers are left: %q", names)
			}
			if bad := w.calls(azure.OpForbidden); bad != 0 {
				t.Errorf("%d calls to operations that may restart nodes", bad)
			}
		})
	}
}

func TestNothingIsCalledAtRest(t *testing.T) {
	w := newWorld(t, azure.Settings{})
	a := w.identity("a")
	w.sure(w.pool, a)
	before, writes := w.armCalls(), 0
	w.onLedger = func() error { writes++; return nil }
	for range 5 {
		w.sure(w.pool, a, strings.ToUpper(a))
	}
	if now := w.armCalls(); now != before || writes != 0 {
		t.Errorf("%d calls to ARM and %d ledger writes although nothing changed", now-before, writes)
	}
}

func TestATargetWithoutAnythingOfOursIsNotRead(t *testing.T) {
	w := newWorld(t, azure.Settings{})
	w.sure(w.pool)
	if n := w.armCalls(); n != 0 {
		t.Errorf("%d calls to ARM", n)
	}
}

func TestDriftIsRepairedWithinTheInterval(t *testing.T) {
	w := newWorld(t, azure.Settings{})
	a, b := w.identity("a"), w.identity("b")
	if got := w.sure(w.pool, a).RetryAfter; got != 3*time.Minute {
		t.Errorf("looks again after %s, want 3m", got)
	}
	// Somebody takes a off and puts b on.
	must(w.azure.PutCompute(azure.Compute{ID: w.pool.String(), UserAssigned: []azure.Assignment{{ID: b}}}))
	w.now = w.now.Add(3 * time.Minute)
	w.sure(w.pool, a)
	w.has(w.pool, "a", "b")
	w.ledgerIs(w.pool, "+a")
}

func TestPreexistingIdentitiesStay(t *testing.T) {
	w := newWorld(t, azure.Settings{})
	a, b := w.identity("a"), w.identity("b")
	must(w.azure.PutCompute(azure.Compute{ID: w.pool.String(), UserAssigned: []azure.Assignment{{ID: a}}}))
	w.sure(w.pool, strings.ReplaceAll(a, "resourceGroups", "resourcegroups"), b)
	w.ledgerIs(w.pool, "=a", "+b")
	if n := len(w.azure.Calls(azure.CallFilter{Operation: azure.OpVMSSUpdate})); n != 1 {
		t.Errorf("%d PATCHes, want 1", n)
	}
	w.restart()
	w.sure(w.pool)
	w.has(w.pool, "a")
	w.ledgerIs(w.pool)
}

func TestSystemAssignedIdentitySurvives(t *testing.T) {
	w := newWorld(t, azure.Settings{})
	a := w.identity("a")
	before := must(w.azure.PutCompute(azure.Compute{ID: w.pool.String(), SystemAssigned: true}))
	w.sure(w.pool, a)
	w.has(w.pool, "a")
	w.sure(w.pool)
	w.has(w.pool)
	after := must(w.azure.Compute(w.pool.String()))
	if !after.SystemAssigned || after.SystemPrincipalID != before.SystemPrincipalID {
		t.Errorf("the system-assigned identity was %v, is %v", before, after)
	}
}

func TestRemovingAnAbsentIdentitySendsNothing(t *testing.T) {
	w := newWorld(t, azure.Settings{})
	a := w.identity("a")
	must(w.azure.PutCompute(azure.Compute{ID: w.pool.String(), SystemAssigned: true}))
	w.sure(w.pool, a)
	must(w.azure.PutCompute(azure.Compute{ID: w.pool.String(), SystemAssigned: true}))
	w.restart()
	patches := w.calls(azure.OpVMSSUpdate)
	w.sure(w.pool)
	if now := w.calls(azure.OpVMSSUpdate); now != patches {
		t.Errorf("%d PATCHes to remove what is not there", now-patches)
	}
	w.ledgerIs(w.pool)
	if c := must(w.azure.Compute(w.pool.String())); !c.SystemAssigned {
		t.Error("the system-assigned identity is gone")
	}
}

func TestMoreThan150IdentitiesAreSplit(t *testing.T) {
	w := newWorld(t, azure.Settings{})
	var want, names []string
	for i := range 160 {
		names = append(names, fmt.Sprintf("id%03d", i))
		want = append(want, w.identity(names[i]))
	}
	w.sure(w.pool, want...)
	w.has(w.pool, names...)
	if n := w.calls(azure.OpVMSSUpdate); n != 2 {
		t.Errorf("%d PATCHes, want 2", n)
	}
	w.sure(w.pool)
	w.has(w.pool)
}

func TestAGhostIsRemovedAndAddedAgain(t *testing.T) {
	w := newWorld(t, azure.Settings{})
	a := w.identity("a")
	w.sure(w.pool, a)
	try(t, w.azure.DeleteIdentity(a))
	w.identity("a")
	w.now = w.now.Add(3 * time.Minute)
	w.sure(w.pool, a)
	c := must(w.azure.Compute(w.pool.String()))
	if now := must(w.azure.PutIdentity(azure.Identity{ID: a})); len(c.UserAssigned) != 1 || c.UserAssigned[0].ClientID == "" || now.ID == "" {
		t.Errorf("scale set has %+v", c.UserAssigned)
	}
	w.ledgerIs(w.pool, "+a")
}

func TestImmutableIdentitiesStay(t *testing.T) {
	w := newWorld(t, azure.Settings{})
	a := must(w.azure.PutIdentity(azure.Identity{ID: azure.IdentityID(testSub, testGroup, "a")}))
	b := w.identity("b")
	w.immune[a.ClientID], w.immune[resourceid.Key(b)] = true, true
	w.sure(w.pool, a.ID, b)
	// MIC has not read their client IDs yet.
	if result := w.sure(w.pool); len(result.Held) != 0 {
		t.Errorf("held: %v", result.Held)
	}
	w.has(w.pool, "a", "b")
	w.ledgerIs(w.pool)
	// Nor by a MIC that did not put it there.
	w.sure(w.pool, a.ID)
	w.restart()
	w.sure(w.pool)
	w.has(w.pool, "a", "b")
}

func TestKeepIsNeitherAddedNorRemoved(t *testing.T) {
	w := newWorld(t, azure.Settings{})
	a, b := w.identity("a"), w.identity("b")
	w.sure(w.pool, a)
	result, err := w.engine.Reconcile(w.ctx, Request{Target: w.pool, Keep: []string{a, b}, Prune: true})
	try(t, err)
	if len(result.Held) != 0 {
		t.Errorf("held: %v", result.Held)
	}
	w.has(w.pool, "a")
}

func TestNothingIsRemovedWithoutPrune(t *testing.T) {
	w := newWorld(t, azure.Settings{})
	a := w.identity("a")
	w.sure(w.pool, a)
	result, err := w.engine.Reconcile(w.ctx, Request{Target: w.pool})
	try(t, err)
	w.has(w.pool, "a")
	if !result.Held[resourceid.Key(a)] {
		t.Errorf("held: %v", result.Held)
	}
}

func TestADeletingTargetIsNotPatched(t *testing.T) {
	w := newWorld(t, azure.Settings{})
	a, b := w.identity("a"), w.identity("b")
	w.sure(w.pool, a)
	try(t, w.azure.SetProvisioningState(w.pool.String(), "Deleting"))
	w.now = w.now.Add(freshFor)
	patches := w.calls(azure.OpVMSSUpdate)
	result := w.sure(w.pool, b)
	if !result.Deleting || len(result.Held) != 0 || result.Present[resourceid.Key(b)] {
		t.Errorf("result %+v", result)
	}
	if now := w.calls(azure.OpVMSSUpdate); now != patches {
		t.Errorf("%d PATCHes of a scale set that is being deleted", now-patches)
	}
}

func TestAGoneTargetIsForgotten(t *testing.T) {
	w := newWorld(t, azure.Settings{})
	a := w.identity("a")
	w.sure(w.pool, a)
	try(t, w.azure.DeleteCompute(w.pool.String()))
	result := w.sure(w.pool)
	if !result.Gone || len(result.Held) != 0 {
		t.Errorf("result %+v", result)
	}
	if names := w.ledgerObjects(); len(names) != 0 || len(w.engine.Targets()) != 0 {
		t.Errorf("ledgers are left: %q", names)
	}
}

func TestA404ThatIsNotARMsDoesNotForgetTheTarget(t *testing.T) {
	w := newWorld(t, azure.Settings{})
	a := w.identity("a")
	w.sure(w.pool, a)
	w.restart()
	must(w.azure.AddFault(azure.Fault{Operation: azure.OpVMSSGet, Status: 404, RawBody: "<html>no such page", Count: 1}))
	if result, err := w.reconcile(w.pool); err == nil || result.Gone || !result.Held[resourceid.Key(a)] {
		t.Errorf("error %v, result %+v", err, result)
	}
	w.ledgerIs(w.pool, "+a")
	w.now = w.now.Add(firstHold)
	w.sure(w.pool)
	w.has(w.pool)
}

func TestThrottlingHoldsForTheWholeSubscription(t *testing.T) {
	w := newWorld(t, azure.Settings{})
	a := w.identity("a")
	must(w.azure.AddFault(azure.Fault{Operation: azure.OpVMSSGet, Status: 429, Code: "TooManyRequests", RetryAfter: 7, Count: 1}))
	_, err := w.reconcile(w.pool, a)
	if after, ok := arm.IsThrottled(err); !ok || after != 7*time.Second {
		t.Fatalf("error %v", err)
	}
	before := w.armCalls()
	_, err = w.reconcile(w.vm, a)
	if after, ok := arm.IsThrottled(err); !ok || after <= 0 || after > 7*time.Second {
		t.Errorf("another target of the subscription: error %v", err)
	}
	if now := w.armCalls(); now != before {
		t.Errorf("%d calls during the pause", now-before)
	}
}

func TestForbiddenIsNoIdentitysFault(t *testing.T) {
	w := newWorld(t, azure.Settings{})
	a := w.identity("a")
	try(t, w.azure.Revoke(azure.Role{PrincipalID: w.app.ObjectID, Role: azure.RoleVirtualMachineContributor, Scope: "/subscriptions/" + testSub + "/resourceGroups/" + testGroup}))
	result, err := w.reconcile(w.pool, a)
	if !arm.IsForbidden(err) || len(result.Failed) != 0 {
		t.Errorf("error %v, result %+v", err, result)
	}
}

func TestATargetThatChangedIsReadAgain(t *testing.T) {
	w := newWorld(t, azure.Settings{})
	a := w.identity("a")
	must(w.azure.AddFault(azure.Fault{Operation: azure.OpVMSSUpdate, Status: 412, Code: "ConditionNotMet", Count: 1}))
	w.sure(w.pool, a)
	w.has(w.pool, "a")
	if n := w.calls(azure.OpVMSSGet); n != 2 {
		t.Errorf("%d GETs, want 2", n)
	}
}

func TestOneRequestInFlightAndTheRestCoalesces(t *testing.T) {
	w := newWorld(t, azure.Settings{VMSSOperation: azure.Duration(50 * time.Millisecond)})
	var want []string
	for i := range 20 {
		want = append(want, w.identity(fmt.Sprintf("id%02d", i)))
	}
	var g sync.WaitGroup
	for i := range want {
		g.Go(func() {
			if _, err := w.reconcile(w.pool, want[:max(1, i)]...); err != nil {
				t.Error(err)
			}
		})
	}
	g.Wait()
	result := w.sure(w.pool, want...)
	if len(result.Present) != len(want) {
		t.Errorf("%d present, want %d", len(result.Present), len(want))
	}
	for _, c := range w.azure.Calls(azure.CallFilter{Operation: azure.OpVMSSUpdate}) {
		if c.Status == 409 {
			t.Error("two PATCHes met")
		}
	}
}

func TestADamagedLedgerStopsItsTargetOnly(t *testing.T) {
	w := newWorld(t, azure.Settings{})
	a := w.identity("a")
	try(t, w.cluster.Create(w.ctx, &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Namespace: testNS, Name: ledgerName(w.pool), Labels: map[string]string{v1.LedgerLabelKey: "true"}},
		Data:       map[string]string{ledgerTarget: w.pool.String(), ledgerAdded: "no list"},
	}))
	damaged, err := w.engine.Load(w.ctx)
	try(t, err)
	if len(damaged) != 1 || !strings.Contains(damaged[0].Error(), ledgerName(w.pool)) {
		t.Errorf("damaged: %v", damaged)
	}
	if _, err := w.reconcile(w.pool, a); err == nil {
		t.Error("no error for the target of the damaged ledger")
	}
	w.has(w.pool)
	w.sure(w.vm, a)
	w.has(w.vm, "a")
}

func TestAdoptedIdentitiesAreRemovedAfterTheirLastUse(t *testing.T) {
	w := newWorld(t, azure.Settings{})
	a, b := w.identity("a"), w.identity("b")
	must(w.azure.PutCompute(azure.Compute{ID: w.pool.String(), UserAssigned: []azure.Assignment{{ID: a}, {ID: b}}}))
	try(t, w.engine.Adopt(w.ctx, w.pool, []string{a}))
	w.sure(w.pool)
	w.has(w.pool, "b")
}

func TestAWrongSecretIsNoIdentitysFault(t *testing.T) {
	w := newWorld(t, azure.Settings{})
	a := w.identity("a")
	config := *w.cloud.Config
	config.ClientSecret = "wrong"
	w.cloud.Credential = must(cloud.NewCredential(&config, w.cloud.Environment, w.cloud.HTTP))
	w.restart()
	result, err := w.reconcile(w.pool, a)
	if !arm.IsForbidden(err) || len(result.Failed) != 0 || strings.Contains(err.Error(), "\n") || strings.Contains(err.Error(), "wrong") {
		t.Errorf("error %v, result %+v", err, result)
	}
}

// A token may be refused although this machine's clock calls it valid, as after the
// clock was set back.
func TestARefusedTokenIsReplaced(t *testing.T) {
	w := newWorld(t, azure.Settings{})
	twoTokens := func() {
		t.Helper()
		if n := len(w.azure.Calls(azure.CallFilter{Service: azure.ServiceAAD, Operation: azure.OpToken})); n != 2 {
			t.Errorf("%d tokens were asked for, want 2", n)
		}
	}
	a := w.identity("a")
	must(w.azure.AddFault(azure.Fault{Service: azure.ServiceARM, Status: 401, Code: "ExpiredAuthenticationToken", Message: "expired", Count: 1}))
	if _, err := w.reconcile(w.pool, a); !arm.IsForbidden(err) {
		t.Fatalf("error %v", err)
	}
	w.now = w.now.Add(time.Hour)
	w.sure(w.pool, a)
	w.has(w.pool, "a")
	twoTokens()

	// Being refused again and again does not mean to ask again and again.
	must(w.azure.AddFault(azure.Fault{Service: azure.ServiceARM, Status: 401, Code: "InvalidAuthenticationToken", Message: "no", Count: 3}))
	for range 3 {
		w.now = w.now.Add(time.Hour)
		if _, err := w.reconcile(w.pool); !arm.IsForbidden(err) {
			t.Fatalf("error %v", err)
		}
	}
	twoTokens()
}
