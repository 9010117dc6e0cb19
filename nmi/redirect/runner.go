package redirect

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"k8s.io/klog/v2"

	"github.com/aad-pod-identity/aad-pod-identity/internal/logkey"
)

const (
	// retryAfter is the pause after a failure, when it is shorter than the
	// interval: a node without the redirect is open.
	retryAfter = 5 * time.Second
	// liveFailures in a row make the liveness check fail. One or two pass by
	// themselves, such as a lock held too long.
	liveFailures = 3
	// noticePause is the least time between two looks at the rules that a notice
	// leads to: kube-proxy can use iptables every second.
	noticePause = time.Second
	// hung is how long a look may take: iptables waits seconds for its lock.
	hung = time.Minute
	// echo is how long after a look of ours a notice that is not certain counts as
	// our own doing.
	echo = 100 * time.Millisecond
)

// Runner keeps the redirect of each family in place. They are in one state: it is that
// of the worst of them.
type Runner struct {
	redirects []Redirect
	interval  time.Duration
	wake      chan struct{}
	notices   chan struct{}
	hooks     Hooks
	// moved is when the jump of each redirect was last moved to the first place; only
	// Run uses it.
	moved []time.Time

	mu       sync.Mutex
	remove   bool
	state    state
	failures int
	err      error
	// looking is since when the rules are looked at, zero if they are not; looked is
	// when that last ended.
	looking, looked time.Time
	notify          chan struct{} // closed and replaced at each change of state
}

type state int

const (
	pending state = iota
	inPlace
	removed
)

// Hooks are told what the runner does; each may be nil.
type Hooks struct {
	// Set runs after the redirect was first in place, and each time that it had to be set
	// again: it was not there for a moment.
	Set func(context.Context)
	// Repaired runs each time that it had to be mended after the first.
	Repaired func()
}

// NewRunner makes a runner that checks the rules every interval, and when the tables
// are Noticing also when somebody has changed them.
func NewRunner(redirects []Redirect, interval time.Duration, hooks Hooks) *Runner {
	return &Runner{
		redirects: redirects, interval: interval, hooks: hooks,
		wake: make(chan struct{}, 1), notices: make(chan struct{}, 1), moved: make([]time.Time, len(redirects)), notify: make(chan struct{}),
	}
}

// Run keeps the redirect until ctx ends, and leaves it in place then: between
// two runs of NMI a pod must not reach the real service.
func (r *Runner) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	for _, one := range r.redirects {
		n, ok := one.Tables.(Noticing)
		if !ok {
			continue
		}
		wg.Go(func() {
			n.Watch(ctx, r.notice, func(err error) {
				klog.FromContext(ctx).Error(err, "Cannot follow all changes of the rules; others are noticed within the interval only", logkey.Duration, r.interval.String())
			})
		})
	}
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-timer.C:
		case <-r.wake:
		case <-r.notices:
			if left := noticePause - r.sinceLook(); left > 0 {
				timer.Reset(left)
				continue
			}
		}
		pause := r.interval
		switch set, err := r.step(ctx); {
		case err != nil:
			pause = min(pause, retryAfter)
		case set:
			// Who undid it may not be done, and our own changes hide theirs from notices.
			pause = min(pause, noticePause)
		}
		timer.Reset(pause)
	}
}

// notice leads to a look at the rules.
func (r *Runner) notice(certain bool) {
	r.mu.Lock()
	own := !certain && (!r.looking.IsZero() || time.Since(r.looked) < echo)
	r.mu.Unlock()
	if own {
		return
	}
	select {
	case r.notices <- struct{}{}:
	default: // one is enough
	}
}

func (r *Runner) sinceLook() time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	return time.Since(r.looked)
}

