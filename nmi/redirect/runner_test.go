package redirect

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/aad-pod-identity/aad-pod-identity/nmi/redirect/redirecttest"
)

// start runs a runner in a bubble of fake time until the test ends.
func start(t *testing.T, r *Runner) {
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("Run returned %v", err)
		}
	})
	synctest.Wait()
}

func TestRunnerRepairsWithinTheInterval(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := redirecttest.NewTables()
		r := NewRunner([]Redirect{{f, guideTarget}}, time.Minute, Hooks{})
		if r.Active() || r.Ready(t.Context()) == nil {
			t.Error("active or ready before the first run")
		}
		start(t, r)
		if !r.Active() || r.Ready(t.Context()) != nil || r.Live(t.Context()) != nil {
			t.Error("not active, ready and live with the redirect in place")
		}
		f.Set([]string{kubeRule}, []string{})
		<-time.After(time.Minute)
		synctest.Wait()
		if diff := cmp.Diff(wanted, f.Rules()); diff != "" {
			t.Errorf("rules (-want +got):\n%s", diff)
		}
	})
}

// insistent is another program that wants its rule to be the first, and looks a second
// after each change.
type insistent struct {
	*redirecttest.Tables
	undone chan struct{}
	moves  atomic.Int32
}

func (i *insistent) Insert(t, c string, pos int, spec ...string) error {
	err := i.Tables.Insert(t, c, pos, spec...)
	if c == hook && strings.Join(spec, " ") == jumpRule {
		time.AfterFunc(time.Second, func() {
			i.moves.Add(1)
			i.Set([]string{kubeRule, jumpRule}, []string{guideRule, returnRule})
			i.undone <- struct{}{}
		})
	}
	return err
}

// Watch implements Noticing.
func (i *insistent) Watch(ctx context.Context, changed func(certain bool), _ func(error)) {
	for {
		select {
		case <-i.undone:
			changed(true)
		case <-ctx.Done():
			return
		}
	}
}

// TestRunnerSharesTheFirstPlace: two that insist on it do not fight every second.
func TestRunnerSharesTheFirstPlace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, set, repaired := &insistent{Tables: redirecttest.NewTables(), undone: make(chan struct{}, 1)}, 0, 0
		start(t, NewRunner([]Redirect{{f, guideTarget}}, time.Minute, Hooks{Set: func(context.Context) { set++ }, Repaired: func() { repaired++ }}))
		<-time.After(10*time.Minute + 30*time.Second)
		synctest.Wait()
		if n := f.moves.Load(); n < 2 || n > 12 {
			t.Errorf("the other one had to move its rule %d times in ten minutes", n)
		}
		if set != 1 || repaired != 0 {
			t.Errorf("set %d times, repaired %d times: the redirect was there all the time", set, repaired)
		}
	})
}

// TestRunnerCutsConnectionsAfterEachGap: what pods have opened meanwhile leads around
// NMI.
func TestRunnerCutsConnectionsAfterEachGap(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, set := redirecttest.NewTables(), 0
		r := NewRunner([]Redirect{{f, guideTarget}}, time.Minute, Hooks{Set: func(context.Context) { set++ }})
		start(t, r)
		f.Set([]string{kubeRule}, []string{})
		<-time.After(2 * time.Minute)
		synctest.Wait()
		if set != 2 {
			t.Errorf("the hook ran %d times after a flush", set)
		}
		r.SetRemoval(true)
		synctest.Wait()
		r.SetRemoval(false)
		synctest.Wait()
		if set != 3 {
			t.Errorf("the hook ran %d times after an uninstall that was given up", set)
		}
	})
}

// TestRunnerWhoseIPTablesHangs says so, with the rules of before in place.
func TestRunnerWhoseIPTablesHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, goOn := redirecttest.NewTables(), make(chan struct{})
		var hang atomic.Bool
		r := NewRunner([]Redirect{{f, guideTarget}}, time.Minute, Hooks{})
		f.Fail(func(string) error {
			if hang.Load() {
				<-goOn
			}
			return nil
		})
		start(t, r)
		hang.Store(true)
		<-time.After(time.Minute + hung)
		if r.Ready(t.Context()) == nil || r.Live(t.Context()) == nil {
			t.Error("ready or live")
		}
		hang.Store(false)
		close(goOn)
		synctest.Wait()
		if err := errors.Join(r.Ready(t.Context()), r.Live(t.Context())); err != nil {
			t.Error(err)
		}
	})
}

