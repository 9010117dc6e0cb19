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
	key    string            // of the target
	want   map[string]string // by resourceid.Key, as written
	needed map[string]bool   // want and keep
	prune  bool

	gone    bool
	asked   bool            // ARM was called
	waiting bool            // ARM was to be left alone
	fresh   map[string]bool // refused in this pass
	// admitted remembers which identities the breaker lets this pass try.
	admitted map[string]bool
	// doubted is what was known when ARM said that the target has changed.
	doubted *resource
}

func newPass(e *Engine, s *state, r Request) *pass {
	p := &pass{
		e: e, s: s, client: e.client.Load(), target: r.Target, prune: r.Prune, key: r.Target.Key(),
		want: make(map[string]string, len(r.Want)), needed: map[string]bool{}, fresh: map[string]bool{}, admitted: map[string]bool{},
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

// errStop ends a pass early and well: the target is gone or going.
var errStop = errors.New("the target takes no changes")

func (p *pass) run(ctx context.Context) error {
	p.s.idle = false
	if err := p.e.readLedger(ctx, p.s, p.target); err != nil {
		return err
	}
	p.forgetFailures()
	defer p.e.breaker.giveUp(p.key)
	if p.s.hold.on(p.e.options.Now()) && !p.atRest() {
		p.waiting = true
		return p.s.hold.err
	}
	var err error
	for range maxAttempts {
		if err = p.attempt(ctx); !arm.IsChanged(err) {
			break
		}
		p.doubted, p.s.known = p.s.known, nil
	}
	if errors.Is(err, errStop) {
		err = nil
	}
	if !errors.As(err, new(ledgerError)) && p.asked {
		p.s.hold.open(err, p.e.options.Now(), p.e.options.Jitter, p.e.options.Spread)
	}
	if err != nil {
		return err
	}
	if err := p.settle(ctx); err != nil {
		return err
	}
	p.s.idle = len(p.needed) == 0
	return nil
}

// forgetFailures drops failures that no longer matter, so that an identity
// that is needed again later is tried at once.
func (p *pass) forgetFailures() {
	for key := range p.s.failures {
		if _, added := p.s.ledger.Added[key]; !p.needed[key] && !added {
			delete(p.s.failures, key)
		}
	}
	for key := range p.s.suspects {
		if !p.needed[key] {
			delete(p.s.suspects, key)
		}
	}
	p.e.breaker.forget(p.key, p.needed)
}

// atRest says whether there is nothing to do and nothing to look at.
func (p *pass) atRest() bool {
	if len(p.needed) == 0 && len(p.s.ledger.Added) == 0 {
		return true // nothing that Azure could tell would matter
	}
	return p.s.known != nil && p.e.options.Now().Before(p.s.verifyAt) && !p.work().any()
}

// attempt reads the target if there is a reason to, and changes it if needed.
func (p *pass) attempt(ctx context.Context) error {
	if p.atRest() {
		return nil
	}
	if err := p.refresh(ctx); err != nil {
		return err
	}
	if p.unidentified(p.work().removes) {
		if err := p.read(ctx); err != nil {
			return err
		}
	}
	if err := p.disclaim(ctx); err != nil {
		return err
	}
	work := p.work()
	next := ahead(p.s.ledger, p.want, p.s.known, work.adds)
	for key := range next.Added {
		if _, before := p.s.ledger.Added[key]; !before {
			p.s.claimed[key] = true
		}
	}
	if err := p.e.save(ctx, p.s, next); err != nil {
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

// freshFor is how long a PATCH may build on what is known of a target. It is
// guarded by the ETag however old that is; but a refused PATCH costs a write, of
// which ARM allows fewer than reads, and scale sets change for many reasons.
const freshFor = 10 * time.Second

// refresh reads the target unless what is known of it is good enough to be
// changed. It fails with errStop if there is nothing to change.
//
// It is not while somebody else's operation runs, such as that of the leader
// before: what ARM shows then is not what will be.
//
// Without an ETag it never is either: the type of a PATCH says what the target has
// besides, and one from stale knowledge would drop a system-assigned identity
// that somebody just enabled.
func (p *pass) refresh(ctx context.Context) error {
	now := p.e.options.Now()
	k := p.s.known
	if k != nil && !k.changing && k.etag != "" && now.Before(p.s.verifyAt) && now.Before(p.s.learnt.Add(freshFor)) && (!k.answered || p.e.answers.trusted(now)) {
		if k.deleting {
			return errStop
		}
		return nil
	}
	return p.read(ctx)
}

// unsettledFor is when a target is looked at again that somebody else is
// changing: what ARM shows of it meanwhile may not come to be.
const unsettledFor = 15 * time.Second

// read gets the target from ARM. It fails with errStop if it is gone, or going.
func (p *pass) read(ctx context.Context) error {
	p.asked = true
	r, err := p.client.get(ctx, p.target)
	now := p.e.options.Now()
	if arm.IsNotFound(err) {
		p.s.known, p.gone = &resource{identities: map[string]entry{}}, true
		p.s.verifyAt = time.Time{}
		return errStop
	}
	if err != nil {
		p.s.verifyAt = time.Time{} // what was known may still hold, but look again
		return fmt.Errorf("reading %s: %w", p.target, err)
	}
	if p.doubted != nil && p.doubted.answered && p.doubted.same(r) {
		p.e.answers.distrust(now)
	}
	p.doubted = nil
	p.s.known, p.s.learnt = r, now
	interval := p.e.options.VerifyInterval
	if r.changing {
		interval = min(interval, unsettledFor)
	}
	p.s.verifyAt = now.Add(p.e.options.Jitter(interval))
	if r.deleting {
		return errStop
	}
	return nil
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
	for _, key := range slices.Sorted(maps.Keys(p.want)) {
		e, there := p.s.known.identities[key]
		if (there && !e.ghost) || !p.mayAdd(key) {
			continue
		}
		if there {
			w.ghosts = append(w.ghosts, e.id)
		}
		w.adds = append(w.adds, p.want[key])
	}
	// Those not under suspicion come first: should the target be at fault, not each
	// of them has to be tried to find out.
	slices.SortStableFunc(w.adds, func(a, b string) int {
		return p.s.suspects[resourceid.Key(a)] - p.s.suspects[resourceid.Key(b)]
	})
	if !p.prune {
		return w
	}
	for _, key := range slices.Sorted(maps.Keys(p.s.ledger.Added)) {
		if e, there := p.s.known.identities[key]; there && !p.needed[key] && !p.immutable(e) && !p.waits(key) {
			w.removes = append(w.removes, e.id)
		}
	}
	return w
}

// waits says whether ARM refused an identity on this target not long ago.
func (p *pass) waits(key string) bool {
	return p.e.options.Now().Before(p.s.failures[key].RetryAt)
}

// mayAdd says whether an identity may be tried, which is decided once a pass.
func (p *pass) mayAdd(key string) bool {
	if p.waits(key) {
		return false
	}
	ok, decided := p.admitted[key]
	if !decided {
		ok = p.e.breaker.admit(key, p.key, p.e.options.Now())
		p.admitted[key] = ok
	}
	return ok
}

func (p *pass) immutable(e entry) bool { return p.e.options.Immutable(e.id, e.clientID) }

// unidentified says whether the client ID of one of the identities is not known, by which
// it may be immutable: MIC has put it there and not read the target since.
func (p *pass) unidentified(ids []string) bool {
	return slices.ContainsFunc(ids, func(id string) bool {
		e := p.s.known.identities[resourceid.Key(id)]
		return !e.ghost && e.clientID == ""
	})
}

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

// disclaim corrects a ledger that was written ahead of a PATCH that ARM refused
// because somebody else had changed the target: what is there now although no
// PATCH of MIC's can have put it there is not MIC's.
func (p *pass) disclaim(ctx context.Context) error {
	next := p.s.ledger.clone()
	for key := range p.s.claimed {
		id, added := next.Added[key]
		if _, there := p.s.known.identities[key]; there && added {
			next.Preexisting[key] = id
			delete(next.Added, key)
		}
	}
	return p.e.save(ctx, p.s, next)
}

// settle cleans the ledger once the outcome is known: what is not there is
// nobody's, and whom nobody needs is not worth a record unless it is to be
// removed. A target that was not read, because nothing of MIC's is on it, loses
// the latter too: a ledger that stays would hold up an uninstallation for good.
//
// What a target lacks while an operation on it runs may be just what the
// operation adds, begun by a leader that is no more.
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
		if (!there && !p.s.known.changing) || (there && p.prune && !p.needed[key] && p.immutable(e)) {
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
