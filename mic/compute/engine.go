package compute

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/aad-pod-identity/aad-pod-identity/internal/resourceid"
)

// Options tune an Engine.
type Options struct {
	// VerifyInterval is how often a target is read although nothing changed, to
	// repair what was changed behind MIC's back.
	VerifyInterval time.Duration
	// LeaseDuration is that of the leader's lease, 15 s by default. Its holder renews
	// it for at most half of it.
	LeaseDuration time.Duration
	// Backoff of an identity that ARM refuses.
	Backoff Backoff
	// Immutable says that an identity must never be removed from a target. It may
	// be called at any time and from several goroutines.
	Immutable func(resourceID, clientID string) bool
	// Now is the clock. Jitter varies a duration a little, Spread returns a random
	// part of one. All have defaults.
	Now            func() time.Time
	Jitter, Spread func(time.Duration) time.Duration
}

// Engine keeps the identities of all targets. Its methods are safe for
// concurrent use; calls for one target are carried out one after another.
type Engine struct {
	store   LedgerStore
	client  atomic.Pointer[Client]
	options Options
	breaker *breaker
	answers answers

	mu      sync.Mutex
	targets map[string]*state // by Compute.Key
	// notify is told of targets that should be reconciled now.
	notify func(resourceid.Compute)
	// generation counts the clients: what an earlier one was refused may work now.
	generation int
}

// state is what is known of a target.
type state struct {
	target resourceid.Compute
	// users are those who work with the state or wait for it; under Engine.mu.
	users int
	// tracked: it has a ledger, or may have one. Readable without mu, which is held
	// as long as a PATCH takes.
	tracked atomic.Bool
	// version is the ledger's resourceVersion as last known; readable without mu.
	version atomic.Pointer[string]
	// standing is the outcome of the last pass; nil means that it is not known.
	// Readable without mu.
	standing atomic.Pointer[standing]

	mu sync.Mutex
	// ledger as last written; nil means that it has to be read.
	ledger *Ledger
	// confirmed is when the API server last said that it is the stored one.
	confirmed time.Time
	// known is the target as ARM last described it; nil means that it has to be
	// read.
	known *resource
	// learnt is when ARM described it, verifyAt when that is too old.
	learnt, verifyAt time.Time
	// failures by resourceid.Key, of identities that ARM refused on this target
	// alone.
	failures map[string]Failure
	// claimed are those that the ledger, written ahead, calls added although no PATCH
	// that may have had an effect has carried them.
	claimed map[string]bool
	// suspects counts refusals of which an identity, by resourceid.Key, may be the
	// reason or the target itself.
	suspects map[string]int
	hold     hold
	// idle: there is nothing of MIC's on the target and nothing is wanted.
	idle       bool
	generation int
}

func newState(target resourceid.Compute, l *Ledger) *state {
	target.Instance = ""
	s := &state{target: target, failures: map[string]Failure{}, claimed: map[string]bool{}, suspects: map[string]int{}}
	s.know(l, time.Time{}) // not confirmed: it may be from a list of long ago
	return s
}

// Request is everything that shall hold on a target.
type Request struct {
	Target resourceid.Compute
	// Want are the resource IDs of the identities that must be there, in any
	// spelling and order.
	Want []string
	// Keep are identities that are not to be added, and not to be removed either.
	Keep []string
	// Prune allows removals. It must be set only if Want and Keep are complete.
	Prune bool
}

// Result is how a target stands. Identities are named by resourceid.Key.
type Result struct {
	// Gone: the VM or scale set does not exist, so nothing is assigned to it.
	Gone bool
	// Deleting: it is being deleted and takes no changes.
	Deleting bool
	// Present are the identities on it. Nobody may change the map.
	Present map[string]bool
	// Failed are those that ARM refused to add or remove.
	Failed map[string]Failure
	// Held are the identities that MIC added, that nobody needs and that may
	// still be there.
	Held map[string]bool
	// Unsure: writing the ledger failed, so Held is not complete.
	Unsure bool
	// Waiting: the error is that of an earlier pass. Azure was not asked again,
	// because it is not time yet.
	Waiting bool
	// RetryAfter is when to reconcile again although nothing changes; 0 is never.
	// After an error it is the time that Azure is to be left alone, already spread,
	// or 0 if it is not Azure's error.
	RetryAfter time.Duration
}

// NewEngine returns an Engine that calls Azure through client.
func NewEngine(store LedgerStore, client *Client, options Options) *Engine {
	if options.Now == nil {
		options.Now = time.Now
	}
	if options.LeaseDuration == 0 {
		options.LeaseDuration = 15 * time.Second
	}
	if options.Jitter == nil {
		options.Jitter = jitter
	}
	if options.Spread == nil {
		options.Spread = upTo
	}
	if options.Immutable == nil {
		options.Immutable = func(string, string) bool { return false }
	}
	e := &Engine{
		store: store, options: options, targets: map[string]*state{},
		breaker: newBreaker(options.Backoff, options.Jitter), notify: func(resourceid.Compute) {},
	}
	e.client.Store(client)
	return e
}

// OnRecovery sets whom to tell of targets that should be reconciled now although
// nothing changed in the cluster: an identity that they wait for works again, the
// credential changed, or somebody else wrote the ledger.
func (e *Engine) OnRecovery(notify func(resourceid.Compute)) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.notify = notify
}

// SetClient replaces the client, after a change of the cloud configuration.
// What is under way ends with the old one; what the old one was refused is
// tried again.
func (e *Engine) SetClient(c *Client) {
	e.client.Store(c)
	e.breaker.reset()
	e.mu.Lock()
	e.generation++
	keys := slices.Collect(maps.Keys(e.targets))
	e.mu.Unlock()
	e.wake(keys)
}

