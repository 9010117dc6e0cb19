package compute

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/aad-pod-identity/aad-pod-identity/internal/azure/arm"
	"github.com/aad-pod-identity/aad-pod-identity/internal/resourceid"
	"github.com/aad-pod-identity/aad-pod-identity/test/azure"
)

// A killed process does nothing more, whatever it was about to do.
func (w *world) killAt(n int, before bool) (effects func() int) {
	count, dead := 0, false
	w.effect = func(first bool) error {
		if first {
			count++
		}
		dead = dead || (count == n && first == before)
		if dead {
			return &arm.Error{Kind: arm.Other, Code: "Killed"}
		}
		return nil
	}
	return func() int { return count }
}

func TestKilledAtEveryCall(t *testing.T) {
	for _, before := range []bool{true, false} {
		for n := 1; ; n++ {
			ended := false
			t.Run(fmt.Sprintf("call %d, before it %v", n, before), func(t *testing.T) {
				w := newWorld(t, azure.Settings{})
				a, b, ghost, foreign := w.identity("a"), w.identity("b"), w.identity("ghost"), w.identity("foreign")
				must(w.azure.PutCompute(azure.Compute{ID: w.pool.String(), SystemAssigned: true, UserAssigned: []azure.Assignment{{ID: foreign}}}))
				w.sure(w.pool, ghost)
				try(t, w.azure.DeleteIdentity(ghost))
				w.identity("ghost")
				w.now = w.now.Add(3 * time.Minute)

				// Add a, renew the ghost; then take a off and put b on; then all off.
				effects := w.killAt(n, before)
				last := []string{a, ghost, foreign}
				for _, want := range [][]string{last, {b, foreign}, {}} {
					last = want
					if _, err := w.reconcile(w.pool, want...); err != nil {
						break
					}
				}
				ended = effects() < n
				w.effect = nil
				w.azure.CompleteOperations()
				w.restart()
				// Whoever leads next finishes what was wanted.
				w.sure(w.pool, last...)
				names := []string{"foreign"}
				for name, id := range map[string]string{"a": a, "b": b, "ghost": ghost} {
					for _, wanted := range last {
						if wanted == id {
							names = append(names, name)
						}
					}
				}
				w.has(w.pool, names...)
				w.sure(w.pool)
				w.has(w.pool, "foreign")
				if c := must(w.azure.Compute(w.pool.String())); !c.SystemAssigned {
					t.Error("the system-assigned identity is gone")
				}
				if names := w.ledgerObjects(); len(names) != 0 {
					t.Errorf("ledgers are left: %q", names)
				}
			})
			if ended || t.Failed() {
				if n < 10 {
					t.Errorf("only %d calls were tried", n)
				}
				break
			}
		}
	}
}

func TestTheLeaderChangesDuringAPATCH(t *testing.T) {
	w := newWorld(t, azure.Settings{VMSSOperation: azure.Duration(time.Hour)})
	a, b := w.identity("a"), w.identity("b")
	ctx, cancel := context.WithCancel(w.ctx)
	done := make(chan error, 1)
	old := w.engine
	go func() {
		_, err := old.Reconcile(ctx, Request{Target: w.pool, Want: []string{a}, Prune: true})
		done <- err
	}()
	// The operation takes an hour, so the old leader waits for its first poll.
	for w.calls(azure.OpVMSSUpdate) == 0 {
		select {
		case <-t.Context().Done():
			t.Fatal("no PATCH")
		case <-time.After(time.Millisecond):
		}
	}
	cancel()
	if err := <-done; err == nil {
		t.Fatal("the old leader goes on")
	}
	w.restart()
	// The pod is gone meanwhile, another one came.
	result, err := w.reconcile(w.pool, b)
	if !arm.IsConflict(err) || result.RetryAfter != conflictWait {
		t.Fatalf("error %v, result %+v", err, result)
	}
	w.ledgerIs(w.pool, "+a", "+b")
	w.azure.CompleteOperations()
	try(t, w.azure.SetSettings(azure.Settings{}))
	w.now = w.now.Add(result.RetryAfter)
	w.sure(w.pool, b)
	w.has(w.pool, "b")
	w.ledgerIs(w.pool, "+b")
}

