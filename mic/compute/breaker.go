package compute

import (
	"maps"
	"slices"
	"sync"
	"time"
)

// breaker remembers the identities that ARM refuses, over all targets. An
// identity that does not exist, or that MIC may not assign, is refused by every
// scale set alike: once one has, the others do not ask. When its backoff is over
// one target tries it, and the others follow at once if that succeeds.
//
// A refusal that does not name the identity may be the doing of the target. It
// counts for all targets only when a second one has had the same.
type breaker struct {
	backoff Backoff
	jitter  func(time.Duration) time.Duration

	mu    sync.Mutex
	known map[string]*refused // by resourceid.Key
}

type refused struct {
	Failure
	// on are the targets that ARM refused it on, since the last success.
	on map[string]bool
	// open: no target tries it, but for the one that probes.
	open bool
	// waiting are the targets that need it and were told to wait.
	waiting map[string]bool
	// probe is the target that tries it, until when.
	probe      string
	probeUntil time.Time
}

func newBreaker(b Backoff, jitter func(time.Duration) time.Duration) *breaker {
	return &breaker{backoff: b, jitter: jitter, known: map[string]*refused{}}
}

// probeTime is how long a target that tries an identity is waited for, should it
// never tell the outcome.
const probeTime = time.Minute

// admit says whether a target may try an identity now. If not, look says why.
func (b *breaker) admit(key, target string, now time.Time) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	r, ok := b.known[key]
	switch {
	case !ok || !r.open:
		return true
	case now.Before(r.RetryAt), r.probe != "" && r.probe != target && now.Before(r.probeUntil):
		r.waiting[target] = true
		return false
	}
	r.probe, r.probeUntil = target, now.Add(probeTime)
	return true
}

// look says how an identity stands: if no target tries it, why, and RetryAt is when to
// ask again.
func (b *breaker) look(key, target string, now time.Time) (Failure, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	r, ok := b.known[key]
	if !ok || !r.open {
		return Failure{}, false
	}
	f := r.Failure
	if r.probe != "" && r.probe != target && !now.Before(r.RetryAt) && now.Before(r.probeUntil) {
		f.RetryAt = r.probeUntil
	}
	return f, true
}

// refuse records a refusal. Named says that ARM itself blamed the identity.
func (b *breaker) refuse(key, target string, f Failure, named bool, now time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	r, ok := b.known[key]
	if !ok {
		r = &refused{on: map[string]bool{}, waiting: map[string]bool{}}
		b.known[key] = r
	}
	r.on[target] = true
	r.probe = ""
	if !r.open && !named && len(r.on) < 2 {
		return
	}
	r.open = true
	f.Attempts = r.Attempts + 1
	f.RetryAt = now.Add(b.jitter(b.backoff.after(f.Attempts)))
	f.Fresh = false
	r.Failure = f
	r.waiting[target] = true
}

// succeed forgets an identity that ARM took and returns the other targets that
// wait for it.
func (b *breaker) succeed(key, target string) []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	r, ok := b.known[key]
	if !ok {
		return nil
	}
	delete(b.known, key)
	delete(r.waiting, target)
	return slices.Sorted(maps.Keys(r.waiting))
}

// giveUp ends the probes of a target that did not learn the outcome, so that
// another may try.
func (b *breaker) giveUp(target string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, r := range b.known {
		if r.probe == target {
			r.probe = ""
		}
	}
}

// forget drops the interest of a target in all identities but those it needs. An
// identity in which nobody is interested is forgotten, so that it is tried at
// once when it is needed again.
func (b *breaker) forget(target string, needed map[string]bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for key, r := range b.known {
		if needed[key] {
			continue
		}
		delete(r.waiting, target)
		delete(r.on, target)
		if r.probe == target {
			r.probe = ""
		}
		if len(r.waiting)+len(r.on) == 0 {
			delete(b.known, key)
		}
	}
}

// reset forgets everything, after a change of the credential, say.
func (b *breaker) reset() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.known = map[string]*refused{}
}

// count is how many identities no target may try.
func (b *breaker) count() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	n := 0
	for _, r := range b.known {
		if r.open {
			n++
		}
	}
	return n
}
