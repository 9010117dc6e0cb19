package model

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

var (
	seedFlag  = flag.Uint64("seed", 1, "seed of the first history; each further one has the next")
	histories = flag.Int("histories", 0, "how many histories; 0: as many as begin within the time of make test")
	length    = flag.Int("length", 24, "operations of a history")
)

const (
	// ordinaryTime is how long histories begin in an ordinary run, of which there
	// are at most ordinaryHistories.
	ordinaryTime      = 30 * time.Second
	ordinaryHistories = 40
	// patience is how long rest is waited for, shrinkPatience while a failure is made
	// smaller.
	patience, shrinkPatience = 45 * time.Second, 15 * time.Second
	// shrinkTime bounds how long a failure is made smaller.
	shrinkTime = 4 * time.Minute
)

// TestHistories lets random histories happen and compares the outcome with the
// model.
func TestHistories(t *testing.T) {
	s := startServers(t)
	wanted, until := *histories, time.Now().Add(ordinaryTime)
	if wanted == 0 {
		wanted = ordinaryHistories
	}
	started, operations, rests := time.Now(), 0, 0
	for i := range wanted {
		if *histories == 0 && time.Now().After(until) {
			wanted = i
			break
		}
		seed := *seedFlag + uint64(i)
		h := randomHistory(seed, *length)
		operations += len(h)
		rests += strings.Count(h.String(), quiet)
		if failure := s.run(t.Context(), h, patience); failure != nil {
			s.explain(t, seed, h, failure)
		}
		if (i+1)%50 == 0 {
			t.Logf("%d histories, %s", i+1, time.Since(started).Round(time.Second))
		}
	}
	t.Logf("%d histories from seed %d, %d operations, %d quiet periods: %s", wanted, *seedFlag, operations, rests, time.Since(started).Round(time.Second))
}

// failure is how a history went wrong.
type failure struct {
	// at is the operation after which it did, -1 for the end.
	at  int
	err error
	// log is the end of the last MIC's log.
	log string
}

// run lets a history happen. Operations that cannot happen are left out, so that a
// history can be made smaller.
func (s *server) run(ctx context.Context, h history, patience time.Duration) *failure {
	w, err := s.begin(ctx, brisk)
	if err != nil {
		return &failure{-1, err, ""}
	}
	return w.live(h, patience)
}

func (w *world) live(h history, patience time.Duration) (failed *failure) {
	fail := func(at int, err error) *failure { return &failure{at, err, w.mic.log.String()} }
	defer func() {
		if err := w.end(); err != nil && failed == nil {
			failed = fail(-1, err)
		}
	}()
	for i, o := range h {
		if w.mic.isDead() {
			if err := w.startMIC(); err != nil {
				return fail(i, err)
			}
		}
		if !o.change(w.facts) {
			continue
		}
		step := w.do
		if o.kind == quiet {
			step = func(op) error { return w.rest(patience) }
		}
		if err := step(o); err != nil {
			return fail(i, err)
		}
	}
	if err := w.farewell(patience); err != nil {
		return fail(-1, err)
	}
	return nil
}

// farewell removes all pods: nothing that MIC put anywhere may be left.
func (w *world) farewell(patience time.Duration) error {
	for n := range w.facts.pods {
		o := op{kind: removePod, on: n}
		o.change(w.facts)
		if err := w.do(o); err != nil {
			return err
		}
	}
	w.azure.RemoveFault("")
	ctx, cancel := context.WithTimeout(w.ctx, patience)
	defer cancel()
	return w.until(ctx, func(ctx context.Context) error { return errors.Join(w.differences(ctx), w.ledgers(ctx)) })
}

// explain makes a failed history smaller and prints it.
func (s *server) explain(t *testing.T, seed uint64, h history, f *failure) {
	t.Helper()
	t.Errorf("seed %d: the world is not as the model says: after operation %d: %v\n%s", seed, f.at+1, f.err, h)
	if f.at >= 0 {
		h = h[:f.at+1]
	}
	small, last := s.shrink(t.Context(), h, time.Now().Add(shrinkTime))
	if last == nil {
		t.Logf("seed %d: it did not happen again; the log of MIC:\n%s", seed, f.log)
		return
	}
	t.Logf("seed %d, smaller: %v\n%s\nThe log of MIC:\n%s", seed, last.err, small, last.log)
}