// step does once what is wanted now, and says whether the redirect had to be set.
func (r *Runner) step(ctx context.Context) (set bool, err error) {
	r.mu.Lock()
	remove, again := r.remove, r.state == inPlace
	r.looking = time.Now()
	r.mu.Unlock()

	var errs []error // one family does not hold up the other
	for i := range r.redirects {
		one, err := r.bring(ctx, i, remove, again)
		set = set || one
		errs = append(errs, err)
	}
	err = errors.Join(errs...)
	if first := r.record(remove, err); (first || set) && r.hooks.Set != nil {
		r.hooks.Set(ctx)
	}
	return set, err
}

// bring brings one redirect to the wanted state, and says whether it had to be set.
// Again says that it was in place already.
func (r *Runner) bring(ctx context.Context, index int, remove, again bool) (set bool, err error) {
	one := r.redirects[index]
	log := klog.FromContext(ctx).WithValues(logkey.Chain, chain, logkey.Target, one.Target.NMI.String())
	if remove {
		var had bool
		if had, err = Remove(one.Tables, one.Target); had {
			log.Info("Removed the redirect, as the release is being uninstalled")
		}
	} else {
		var did change
		// Others insist on the first place in PREROUTING as well, such as Calico. Then it is
		// theirs for most of the time, which does no harm, instead of both moving their
		// rules every second.
		did, err = ensure(one.Tables, one.Target, time.Since(r.moved[index]) >= r.interval)
		set = did.set
		if did.moved {
			log.Info("Moved the redirect before the rules of others in PREROUTING")
			r.moved[index] = time.Now()
		}
		if set && err == nil {
			log.Info("Set the redirect of the instance metadata service")
			if again && r.hooks.Repaired != nil {
				r.hooks.Repaired()
			}
		}
	}
	if err != nil {
		log.Error(err, "Cannot bring the redirect to the wanted state; trying again")
	}
	return set, err
}

// record notes the outcome of a step; first is true for the first success ever.
func (r *Runner) record(remove bool, err error) (first bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.err = err
	r.looking, r.looked = time.Time{}, time.Now()
	if err != nil {
		r.failures++
		return false
	}
	r.failures = 0
	next := inPlace
	if remove {
		next = removed
	}
	first = r.state == pending && next == inPlace
	if r.state != next {
		r.state = next
		close(r.notify)
		r.notify = make(chan struct{})
	}
	return first
}

// SetRemoval says whether the redirect is to be removed and kept away, or to be
// kept in place.
func (r *Runner) SetRemoval(remove bool) {
	r.mu.Lock()
	changed := r.remove != remove
	r.remove = remove
	r.mu.Unlock()
	if changed {
		select {
		case r.wake <- struct{}{}:
		default: // awake already, and it reads the flag afresh
		}
	}
}

// WaitRemoved waits until the redirect has been removed, or ctx ends.
func (r *Runner) WaitRemoved(ctx context.Context) error {
	for {
		r.mu.Lock()
		done, changed := r.state == removed, r.notify
		r.mu.Unlock()
		if done {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			r.mu.Lock()
			defer r.mu.Unlock()
			return errors.Join(ctx.Err(), r.err)
		}
	}
}

// Active says whether the redirect has been set and not been removed.
func (r *Runner) Active() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.state == inPlace
}

// Live fails when the redirect cannot be kept: several attempts in a row failed, or
// one does not end.
func (r *Runner) Live(context.Context) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.hangs(); err != nil {
		return err
	}
	if r.failures >= liveFailures {
		return fmt.Errorf("%d attempts failed, the last: %w", r.failures, r.err)
	}
	return nil
}

// hangs says that iptables does not come back; r.mu is held.
func (r *Runner) hangs() error {
	if r.looking.IsZero() || time.Since(r.looking) < hung {
		return nil
	}
	return fmt.Errorf("iptables has not answered for %s", time.Since(r.looking).Round(time.Second))
}

// Ready fails unless the redirect is in place and the last look at it succeeded.
func (r *Runner) Ready(context.Context) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.hangs(); err != nil {
		return err
	}
	switch {
	case r.err != nil:
		return r.err
	case r.state == pending:
		return errors.New("not set yet")
	case r.state == removed:
		return errors.New("removed, as the release is being uninstalled")
	}
	return nil
}
