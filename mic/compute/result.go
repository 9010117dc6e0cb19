package compute

import "time"

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

// result says how the target stands after the pass.
func (p *pass) result() Result {
	r := Result{Gone: p.gone, Present: map[string]bool{}, Failed: map[string]Failure{}, Held: map[string]bool{}, Waiting: p.waiting}
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
	for key, f := range p.failures(now) {
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
	if p.s.hold.on(now) {
		// Nothing is asked before, whatever else fell due.
		r.RetryAfter = max(p.s.hold.until.Sub(now), leastWait)
	}
	return r
}

// failures are the refused identities: of this target, and of all.
func (p *pass) failures(now time.Time) map[string]Failure {
	all := map[string]Failure{}
	for key, f := range p.s.failures {
		all[key] = f
	}
	for key := range p.want {
		if p.s.known != nil {
			if e, there := p.s.known.identities[key]; there && !e.ghost {
				continue
			}
		}
		if f, open := p.e.breaker.look(key, p.key, now); open {
			all[key] = f
		}
	}
	for key, f := range all {
		f.Fresh = p.fresh[key]
		all[key] = f
	}
	return all
}
