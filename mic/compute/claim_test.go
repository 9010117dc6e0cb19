package compute

import (
	"errors"
	"testing"

	"github.com/aad-pod-identity/aad-pod-identity/internal/resourceid"
	"github.com/aad-pod-identity/aad-pod-identity/test/azure"
)

// TestWrittenAheadIsNotAdded: the ledger says before a PATCH what it adds. If ARM
// refuses the PATCH because somebody put the same identity there meanwhile, it is
// not MIC's.
func TestWrittenAheadIsNotAdded(t *testing.T) {
	for name, test := range map[string]struct {
		needed bool // still, after the refusal
		stays  bool
		lost   bool // the answer of a PATCH that was carried out
		unsent bool // the PATCH before did not leave
	}{
		"somebody else's stays after its last use":                {needed: true, stays: true},
		"and if nobody needs it any more by then":                 {stays: true},
		"nor did a PATCH that never left":                         {unsent: true, stays: true},
		"MIC's own, of which the answer was lost, is MIC's still": {needed: true, lost: true},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, azure.Settings{})
			mine, theirs := w.identity("mine"), w.identity("theirs")
			w.sure(w.pool, mine)
			if test.unsent {
				effects := 0 // the ledger is written, and then nothing leaves
				w.effect = func(bool) error {
					if effects++; effects > 2 {
						return errors.New("no connection")
					}
					return nil
				}
				if _, err := w.reconcile(w.pool, mine, theirs); err == nil {
					t.Fatal("no error")
				}
				w.effect = nil
				w.ledgerIs(w.pool, "+mine", "+theirs")
				w.now = w.now.Add(lastRefusal)
				test.needed = true
			}
			if test.lost {
				must(w.azure.AddFault(azure.Fault{Operation: azure.OpVMSSUpdate, After: true, Drop: true, Count: 1}))
			} else {
				c := must(w.azure.Compute(w.pool.String()))
				c.UserAssigned = append(c.UserAssigned, azure.Assignment{ID: theirs})
				must(w.azure.PutCompute(c))
			}
			if !test.needed {
				// The pass ends when ARM cannot be read after the refusal.
				must(w.azure.AddFault(azure.Fault{Operation: azure.OpVMSSGet, Status: 403, Code: "AuthorizationFailed", Count: 1}))
				_, err := w.reconcile(w.pool, mine, theirs)
				if err == nil {
					t.Fatal("no error")
				}
				w.now = w.now.Add(lastRefusal)
			} else {
				w.sure(w.pool, mine, theirs)
			}
			w.sure(w.pool, mine)
			if test.stays {
				w.has(w.pool, "mine", "theirs")
			} else {
				w.has(w.pool, "mine")
			}
			if got := w.engine.targets[w.pool.Key()].claimed[resourceid.Key(mine)]; got {
				t.Error("what a PATCH carried is still in doubt")
			}
		})
	}
}
