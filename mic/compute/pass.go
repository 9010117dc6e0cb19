package compute

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"k8s.io/klog/v2"

	"github.com/aad-pod-identity/aad-pod-identity/internal/azure/arm"
	"github.com/aad-pod-identity/aad-pod-identity/internal/logkey"
	"github.com/aad-pod-identity/aad-pod-identity/internal/resourceid"
)

// pass is one Reconcile of one target.
type pass struct {
	e      *Engine
	s      *state
	client *Client
	target resourceid.Compute
	want   map[string]string // by resourceid.Key, as written
	needed map[string]bool   // want and keep
	prune  bool
	gone   bool
	fresh  map[string]bool // refused in this pass
}

func newPass(e *Engine, s *state, r Request) *pass {
	p := &pass{
		e: e, s: s, client: e.client.Load(), target: r.Target, prune: r.Prune,
		want: make(map[string]string, len(r.Want)), needed: map[string]bool{}, fresh: map[string]bool{},
	}
	p.target.Instance = ""
	for _, id := range slices.Sorted(slices.Values(r.Want)) {
		if key := resourceid.Key(id); p.want[key] == "" {
			p.want[key] = id
			p.needed[key] = true
		}
	}
	for _, id := range r.Keep {
		p.needed[resourceid.Key(id)] = true
	}
	return p
}

// maxAttempts bounds how often a pass starts over because the target changed
// under its hands.
const maxAttempts = 3

func (p *pass) run(ctx context.Context) error {
	if err := p.e.readLedger(ctx, p.s, p.target); err != nil {
		return err
	}
	p.forgetFailures()
	var err error
	for range maxAttempts {
		if err = p.attempt(ctx); !arm.IsChanged(err) {
			break
		}
		p.s.known = nil
	}
	if err != nil {
		return err
	}
	return p.settle(ctx)
}

// forgetFailures drops failures that no longer matter, so that an identity
// that is needed again later is tried at once.
func (p *pass) forgetFailures() {
	for key := range p.s.failures {
		if _, added := p.s.ledger.Added[key]; !p.needed[key] && !added {
			delete(p.s.failures, key)
		}
	}
}

// attempt reads the target if there is a reason to, and changes it if needed.
func (p *pass) attempt(ctx context.Context) error {
	now := p.e.options.Now()
	if p.s.known != nil && now.Before(p.s.verifyAt) && !p.work().any() {
		return nil
	}
	if len(p.needed) == 0 && len(p.s.ledger.Added) == 0 {
		return nil // nothing that Azure could tell would matter
	}
	if done, err := p.read(ctx); done || err != nil {
		return err
	}
	work := p.work()
	if err := p.e.save(ctx, p.s, ahead(p.s.ledger, p.want, p.s.known, work.adds)); err != nil {
		return err
	}
	if !work.any() {
		return nil
	}
	log := klog.FromContext(ctx)
	log.Info(fmt.Sprintf("updating user-assigned identities on %s, assign [%d], unassign [%d]", p.target.Name, len(work.adds), len(work.removes)), logkey.Target, p.target.String())
	if len(work.ghosts) > 0 {
		// A deleted and recreated identity has to be taken off before it can be
		// put on again: an entry that is there stays as it is.
		if err := p.apply(ctx, nil, work.ghosts); err != nil {
			return err
		}
	}
	return p.apply(ctx, work.adds, work.removes)
}

// read gets the target from ARM. Done means that there is nothing to change:
// it is gone, or going.
func (p *pass) read(ctx context.Context) (done bool, err error) {
	r, err := p.client.get(ctx, p.target)
	if arm.IsNotFound(err) {
		p.s.known, p.gone = &resource{identities: map[string]entry{}}, true
		p.s.verifyAt = time.Time{}
		return true, nil
	}
	if err != nil {
		p.s.verifyAt = time.Time{} // what was known may still hold, but look again
		return false, fmt.Errorf("reading %s: %w", p.target, err)
	}
	p.s.known = r
	p.s.verifyAt = p.e.options.Now().Add(p.e.options.Jitter(p.e.options.VerifyInterval))
	return r.deleting, nil
}

// work is what a PATCH has to do. All are IDs in a stable order.
type work struct{ adds, removes, ghosts []string }

func (w work) any() bool { return len(w.adds)+len(w.removes) > 0 }