// shrink leaves out what a failure does not need.
func (s *server) shrink(ctx context.Context, h history, until time.Time) (history, *failure) {
	last := s.run(ctx, h, shrinkPatience)
	if last == nil {
		return h, nil
	}
	for size := len(h) / 2; size > 0; size /= 2 {
		for from := 0; from+size <= len(h) && time.Now().Before(until); {
			without := slices.Delete(slices.Clone(h), from, from+size)
			if f := s.run(ctx, without, shrinkPatience); f != nil {
				h, last = without, f
			} else {
				from += size
			}
		}
	}
	return h, last
}

// TestModel holds the model against cases that need no cluster to be known.
func TestModel(t *testing.T) {
	demo, web := named{"default", "one"}, named{"default", "a"}
	begin := history{
		{kind: makeID, on: demo, a: "red"},
		{kind: makeBinding, on: named{"default", "p"}, a: "one", b: "x"},
		{kind: makePod, on: web, a: "n0", b: "x"},
	}
	for name, test := range map[string]struct {
		then history
		// states of the pod's identities, and what is on the scale set.
		states, on string
	}{
		"a pod gets its identity":                       {nil, "default/one=Assigned", "red"},
		"another label matches nothing":                 {history{{kind: labelPod, on: web, b: "y"}}, "", ""},
		"a finished pod needs nothing":                  {history{{kind: finishPod, on: web}}, "", ""},
		"nor does one on a node that is gone":           {history{{kind: dropNode, on: named{"", "n0"}}}, "", ""},
		"an identity that Azure lacks":                  {history{{kind: editID, on: demo, a: "lost"}}, "default/one=Created", ""},
		"one that MIC may not assign":                   {history{{kind: editID, on: demo, a: closed}}, "default/one=Created", ""},
		"one that MIC may assign by now":                {history{{kind: editID, on: demo, a: closed}, {kind: permit}}, "default/one=Assigned", closed},
		"one that MIC may not assign any more":          {history{{kind: editID, on: demo, a: closed}, {kind: permit}, {kind: forbid}}, "default/one=either", ""},
		"a pod that ends keeps what it has":             {history{{kind: quiet}, {kind: endPod, on: web}}, "default/one=Assigned", "red"},
		"a scale set that is gone":                      {history{{kind: gone, on: named{"", "pool"}}}, "default/one=Created", ""},
		"a service principal needs no Azure":            {history{{kind: editID, on: demo}}, "default/one=Assigned", ""},
		"the first of two identities of one name":       {history{{kind: makeID, on: named{"c", "one"}, a: "blue"}, {kind: makeBinding, on: named{"c", "p"}, a: "one", b: "x"}}, "c/one=Assigned", "blue"},
		"unless it is for pods of its own namespace":    {history{{kind: makeID, on: named{"c", "one"}, a: "blue", b: "namespaced"}, {kind: makeBinding, on: named{"c", "p"}, a: "one", b: "x"}}, "default/one=Assigned", "red"},
		"what was there before stays":                   {history{{kind: quiet}, {kind: addBehind, on: named{"", "pool"}, a: "blue"}, {kind: removePod, on: web}}, "", "blue"},
		"and may be where MIC saw a pod that needed it": {history{{kind: dropID, on: demo}, {kind: makeID, on: demo, a: fixed}, {kind: dropID, on: demo}, {kind: makeID, on: demo, a: "red"}, {kind: dropBinding, on: named{"default", "p"}}}, "", ""},
		"what is immutable stays":                       {history{{kind: editID, on: demo, a: fixed}, {kind: quiet}, {kind: removePod, on: web}}, "", fixed},
		"a scale set that is being deleted is frozen":   {history{{kind: quiet}, {kind: deleting, on: named{"", "pool"}}, {kind: removePod, on: web}}, "", "red"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFacts()
			for _, o := range append(slices.Clone(begin), test.then...) {
				if !o.change(f) {
					t.Fatalf("%s cannot happen", o)
				}
			}
			var states []string
			for _, g := range f.grants(web) {
				if f.runs(web) {
					states = append(states, fmt.Sprintf("%s=%s", g.identity, f.state(web, g)))
				}
			}
			var on []string
			must, _ := f.on("pool")
			for r := range must {
				on = append(on, r)
			}
			if got := strings.Join(states, " "); got != test.states {
				t.Errorf("states %q, want %q", got, test.states)
			}
			if got := strings.Join(on, " "); got != test.on {
				t.Errorf("on the scale set %q, want %q", got, test.on)
			}
		})
	}
}