// wake tells of targets by their keys.
func (e *Engine) wake(keys []string) {
	var targets []resourceid.Compute
	e.mu.Lock()
	notify := e.notify
	for _, key := range keys {
		if s, ok := e.targets[key]; ok {
			targets = append(targets, s.target)
		}
	}
	e.mu.Unlock()
	for _, t := range targets {
		notify(t)
	}
}

// Refused is how many identities ARM refuses on whatever target.
func (e *Engine) Refused() int { return e.breaker.count() }

// Load reads the ledgers. It must be called once, on becoming leader and before
// Reconcile: another leader may have written them since.
//
// Damaged ledgers are returned. Their targets fail until the ledger is repaired
// or deleted; the others do not suffer.
func (e *Engine) Load(ctx context.Context) (damaged []error, err error) {
	ledgers, damaged, err := e.store.Load(ctx)
	if err != nil {
		return nil, err
	}
	e.breaker.reset()
	e.mu.Lock()
	defer e.mu.Unlock()
	e.targets = map[string]*state{}
	for _, l := range ledgers {
		e.targets[l.Target.Key()] = newState(l.Target, l)
	}
	return damaged, nil
}

// Adopt records that MIC added identities to a target: those that the release
// before this one assigned, which kept no ledger. What the ledger knows stays.
func (e *Engine) Adopt(ctx context.Context, target resourceid.Compute, ids []string) error {
	s, release := e.acquire(target)
	defer release()
	if err := e.readLedger(ctx, s, target); err != nil {
		return err
	}
	next := s.ledger.clone()
	for _, id := range ids {
		key := resourceid.Key(id)
		if _, known := next.Preexisting[key]; !known {
			next.Added[key] = id
		}
	}
	s.idle = false
	return e.save(ctx, s, next)
}

// Targets returns the targets that have a ledger, or may have one, so on which
// MIC has something to look after.
func (e *Engine) Targets() []resourceid.Compute {
	e.mu.Lock()
	defer e.mu.Unlock()
	var targets []resourceid.Compute
	for _, s := range e.targets {
		if s.tracked.Load() {
			targets = append(targets, s.target)
		}
	}
	return targets
}

// Target returns the target with a key, if the engine has one.
func (e *Engine) Target(key string) (resourceid.Compute, bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	s, ok := e.targets[key]
	if !ok {
		return resourceid.Compute{}, false
	}
	return s.target, true
}

// Ledger returns what is recorded of a target, by resourceid.Key: the identities that
// MIC added to it, and those that were there before. The error says that the ledger
// is not known, so nobody may conclude that there are none.
func (e *Engine) Ledger(ctx context.Context, target resourceid.Compute) (added, preexisting map[string]string, err error) {
	s, release := e.acquire(target)
	defer release()
	if err := e.readLedger(ctx, s, target); err != nil {
		return nil, nil, err
	}
	return maps.Clone(s.ledger.Added), maps.Clone(s.ledger.Preexisting), nil
}

// acquire locks the state of a target. A target without a ledger in Load has
// none in the cluster. Release forgets the target again if there is nothing to
// remember of it, since VMs come and go.
func (e *Engine) acquire(target resourceid.Compute) (s *state, release func()) {
	key := target.Key()
	e.mu.Lock()
	s, ok := e.targets[key]
	if !ok {
		s = newState(target, newLedger(target))
		e.targets[key] = s
	}
	s.users++
	generation := e.generation
	e.mu.Unlock()

	s.mu.Lock()
	if s.generation != generation {
		s.generation, s.hold, s.failures, s.suspects = generation, hold{}, map[string]Failure{}, map[string]int{}
	}
	return s, func() {
		forget := s.idle && s.ledger != nil && s.ledger.empty()
		s.mu.Unlock()
		e.mu.Lock()
		defer e.mu.Unlock()
		if s.users--; forget && s.users == 0 && e.targets[key] == s {
			delete(e.targets, key)
		}
	}
}

// Reconcile brings a target in line with the request as far as it can. The
// error concerns the target as a whole, such as throttling or a missing
// permission; the result holds in that case too. Refused identities are in the
// result.
func (e *Engine) Reconcile(ctx context.Context, request Request) (Result, error) {
	s, release := e.acquire(request.Target)
	defer release()
	p := newPass(e, s, request)
	err := p.run(ctx)
	result := p.result()
	s.found(result, err)
	if err != nil && !s.hold.on(e.options.Now()) {
		result.RetryAfter = 0
	}
	return result, err
}

// ledgerError says that the API server could not be asked or told about a
// ledger, which is not Azure's failure.
type ledgerError struct{ error }

func (e ledgerError) Unwrap() error { return e.error }

// save writes a ledger if it changed. After a failure it is not known what is
// stored, so it is read again before the next step.
func (e *Engine) save(ctx context.Context, s *state, next *Ledger) error {
	if s.ledger.equal(next) {
		return nil
	}
	asked := e.options.Now()
	if err := e.store.Save(ctx, next); err != nil {
		s.ledger = nil
		s.tracked.Store(true)
		return ledgerError{err}
	}
	s.know(next, asked)
	return nil
}

// readLedger makes sure that the ledger is known.
func (e *Engine) readLedger(ctx context.Context, s *state, target resourceid.Compute) error {
	if s.ledger != nil {
		return nil
	}
	asked := e.options.Now()
	l, err := e.store.Read(ctx, target)
	if err != nil {
		return ledgerError{fmt.Errorf("after a failed write: %w", err)}
	}
	s.know(l, asked)
	return nil
}
