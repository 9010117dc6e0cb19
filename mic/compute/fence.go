package compute

import (
	"context"
	"errors"
	"fmt"
	"time"

	"k8s.io/klog/v2"

	"github.com/aad-pod-identity/aad-pod-identity/internal/logkey"
	"github.com/aad-pod-identity/aad-pod-identity/internal/resourceid"
)

// A leader that was frozen, with its machine or by the kernel, may go on for a moment
// when another leads already. Two things keep what it then does from being lost:
// before a PATCH it looks whether the ledger is still the one that it knows, unless
// that was so a moment ago; and a leader looks now and then for ledgers that
// somebody else has written.

// know takes a ledger for the one that is stored, as the API server said to a request
// that was begun at a time.
func (s *state) know(l *Ledger, asked time.Time) {
	s.ledger, s.confirmed = l, asked
	s.version.Store(&l.resourceVersion)
	s.tracked.Store(!l.empty())
}

// confirm makes sure that the ledger is the stored one. It asks the API server only
// if the last answer is so old that another replica may lead by now: a leader
// renews its lease for at most half of the lease's duration, so nobody else can have
// it sooner than the other half after the API server last took a write.
func (e *Engine) confirm(ctx context.Context, s *state, target resourceid.Compute) error {
	if e.options.Now().Before(s.confirmed.Add(e.options.LeaseDuration / 2)) {
		return nil
	}
	_, err := e.compare(ctx, s, target)
	return err
}

// errForeign says that a ledger was changed by somebody else, such as a leader who
// came after this one.
var errForeign = errors.New("somebody else has written the ownership ledger")

// compare reads the stored ledger. One that was deleted by hand is written again. If
// it is another, that is taken for the truth and the error is errForeign.
func (e *Engine) compare(ctx context.Context, s *state, target resourceid.Compute) (*Ledger, error) {
	asked := e.options.Now()
	stored, err := e.store.Read(ctx, target)
	if err != nil {
		return nil, ledgerError{err}
	}
	switch {
	case stored.resourceVersion == s.ledger.resourceVersion:
		s.know(s.ledger, asked)
		return s.ledger, nil
	case stored.resourceVersion == "" && !s.ledger.empty():
		again := s.ledger.clone()
		again.uid, again.resourceVersion = "", ""
		if err := e.store.Save(ctx, again); err != nil {
			return nil, ledgerError{err}
		}
		s.know(again, asked)
		return again, nil
	}
	// What is on the target may have changed with it.
	s.know(stored, asked)
	s.known, s.idle = nil, false
	s.standing.Store(nil)
	clear(s.claimed)
	return stored, ledgerError{fmt.Errorf("%s: %w", target, errForeign)}
}

// WatchLedgers looks at the ledgers each VerifyInterval until ctx ends, and tells
// OnRecovery's function of targets whose ledger somebody else has written.
func (e *Engine) WatchLedgers(ctx context.Context) {
	if e.options.VerifyInterval <= 0 {
		return
	}
	for {
		timer := time.NewTimer(e.options.Jitter(e.options.VerifyInterval))
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-timer.C:
		}
		if err := e.CheckLedgers(ctx); err != nil && ctx.Err() == nil {
			klog.FromContext(ctx).Error(err, "The ownership ledgers will be looked at again")
		}
	}
}

// CheckLedgers compares the stored ledgers with what is known of them: one list, and a
// GET for each that is not as expected.
func (e *Engine) CheckLedgers(ctx context.Context) error {
	ledgers, _, err := e.store.Load(ctx) // Reconcile tells of damaged ones
	if err != nil {
		return err
	}
	stored := map[string]bool{}
	var doubtful []resourceid.Compute
	e.mu.Lock()
	for _, l := range ledgers {
		key := l.Target.Key()
		stored[key] = true
		if s, ok := e.targets[key]; !ok || *s.version.Load() != l.resourceVersion {
			doubtful = append(doubtful, l.Target)
		}
	}
	for key, s := range e.targets {
		if s.tracked.Load() && !stored[key] {
			doubtful = append(doubtful, s.target)
		}
	}
	e.mu.Unlock()
	var failed []error
	for _, target := range doubtful {
		failed = append(failed, e.check(ctx, target))
	}
	return errors.Join(failed...)
}

func (e *Engine) check(ctx context.Context, target resourceid.Compute) error {
	s, release := e.acquire(target)
	defer release()
	if s.ledger == nil {
		return nil // the next pass reads it
	}
	before := s.ledger
	now, err := e.compare(ctx, s, target)
	if errors.Is(err, errForeign) {
		err = nil
	}
	if err == nil && !before.equal(now) {
		klog.FromContext(ctx).Info("Somebody else has written the ownership ledger; going by what it says", logkey.Target, target.String())
		e.wake([]string{target.Key()})
	}
	return err
}