// The pod whose identity the old leader was adding is gone, and a GET does not
// show the identity yet.
func TestWhatAnotherLeadersOperationAddsIsNotForgotten(t *testing.T) {
	w := newWorld(t, azure.Settings{VMSSOperation: azure.Duration(time.Hour)})
	a := w.identity("a")
	ctx, cancel := context.WithCancel(w.ctx)
	w.effect = func(before bool) error {
		if !before && w.calls(azure.OpVMSSUpdate) > 0 {
			cancel() // the PATCH is accepted
		}
		return nil
	}
	if _, err := w.engine.Reconcile(ctx, Request{Target: w.pool, Want: []string{a}, Prune: true}); err == nil {
		t.Fatal("no error")
	}
	w.effect = nil
	w.restart()
	result := w.sure(w.pool)
	w.ledgerIs(w.pool, "+a")
	if !result.Held[resourceid.Key(a)] || result.RetryAfter != unsettledFor {
		t.Errorf("result %+v", result)
	}
	w.azure.CompleteOperations()
	try(t, w.azure.SetSettings(azure.Settings{}))
	w.now = w.now.Add(result.RetryAfter)
	w.sure(w.pool)
	w.has(w.pool)
	w.ledgerIs(w.pool)
}

func TestARMIsUnreachableForMinutes(t *testing.T) {
	w := newWorld(t, azure.Settings{})
	a, b := w.identity("a"), w.identity("b")
	w.sure(w.pool, a)
	must(w.azure.AddFault(azure.Fault{ID: "outage", Service: azure.ServiceARM, Drop: true}))
	start, before := w.now, w.armCalls()
	for w.now.Sub(start) < 20*time.Minute {
		result, err := w.reconcile(w.pool, a, b)
		if err == nil || result.RetryAfter <= 0 || result.RetryAfter > lastOutage || len(result.Held) != 0 {
			t.Fatalf("error %v, result %+v", err, result)
		}
		w.now = w.now.Add(result.RetryAfter)
	}
	// Three tries a pass, a pass a minute.
	if n := w.armCalls() - before; n > 100 {
		t.Errorf("%d calls in 20 minutes", n)
	}
	w.azure.RemoveFault("outage")
	w.sure(w.pool, a, b)
	w.has(w.pool, "a", "b")
	w.ledgerIs(w.pool, "+a", "+b")
}

// What the API server does not take is not done in Azure either, and is done
// once it is back.
func TestTheAPIServerIsAwayAtEveryWrite(t *testing.T) {
	for n := 1; n <= 4; n++ {
		w := newWorld(t, azure.Settings{})
		a, b := w.identity("a"), w.identity("b")
		writes := 0
		w.onLedger = func() error {
			if writes++; writes == n {
				return errors.New("the API server is away")
			}
			return nil
		}
		for _, want := range [][]string{{a}, {b}, {}} {
			result, err := w.reconcile(w.pool, want...)
			for err != nil {
				if result.RetryAfter != 0 {
					t.Fatalf("write %d: waits %s for Azure, which is well", n, result.RetryAfter)
				}
				result, err = w.reconcile(w.pool, want...)
			}
		}
		w.has(w.pool)
		w.ledgerIs(w.pool)
	}
}

func TestCrashes(t *testing.T) {
	crash := errors.New("killed")
	for name, test := range map[string]struct {
		// dies makes the process die while it assigns a.
		dies func(w *world, cancel func())
		// left is what the ledger says then.
		left []string
	}{
		"before the ledger is written": {
			dies: func(w *world, _ func()) { w.onLedger = func() error { return crash } },
		},
		"between ledger and PATCH": {
			dies: func(w *world, _ func()) {
				must(w.azure.AddFault(azure.Fault{Operation: azure.OpVMSSUpdate, Drop: true}))
			},
			left: []string{"+a"},
		},
		"after the PATCH, before its answer": {
			dies: func(w *world, _ func()) {
				must(w.azure.AddFault(azure.Fault{Operation: azure.OpVMSSUpdate, After: true, Drop: true}))
			},
			left: []string{"+a"},
		},
	} {
		for next, want := range map[string]bool{"the pod is still there": true, "the pod is gone": false} {
			t.Run(name+", then "+next, func(t *testing.T) {
				w := newWorld(t, azure.Settings{})
				a := w.identity("a")
				must(w.azure.PutCompute(azure.Compute{ID: w.pool.String(), UserAssigned: []azure.Assignment{{ID: w.identity("foreign")}}}))
				ctx, cancel := context.WithCancel(w.ctx)
				defer cancel()
				test.dies(w, cancel)
				if _, err := w.engine.Reconcile(ctx, Request{Target: w.pool, Want: []string{a}, Prune: true}); err == nil {
					t.Fatal("no error")
				}
				w.ledgerIs(w.pool, test.left...)
				w.onLedger = nil
				w.azure.RemoveFault("")
				w.azure.CompleteOperations()
				w.restart()
				if want {
					w.sure(w.pool, a)
					w.has(w.pool, "a", "foreign")
					w.ledgerIs(w.pool, "+a")
				}
				w.sure(w.pool)
				w.has(w.pool, "foreign")
				w.ledgerIs(w.pool)
			})
		}
	}
}