func TestRunnerTellsTheTruth(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := redirecttest.NewTables()
		busy := errors.New("xtables lock held")
		set := func(err error) { f.Fail(func(string) error { return err }) }
		set(busy)
		first := 0
		r := NewRunner([]Redirect{{f, guideTarget}}, time.Minute, Hooks{Set: func(context.Context) { first++ }})
		start(t, r)
		if err := r.Ready(t.Context()); !errors.Is(err, busy) {
			t.Errorf("ready: %v", err)
		}
		if err := r.Live(t.Context()); err != nil {
			t.Errorf("one failure is no reason to restart: %v", err)
		}
		<-time.After(2 * retryAfter)
		synctest.Wait()
		if err := r.Live(t.Context()); !errors.Is(err, busy) {
			t.Errorf("live after three failures: %v", err)
		}
		set(nil)
		<-time.After(retryAfter)
		synctest.Wait()
		if err := errors.Join(r.Ready(t.Context()), r.Live(t.Context())); err != nil || !r.Active() {
			t.Errorf("after recovery: active %v, %v", r.Active(), err)
		}
		<-time.After(2 * time.Minute)
		synctest.Wait()
		if first != 1 {
			t.Errorf("the hook for the first success ran %d times", first)
		}
	})
}

func TestRunnerLeavesTheRedirectWhenItEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := redirecttest.NewTables()
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- NewRunner([]Redirect{{f, guideTarget}}, time.Minute, Hooks{}).Run(ctx) }()
		synctest.Wait()
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("Run returned %v", err)
		}
		if diff := cmp.Diff(wanted, f.Rules()); diff != "" {
			t.Errorf("rules (-want +got):\n%s", diff)
		}
	})
}

func TestRunnerRemovesAndBringsBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := redirecttest.NewTables()
		r := NewRunner([]Redirect{{f, guideTarget}}, time.Minute, Hooks{})
		start(t, r)
		r.SetRemoval(true)
		if err := r.WaitRemoved(t.Context()); err != nil {
			t.Fatal(err)
		}
		<-time.After(5 * time.Minute) // and it is not repaired
		synctest.Wait()
		if diff := cmp.Diff([]string{"-A PREROUTING " + kubeRule}, f.Rules()); diff != "" {
			t.Errorf("rules (-want +got):\n%s", diff)
		}
		if r.Active() || r.Ready(t.Context()) == nil {
			t.Error("active or ready without a redirect")
		}
		r.SetRemoval(false) // the uninstall was given up
		synctest.Wait()
		if diff := cmp.Diff(wanted, f.Rules()); diff != "" {
			t.Errorf("rules (-want +got):\n%s", diff)
		}
	})
}

// TestRulesThatCannotBeRead: a successor waits with what it would take over.
func TestRulesThatCannotBeRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		good, bad := redirecttest.NewTables(), redirecttest.NewTables()
		bad.Fail(func(string) error { return errors.New("table nat is incompatible, use nft tool") })
		both := []Redirect{{good, guideTarget}, {bad, guideTarget}}
		readable := make(chan error, 1)
		go func() { readable <- WaitReadable(t.Context(), both) }()
		<-time.After(10 * retryAfter)
		select {
		case err := <-readable:
			t.Fatalf("done, with %v", err)
		default:
		}
		bad.Fail(nil)
		if err := <-readable; err != nil {
			t.Error(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		bad.Fail(func(string) error { return errors.New("busy") })
		cancel()
		if err := WaitReadable(ctx, both); !errors.Is(err, context.Canceled) {
			t.Errorf("after its end: %v", err)
		}
	})
}

func TestWaitRemovedSaysWhatIsWrong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := redirecttest.NewTables()
		r := NewRunner([]Redirect{{f, guideTarget}}, time.Minute, Hooks{})
		start(t, r)
		busy := errors.New("device or resource busy")
		f.Fail(func(op string) error {
			if op == "clear" {
				return busy
			}
			return nil
		})
		r.SetRemoval(true)
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		if err := r.WaitRemoved(ctx); !errors.Is(err, busy) {
			t.Errorf("got %v", err)
		}
	})
}
