package controller

import "sync"

// departures are the identities that passes under way may take off their targets. They
// let the pod controller say at once that a pod has an identity which is on its VM
// already, without waiting for a pass.
//
// A pass first says that it has begun, and only then reads the caches. So whoever has
// read a pod from the caches, and sees no pass that takes its identity off, may rely
// on all later ones knowing of the pod. The zero value is ready.
type departures struct {
	mu sync.Mutex
	// going has the passes by key of their targets; nil: it is not decided yet.
	going map[string]map[string]bool
}

// begin says that a pass of a target reads what it will go by.
func (d *departures) begin(target string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.going == nil {
		d.going = map[string]map[string]bool{}
	}
	d.going[target] = nil
}

// decided says what the pass takes off: identities by resourceid.Key.
func (d *departures) decided(target string, going map[string]bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.going[target] = going
}

// end says that the pass has ended.
func (d *departures) end(target string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.going, target)
}

// stays says that no pass under way takes an identity off a target.
func (d *departures) stays(target, identity string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	going, underway := d.going[target]
	return !underway || (going != nil && !going[identity])
}
