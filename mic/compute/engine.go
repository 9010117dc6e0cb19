package compute

import (
	"context"
	"fmt"
	"maps"
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
	// Backoff of an identity that ARM refuses.
	Backoff Backoff
	// Immutable says that an identity must never be removed from a target. It may
	// be called at any time and from several goroutines.
	Immutable func(resourceID, clientID string) bool
	// Now is the clock; Jitter spreads a duration. Both have defaults.
	Now    func() time.Time
	Jitter func(time.Duration) time.Duration
}

// Engine keeps the identities of all targets. Its methods are safe for
// concurrent use; calls for one target are carried out one after another.
type Engine struct {
	store   LedgerStore
	client  atomic.Pointer[Client]
	options Options

	mu      sync.Mutex
	targets map[string]*state // by Compute.Key
}

// state is what is known of a target.
type state struct {
	target resourceid.Compute

	mu sync.Mutex
	// ledger as last written; nil means that it has to be read.
	ledger *Ledger
	// known is the target as ARM last described it; nil means that it has to be
	// read.
	known *resource
	// verifyAt is when known is too old.
	verifyAt time.Time
	// failures by resourceid.Key, of identities that ARM refused.
	failures map[string]Failure
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
	// Present are the identities on it.
	Present map[string]bool
	// Failed are those that ARM refused to add or remove.
	Failed map[string]Failure
	// Held are the identities that MIC added, that nobody needs and that may
	// still be there.
	Held map[string]bool
	// Unsure: writing the ledger failed, so Held is not complete.
	Unsure bool
	// RetryAfter is when to reconcile again although nothing changes.
	RetryAfter time.Duration
}

// NewEngine returns an Engine that calls Azure through client.
func NewEngine(store LedgerStore, client *Client, options Options) *Engine {
	if options.Now == nil {
		options.Now = time.Now
	}
	if options.Jitter == nil {
		options.Jitter = jitter
	}
	if options.Immutable == nil {
		options.Immutable = func(string, string) bool { return false }
	}
	e := &Engine{store: store, options: options, targets: map[string]*state{}}
	e.client.Store(client)
	return e
}

// SetClient replaces the client, after a change of the cloud configuration.
// What is under way ends with the old one.
func (e *Engine) SetClient(c *Client) { e.client.Store(c) }

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
	e.mu.Lock()
	defer e.mu.Unlock()
	e.targets = map[string]*state{}
	for _, l := range ledgers {
		e.targets[l.Target.Key()] = &state{target: l.Target, ledger: l, failures: map[string]Failure{}}
	}
	return damaged, nil
}

// Adopt records that MIC added identities to a target: those that the release
// before this one assigned, which kept no ledger. What the ledger knows stays.
func (e *Engine) Adopt(ctx context.Context, target resourceid.Compute, ids []string) error {
	s := e.state(target)
	s.mu.Lock()
	defer s.mu.Unlock()
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
	return e.save(ctx, s, next)
}

// Targets returns the targets that have a ledger, or may have one, so on which
// MIC has something to look after.
func (e *Engine) Targets() []resourceid.Compute {
	e.mu.Lock()
	states := maps.Clone(e.targets)
	e.mu.Unlock()
	var targets []resourceid.Compute
	for _, s := range states {
		s.mu.Lock()
		if s.ledger == nil || !s.ledger.empty() {
			targets = append(targets, s.target)
		}
		s.mu.Unlock()
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

// Owned returns the identities that MIC added to a target, by resourceid.Key.
// The error says that the ledger is not known, so nobody may conclude that there
// are none.
func (e *Engine) Owned(ctx context.Context, target resourceid.Compute) (map[string]string, error) {
	s := e.state(target)
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := e.readLedger(ctx, s, target); err != nil {
		return nil, err
	}
	return maps.Clone(s.ledger.Added), nil
}

// state returns the state of a target. A target without a ledger in Load has
// none in the cluster.
func (e *Engine) state(target resourceid.Compute) *state {
	e.mu.Lock()
	defer e.mu.Unlock()
	key := target.Key()
	s, ok := e.targets[key]
	if !ok {
		target.Instance = ""
		s = &state{target: target, ledger: newLedger(target), failures: map[string]Failure{}}
		e.targets[key] = s
	}
	return s
}

// Reconcile brings a target in line with the request as far as it can. The
// error concerns the target as a whole, such as throttling or a missing
// permission; the result holds in that case too. Refused identities are in the
// result.
func (e *Engine) Reconcile(ctx context.Context, request Request) (Result, error) {
	s := e.state(request.Target)
	s.mu.Lock()
	defer s.mu.Unlock()
	p := newPass(e, s, request)
	err := p.run(ctx)
	return p.result(), err
}

// save writes a ledger if it changed. After a failure it is not known what is
// stored, so it is read again before the next step.
func (e *Engine) save(ctx context.Context, s *state, next *Ledger) error {
	if s.ledger.equal(next) {
		return nil
	}
	if err := e.store.Save(ctx, next); err != nil {
		s.ledger = nil
		return err
	}
	s.ledger = next
	return nil
}

// readLedger makes sure that the ledger is known.
func (e *Engine) readLedger(ctx context.Context, s *state, target resourceid.Compute) error {
	if s.ledger != nil {
		return nil
	}
	l, err := e.store.Read(ctx, target)
	if err != nil {
		return fmt.Errorf("after a failed write: %w", err)
	}
	s.ledger = l
	return nil
}
