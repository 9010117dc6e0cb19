package azure

import (
	"fmt"
	"time"
)

// change runs f on the registry and stores the outcome.
func (e *Emulator) change(f func(*registry) error) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.reg.settle(time.Now())
	err := f(e.reg)
	e.save()
	return err
}

// PutCompute creates or replaces a VM or scale set and returns it with everything filled in.
func (e *Emulator) PutCompute(c Compute) (Compute, error) {
	var stored Compute
	err := e.change(func(r *registry) (err error) {
		stored, err = r.putCompute(c)
		return err
	})
	return stored, err
}

// Compute returns a VM or scale set as ARM has it now.
func (e *Emulator) Compute(id string) (Compute, error) {
	var found Compute
	err := e.change(func(r *registry) error {
		c, ok := r.compute[key(id)]
		if !ok {
			return fmt.Errorf("no VM or scale set %q", id)
		}
		found = c.clone()
		return nil
	})
	return found, err
}

// DeleteCompute removes a VM or scale set. Its resource group stays.
func (e *Emulator) DeleteCompute(id string) error {
	return e.change(func(r *registry) error {
		if _, ok := r.compute[key(id)]; !ok {
			return fmt.Errorf("no VM or scale set %q", id)
		}
		delete(r.compute, key(id))
		return nil
	})
}

// SetProvisioningState puts a VM or scale set into a state such as Deleting.
func (e *Emulator) SetProvisioningState(id, state string) error {
	return e.change(func(r *registry) error {
		c, ok := r.compute[key(id)]
		if !ok {
			return fmt.Errorf("no VM or scale set %q", id)
		}
		c.ProvisioningState = state
		c.Version++
		return nil
	})
}

// PutIdentity creates or replaces a user-assigned identity. A replacement with other IDs leaves ghosts where the old one is assigned.
func (e *Emulator) PutIdentity(i Identity) (Identity, error) {
	var stored Identity
	err := e.change(func(r *registry) (err error) {
		stored, err = r.putIdentity(i, e.tenant)
		return err
	})
	return stored, err
}

// DeleteIdentity removes a user-assigned identity and the roles on it. What it is assigned to keeps a ghost entry.
func (e *Emulator) DeleteIdentity(id string) error {
	return e.change(func(r *registry) error { return r.deleteIdentity(id) })
}

// PutApp creates or replaces an application and returns it with client and object ID.
func (e *Emulator) PutApp(a App) (App, error) {
	var stored App
	err := e.change(func(r *registry) (err error) {
		stored, err = r.putApp(a, e.tenant)
		return err
	})
	return stored, err
}

// DeleteApp removes an application. Tokens that it has stay valid until they expire.
func (e *Emulator) DeleteApp(clientID string) error {
	return e.change(func(r *registry) error {
		if _, ok := r.apps[key(clientID)]; !ok {
			return fmt.Errorf("no app %q", clientID)
		}
		delete(r.apps, key(clientID))
		return nil
	})
}

// Grant assigns a role. It takes effect at once.
func (e *Emulator) Grant(role Role) error {
	return e.change(func(r *registry) error { return r.grant(role) })
}

// Revoke removes exactly this assignment; one that is not there is no error.
func (e *Emulator) Revoke(role Role) error {
	return e.change(func(r *registry) error { r.revoke(role); return nil })
}

// CompleteOperations ends all running operations now and returns how many there were.
func (e *Emulator) CompleteOperations() int {
	n := 0
	// The function reports no error, so neither does change.
	_ = e.change(func(r *registry) error {
		for _, op := range r.operations {
			if op.Status == statusInProgress {
				op.EndTime = time.Now()
				r.finish(op)
				n++
			}
		}
		return nil
	})
	return n
}

// State dumps the registry.
func (e *Emulator) State() State {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.reg.settle(time.Now())
	return e.reg.dump()
}

// Settings returns the present settings.
func (e *Emulator) Settings() Settings {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.settings
}

// SetSettings replaces the settings. Token buckets start full again.
func (e *Emulator) SetSettings(s Settings) error {
	if err := s.validate(); err != nil {
		return fmt.Errorf("settings: %w", err)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.settings = s
	e.buckets = newBuckets()
	return nil
}

// AddFault adds a fault behind those already there and returns it with its ID.
func (e *Emulator) AddFault(f Fault) (Fault, error) { return e.faults.add(f) }

// RemoveFault removes a fault, or all of them for an empty ID. It reports whether there was one.
func (e *Emulator) RemoveFault(id string) bool { return e.faults.remove(id) }

// Faults lists the faults that are not used up.
func (e *Emulator) Faults() []Fault { return e.faults.dump() }

// Calls lists the recorded calls, oldest first. A call is recorded when it was answered.
func (e *Emulator) Calls(f CallFilter) []Call { return e.calls.list(f) }

// ClearCalls forgets the recorded calls.
func (e *Emulator) ClearCalls() { e.calls.clear() }

// Reset goes back to seed and initial settings, without faults and calls. Tenant, CA and keys stay.
func (e *Emulator) Reset() error {
	e.faults.remove("")
	e.calls.clear()
	e.mu.Lock()
	defer e.mu.Unlock()
	e.reg = newRegistry()
	e.settings = e.options.Settings
	e.buckets = newBuckets()
	return e.seed(e.options.Seed)
}

// Healthy returns the first reason why the emulator cannot be relied on, nil if there is none.
func (e *Emulator) Healthy() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.saveErr
}
