package compute

import (
	"errors"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/aad-pod-identity/aad-pod-identity/internal/resourceid"
	"github.com/aad-pod-identity/aad-pod-identity/test/azure"
)

// told collects the targets that an engine wants reconciled.
func told(e *Engine) *[]string {
	var names []string
	e.OnRecovery(func(c resourceid.Compute) { names = append(names, c.Name) })
	return &names
}

// A leader that was frozen before it wrote the ledger goes on for a moment when the
// next one has loaded the ledgers already.
func TestWhatAFormerLeaderStillDoesIsFound(t *testing.T) {
	w := newWorld(t, azure.Settings{})
	a, b := w.identity("a"), w.identity("b")
	former := w.engine
	w.restart()
	w.sure(w.vm, b) // the leader knows the target by itself
	leader := w.engine
	names := told(leader)
	for _, target := range []resourceid.Compute{w.pool, w.vm} {
		w.engine = former
		_, err := w.reconcile(target, a)
		w.engine = leader
		if target == w.vm {
			// It has not seen the leader's ledger, and the API server refuses its own.
			if !errors.As(err, new(ledgerError)) {
				t.Errorf("the former leader changed a target of the leader's: %v", err)
			}
			continue
		}
		try(t, err)
	}
	w.has(w.pool, "a")
	w.has(w.vm, "b")
	try(t, leader.CheckLedgers(w.ctx))
	if len(*names) != 1 || (*names)[0] != w.pool.Name {
		t.Errorf("to be reconciled: %q, want the pool", *names)
	}
	w.sure(w.pool)
	w.has(w.pool)
	w.ledgerIs(w.pool)
	try(t, leader.CheckLedgers(w.ctx))
	if len(*names) != 1 {
		t.Errorf("to be reconciled although nobody wrote anything: %q", *names)
	}
}

// A leader that was frozen between the ledger and the PATCH sends nothing that the
// ledger does not cover: the next one has seen that nothing came of it.
func TestAFormerLeaderSendsOnlyWhatTheLedgerCovers(t *testing.T) {
	for name, inUse := range map[string]bool{"the next leader uses the target": true, "the next leader has no use for the target": false} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, azure.Settings{})
			a, b := w.identity("a"), w.identity("b")
			var used, has, ledger []string
			if inUse {
				used, has, ledger = []string{b}, []string{"b"}, []string{"+b"}
			}
			former := w.engine
			w.effect = func(before bool) error {
				if before || len(w.ledgerObjects()) == 0 {
					return nil // until the ledger is written
				}
				w.effect = nil
				w.now = w.now.Add(time.Minute)
				w.restart()
				w.sure(w.pool, used...)
				return nil
			}
			_, err := w.reconcile(w.pool, a)
			if w.engine == former {
				t.Fatal("the former leader was not frozen")
			}
			if inUse != errors.Is(err, errForeign) {
				t.Errorf("the former leader's pass ends with %v", err)
			}
			if inUse {
				w.has(w.pool, has...)
			}
			names := told(w.engine)
			try(t, w.engine.CheckLedgers(w.ctx))
			if len(*names) > 0 {
				w.sure(w.pool, used...)
			}
			w.has(w.pool, has...)
			w.ledgerIs(w.pool, ledger...)
		})
	}
}

func TestALedgerThatWasDeletedByHandIsWrittenAgain(t *testing.T) {
	w := newWorld(t, azure.Settings{})
	a, b := w.identity("a"), w.identity("b")
	w.sure(w.pool, a)
	remove := func() {
		t.Helper()
		try(t, w.cluster.Delete(w.ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: testNS, Name: ledgerName(w.pool)}}))
	}
	remove()
	try(t, w.engine.CheckLedgers(w.ctx))
	w.ledgerIs(w.pool, "+a")
	// Also when it is missed only as it is needed.
	remove()
	w.now = w.now.Add(time.Minute)
	w.sure(w.pool)
	w.has(w.pool)
	w.ledgerIs(w.pool)
	w.sure(w.pool, b)
	w.ledgerIs(w.pool, "+b")
}
