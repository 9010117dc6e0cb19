package compute

import "time"

// standing is what the last pass found on a target. It is for those who cannot wait for
// the pass that is under way, so it may be as old as a PATCH takes.
type standing struct {
	present map[string]bool
	// until is when it is too old to go by.
	until time.Time
}

// Has says whether an identity, by its resourceid.Key, is on a target, by its key. It
// asks nobody, and false also means that this is not known. A pass under way may be
// about to take the identity off.
func (e *Engine) Has(target, identity string) bool {
	e.mu.Lock()
	s := e.targets[target]
	e.mu.Unlock()
	if s == nil {
		return false
	}
	found := s.standing.Load()
	return found != nil && e.options.Now().Before(found.until) && found.present[identity]
}

// found records how a pass ended.
func (s *state) found(r Result, err error) {
	if err != nil || r.Gone || r.Deleting {
		s.standing.Store(nil)
		return
	}
	s.standing.Store(&standing{present: r.Present, until: s.verifyAt})
}
