package model

import (
	"flag"
	"fmt"
	"testing"
)

var every = flag.Int("every", 32, "MIC is killed at every n-th of its calls")

// crashScenario has every kind of call that MIC makes: ledgers, assignments and
// their status, tags, conditions, PATCHes that add, remove and do both, identities
// that are refused and that were there before.
var crashScenario = history{
	{kind: addBehind, on: named{"", "pool"}, a: "blue"},
	{kind: makeID, on: named{"default", "one"}, a: "red"},
	{kind: makeID, on: named{"default", "two"}, a: closed},
	{kind: makeID, on: named{"c", "one"}, a: "blue"},
	{kind: makeID, on: named{"c", "two"}, a: "green"},
	{kind: makeBinding, on: named{"default", "p"}, a: "one", b: "x"},
	{kind: makeBinding, on: named{"default", "q"}, a: "two", b: "x"},
	{kind: makeBinding, on: named{"c", "p"}, a: "one", b: "y"},
	{kind: makePod, on: named{"default", "a"}, a: "n0", b: "x"},
	{kind: makePod, on: named{"c", "a"}, a: "n1", b: "y"},
	{kind: makePod, on: named{"c", "a-b"}, a: "n3", b: "x"},
	{kind: quiet},
	{kind: labelPod, on: named{"default", "a"}, b: "y"},
	{kind: remakePod, on: named{"c", "a-b"}, a: "n1", b: "x"},
	{kind: editID, on: named{"default", "one"}, a: "green"},
	{kind: deleteByHnd, n: 1},
	{kind: dropBinding, on: named{"c", "p"}},
	{kind: quiet},
	{kind: dropNode, on: named{"", "n1"}},
	{kind: makeBinding, on: named{"c", "q"}, a: "two", b: "y"},
	{kind: quiet},
}

// TestCrashes kills MIC right before and right after each of the calls that it
// makes in the scenario, and lets another MIC follow. The end must be that of the
// undisturbed run.
func TestCrashes(t *testing.T) {
	s := startServers(t)
	w, err := s.begin(t.Context(), calm)
	check(t, err)
	if f := w.live(crashScenario, patience); f != nil {
		t.Fatalf("undisturbed: after operation %d: %v\n%s\n%s", f.at+1, f.err, crashScenario, f.log)
	}
	calls := w.mic.list()
	tried := 0
	for k := 1; k <= len(calls); k += *every {
		for _, kind := range []string{killBefore, killAfter} {
			tried++
			w, err := s.begin(t.Context(), calm)
			check(t, err)
			h := append(history{{kind: kind, n: k}}, crashScenario...)
			if f := w.live(h, patience); f != nil {
				t.Errorf("%s %d of %d: after operation %d: %v\ncalls of the MIC that was killed:\n%s\n%s\nlog of the last MIC:\n%s", kind, k, len(calls), f.at+1, f.err, list(w.all[0].list()), h, f.log)
			}
		}
	}
	t.Logf("%d calls, MIC was killed %d times", len(calls), tried)
}

func list(calls []string) string {
	text := ""
	for i, c := range calls {
		text += fmt.Sprintf("  %3d. %s\n", i+1, c)
	}
	return text
}