// work compares the wish with the target as known. What ARM refused waits.
func (p *pass) work() work {
	var w work
	if p.s.known.deleting || p.gone {
		return w
	}
	now := p.e.options.Now()
	waits := func(key string) bool { return now.Before(p.s.failures[key].RetryAt) }
	for _, key := range slices.Sorted(maps.Keys(p.want)) {
		e, there := p.s.known.identities[key]
		if (there && !e.ghost) || waits(key) {
			continue
		}
		if there {
			w.ghosts = append(w.ghosts, e.id)
		}
		w.adds = append(w.adds, p.want[key])
	}
	if !p.prune {
		return w
	}
	for _, key := range slices.Sorted(maps.Keys(p.s.ledger.Added)) {
		if e, there := p.s.known.identities[key]; there && !p.needed[key] && !p.immutable(e) && !waits(key) {
			w.removes = append(w.removes, e.id)
		}
	}
	return w
}

func (p *pass) immutable(e entry) bool { return p.e.options.Immutable(e.id, e.clientID) }

// ahead returns the ledger to be written before a PATCH that adds: what is
// wanted and already there is not MIC's, not even as a ghost that MIC has to
// renew; what MIC is about to add is.
func ahead(l *Ledger, want map[string]string, known *resource, adds []string) *Ledger {
	next := l.clone()
	for key, id := range want {
		_, added := next.Added[key]
		if _, there := known.identities[key]; there && !added {
			next.Preexisting[key] = id
		}
	}
	for _, id := range adds {
		key := resourceid.Key(id)
		if _, before := next.Preexisting[key]; !before {
			next.Added[key] = id
		}
	}
	return next
}

// settle cleans the ledger once the outcome is known: what is not there is
// nobody's, and whom nobody needs is not worth a record unless it is to be
// removed. A target that was not read, because nothing of MIC's is on it, loses
// the latter too: a ledger that stays would hold up an uninstallation for good.
func (p *pass) settle(ctx context.Context) error {
	next := p.s.ledger.clone()
	if p.gone {
		next = newLedger(p.target)
		next.uid, next.resourceVersion = p.s.ledger.uid, p.s.ledger.resourceVersion
	}
	for key := range next.Added {
		if p.s.known == nil {
			break
		}
		e, there := p.s.known.identities[key]
		if !there || (p.prune && !p.needed[key] && p.immutable(e)) {
			delete(next.Added, key)
		}
	}
	if p.prune {
		for key := range next.Preexisting {
			if !p.needed[key] {
				delete(next.Preexisting, key)
			}
		}
	}
	return p.e.save(ctx, p.s, next)
}

// apply sends the changes in portions that ARM takes.
func (p *pass) apply(ctx context.Context, adds, removes []string) error {
	for len(adds)+len(removes) > 0 {
		a := adds[:min(len(adds), maxPerRequest)]
		r := removes[:min(len(removes), maxPerRequest-len(a))]
		if err := p.send(ctx, a, r); err != nil {
			return err
		}
		adds, removes = adds[len(a):], removes[len(r):]
	}
	return nil
}

// send sends one PATCH. An identity that ARM refuses is taken out and recorded
// as failed, and the rest is sent again: one team's mistake must not hold up
// the others. If ARM does not name the culprit it is found by halving.
func (p *pass) send(ctx context.Context, adds, removes []string) error {
	for {
		body, changes := p.s.known.patchFor(adds, removes)
		if !changes {
			return nil
		}
		started, err := p.client.update(ctx, p.target, body, p.s.known.etag)
		if err == nil {
			p.s.known.applied(adds, removes)
			p.succeeded(adds, removes)
			return nil
		}
		if started {
			// Nobody knows what of it was done.
			p.s.known = nil
		}
		err = fmt.Errorf("updating %s: %w", p.target, err)
		culprits, bad := arm.IsBadIdentities(err)
		if !bad && !arm.IsInvalid(err) {
			return err
		}
		if p.s.known == nil {
			if done, readErr := p.read(ctx); done || readErr != nil {
				return errors.Join(err, readErr)
			}
		}
		if len(culprits) == 0 {
			return p.halve(ctx, adds, removes, err)
		}
		var badAdds, badRemoves []string
		adds, badAdds = without(adds, culprits)
		removes, badRemoves = without(removes, culprits)
		if len(badAdds)+len(badRemoves) == 0 {
			// ARM complains of something that is there already and stays, so taking
			// something out would not help.
			return err
		}
		for _, id := range slices.Concat(badAdds, badRemoves) {
			p.failed(ctx, id, err)
		}
	}
}

