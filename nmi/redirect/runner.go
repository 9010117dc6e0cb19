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

	mu       sync.Mutex
	remove   bool
	state    state
	failures int
	err      error
	// looking is set while the rules are looked at, looked is when that ended.
	looking bool
	looked  time.Time
	notify  chan struct{} // closed and replaced at each change of state
}

type state int

const (
	pending state = iota
	inPlace
	removed
)

// Hooks are told what the runner does; each may be nil.
type Hooks struct {
	// First runs once, after the redirect was first in place.
	First func(context.Context)
	// Repaired runs each time that it had to be mended after that.
	Repaired func()
}

// NewRunner makes a runner that checks the rules every interval, and when the tables
// are Noticing also when somebody has changed them.
func NewRunner(redirects []Redirect, interval time.Duration, hooks Hooks) *Runner {
	return &Runner{
		redirects: redirects, interval: interval, hooks: hooks,
		wake: make(chan struct{}, 1), notices: make(chan struct{}, 1), notify: make(chan struct{}),
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
		if err := r.step(ctx); err != nil {
			pause = min(pause, retryAfter)
		}
		timer.Reset(pause)
	}
}

// notice leads to a look at the rules.
func (r *Runner) notice(certain bool) {
	r.mu.Lock()
	own := !certain && (r.looking || time.Since(r.looked) < echo)
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

// step does once what is wanted now.
func (r *Runner) step(ctx context.Context) error {
	r.mu.Lock()
	remove, again := r.remove, r.state == inPlace
	r.looking = true
	r.mu.Unlock()

	var errs []error // one family does not hold up the other
	for _, one := range r.redirects {
		errs = append(errs, r.bring(ctx, one, remove, again))
	}
	err := errors.Join(errs...)
	if first := r.record(remove, err); first && r.hooks.First != nil {
		r.hooks.First(ctx)
	}
	return err
}

// bring brings one redirect to the wanted state. Again says that it was in place
// already.
func (r *Runner) bring(ctx context.Context, one Redirect, remove, again bool) error {
	log := klog.FromContext(ctx).WithValues(logkey.Chain, chain, logkey.Target, one.Target.NMI.String())
	var err error
	if remove {
		var had bool
		if had, err = Remove(one.Tables, one.Target); had {
			log.Info("Removed the redirect, as the release is being uninstalled")
		}
	} else {
		var changed bool
		if changed, err = Ensure(one.Tables, one.Target); changed && err == nil {
			log.Info("Set the redirect of the instance metadata service")
			if again && r.hooks.Repaired != nil {
				r.hooks.Repaired()
			}
		}
	}
	if err != nil {
		log.Error(err, "Cannot bring the redirect to the wanted state; trying again")
	}
	return err
}

// record notes the outcome of a step; first is true for the first success ever.
func (r *Runner) record(remove bool, err error) (first bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.err = err
	r.looking, r.looked = false, time.Now()
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

// Live fails when the redirect cannot be kept: several attempts in a row failed.
func (r *Runner) Live(context.Context) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.failures >= liveFailures {
		return fmt.Errorf("%d attempts failed, the last: %w", r.failures, r.err)
	}
	return nil
}

// Ready fails unless the redirect is in place and the last look at it succeeded.
func (r *Runner) Ready(context.Context) error {
	r.mu.Lock()
	defer r.mu.Unlock()
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
