package compute

import (
	"errors"
	"testing"
	"time"

	"github.com/aad-pod-identity/aad-pod-identity/internal/resourceid"
	"github.com/aad-pod-identity/aad-pod-identity/test/azure"
)

func TestALedgerOfForeignIdentitiesAloneDoesNotStay(t *testing.T) {
	w := newWorld(t, azure.Settings{})
	a := w.identity("a")
	must(w.azure.PutCompute(azure.Compute{ID: w.pool.String(), UserAssigned: []azure.Assignment{{ID: a}}}))
	w.sure(w.pool, a)
	w.ledgerIs(w.pool, "=a")
	// The pod goes while no MIC runs.
	w.restart()
	w.sure(w.pool)
	w.has(w.pool, "a")
	if targets := w.engine.Targets(); len(targets) != 0 || len(w.ledgerObjects()) != 0 {
		t.Errorf("targets %v, ledgers %q are left, and an uninstallation would wait for them", targets, w.ledgerObjects())
	}
}

func TestWhatFellDueDuringAPATCHIsLookedAt(t *testing.T) {
	w := newWorld(t, azure.Settings{})
	a, b := w.identity("a"), w.identity("b")
	bad := azure.IdentityID(testSub, testGroup, "missing")
	w.sure(w.pool, a)
	// Somebody takes a off; putting it back takes longer than the interval.
	must(w.azure.PutCompute(azure.Compute{ID: w.pool.String()}))
	w.now = w.now.Add(3 * time.Minute)
	w.afterPatch = func() { w.now = w.now.Add(5 * time.Minute) }
	if result := w.sure(w.pool, a); result.RetryAfter == 0 {
		t.Error("drift will not be looked for any more")
	}
	// The PATCH of the good identity takes longer than the backoff of the bad one.
	w.afterPatch = func() { w.now = w.now.Add(time.Minute) }
	if result := w.sure(w.pool, a, b, bad); result.RetryAfter == 0 || result.RetryAfter > time.Second {
		t.Errorf("the refused identity is tried again after %s", result.RetryAfter)
	}
	// What is due and has nothing to do does not call again and again.
	w.afterPatch = nil
	w.sure(w.pool, a, b)
	if got := w.sure(w.pool, a, b).RetryAfter; got < time.Minute {
		t.Errorf("looks again after %s although all is well", got)
	}
}

func TestARefusedRemovalHoldsUpNobody(t *testing.T) {
	w := newWorld(t, azure.Settings{})
	a, b, c := w.identity("a"), w.identity("b"), w.identity("c")
	w.sure(w.pool, a, b)
	must(w.azure.AddFault(azure.Fault{
		ID: "refused", Operation: azure.OpVMSSUpdate, BodyMatch: "/a\"", Status: 403, Code: "LinkedAuthorizationFailed",
		Message: "no permission on the linked scope(s) '" + a + "'",
	}))
	result := w.sure(w.pool, c)
	w.has(w.pool, "a", "c")
	w.ledgerIs(w.pool, "+a", "+c")
	if f := result.Failed[resourceid.Key(a)]; f.Code != "LinkedAuthorizationFailed" || !result.Held[resourceid.Key(a)] || result.RetryAfter != time.Second {
		t.Errorf("result %+v", result)
	}
	w.azure.RemoveFault("refused")
	w.now = w.now.Add(result.RetryAfter)
	if result := w.sure(w.pool, c); len(result.Held) != 0 || len(result.Failed) != 0 {
		t.Errorf("result %+v", result)
	}
	w.has(w.pool, "c")
}

func TestAGhostThatWasThereFirstIsNotMICs(t *testing.T) {
	w := newWorld(t, azure.Settings{})
	a := w.identity("a")
	must(w.azure.PutCompute(azure.Compute{ID: w.pool.String(), UserAssigned: []azure.Assignment{{ID: a}}}))
	try(t, w.azure.DeleteIdentity(a))
	w.identity("a")
	w.sure(w.pool, a)
	w.ledgerIs(w.pool, "=a")
	if n := w.calls(azure.OpVMSSUpdate); n != 2 {
		t.Errorf("%d PATCHes, want 2: off and on", n)
	}
	w.sure(w.pool)
	w.has(w.pool, "a")
}

func TestALedgerThatIsNotKnownIsNotAnEmptyOne(t *testing.T) {
	w := newWorld(t, azure.Settings{})
	a, b := w.identity("a"), w.identity("b")
	w.sure(w.pool, a)
	w.onLedger = func() error { return errors.New("the API server is down") }
	if _, err := w.reconcile(w.pool, a, b); err == nil {
		t.Fatal("no error")
	}
	if owned, _, err := w.engine.Ledger(w.ctx, w.pool); err != nil || len(owned) != 1 {
		t.Errorf("owned %v, error %v", owned, err)
	}
}