// halve finds the culprit of a PATCH that ARM refused without naming one.
func (p *pass) halve(ctx context.Context, adds, removes []string, cause error) error {
	if len(adds)+len(removes) == 1 {
		for _, id := range slices.Concat(adds, removes) {
			p.failed(ctx, id, cause)
		}
		return nil
	}
	if len(adds) > 0 && len(removes) > 0 {
		if err := p.send(ctx, adds, nil); err != nil {
			return err
		}
		return p.send(ctx, nil, removes)
	}
	a, r := len(adds)/2, len(removes)/2
	if err := p.send(ctx, adds[:a], removes[:r]); err != nil {
		return err
	}
	return p.send(ctx, adds[a:], removes[r:])
}

// without splits ids into those not blamed and those blamed.
func without(ids, culprits []string) (rest, blamed []string) {
	guilty := map[string]bool{}
	for _, id := range culprits {
		guilty[resourceid.Key(id)] = true
	}
	for _, id := range ids {
		if guilty[resourceid.Key(id)] {
			blamed = append(blamed, id)
		} else {
			rest = append(rest, id)
		}
	}
	return rest, blamed
}

func (p *pass) succeeded(adds, removes []string) {
	for _, id := range slices.Concat(adds, removes) {
		delete(p.s.failures, resourceid.Key(id))
	}
}

func (p *pass) failed(ctx context.Context, id string, err error) {
	key := resourceid.Key(id)
	f := p.s.failures[key]
	f.Attempts++
	f.Code, f.Message = "RequestFailed", err.Error()
	var e *arm.Error
	if errors.As(err, &e) {
		f.Code, f.Message, f.RequestID = e.Code, e.Message, e.RequestID
	}
	f.RetryAt = p.e.options.Now().Add(p.e.options.Jitter(p.e.options.Backoff.after(f.Attempts)))
	p.s.failures[key] = f
	p.fresh[key] = true
	klog.FromContext(ctx).Error(err, fmt.Sprintf("removing %s from ID list since it is erroneous", id),
		logkey.Target, p.target.String(), logkey.Attempt, f.Attempts, logkey.RetryAfter, f.RetryAt.Sub(p.e.options.Now()).Round(time.Second).String())
}

// leastWait is the least time between two passes that no event asks for.
const leastWait = 100 * time.Millisecond

// pending says whether the next pass will try a refused identity again, once
// its backoff is over.
func (p *pass) pending(key string) bool {
	if p.gone || p.s.known == nil || p.s.known.deleting || p.s.ledger == nil {
		return false
	}
	e, there := p.s.known.identities[key]
	if _, wanted := p.want[key]; wanted {
		return !there || e.ghost
	}
	_, added := p.s.ledger.Added[key]
	return added && there && p.prune && !p.needed[key] && !p.immutable(e)
}

func (p *pass) result() Result {
	r := Result{Gone: p.gone, Present: map[string]bool{}, Failed: map[string]Failure{}, Held: map[string]bool{}}
	now := p.e.options.Now()
	wake := func(at time.Time) {
		// A PATCH can take longer than a backoff, and than the verify interval.
		// What fell due meanwhile has to be looked at, or nothing ever would.
		if d := max(at.Sub(now), leastWait); r.RetryAfter == 0 || d < r.RetryAfter {
			r.RetryAfter = d
		}
	}
	if p.gone && len(p.want) > 0 {
		wake(now.Add(p.e.options.Jitter(p.e.options.VerifyInterval)))
	}
	if p.s.known != nil {
		r.Deleting = p.s.known.deleting
		for key, e := range p.s.known.identities {
			if !e.ghost {
				r.Present[key] = true
			}
		}
		if !p.gone && (len(p.needed) > 0 || (p.s.ledger != nil && len(p.s.ledger.Added) > 0)) {
			wake(p.s.verifyAt)
		}
	}
	for key, f := range p.s.failures {
		f.Fresh = p.fresh[key]
		r.Failed[key] = f
		if p.pending(key) {
			wake(f.RetryAt)
		}
	}
	r.Unsure = p.s.ledger == nil
	if p.s.ledger != nil && !r.Gone && !r.Deleting {
		for key := range p.s.ledger.Added {
			if !p.needed[key] {
				r.Held[key] = true
			}
		}
	}
	return r
}
