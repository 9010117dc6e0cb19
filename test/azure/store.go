package azure

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// Files of the state directory. ca.pem is for clients; keys.pem and state.json are the emulator's own.
const (
	caFile    = "ca.pem"
	keysFile  = "keys.pem"
	stateFile = "state.json"
)

type stored struct {
	TenantID string `json:"tenantID"`
	State
}

// load reads the state directory, or makes new keys. It runs before anything else uses the emulator.
func (e *Emulator) load() error {
	dir := e.options.StateDir
	if dir == "" {
		var err error
		e.keys, err = newKeys()
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("creating the state directory: %w", err)
	}
	data, err := os.ReadFile(filepath.Join(dir, keysFile))
	switch {
	case errors.Is(err, os.ErrNotExist):
		if e.keys, err = newKeys(); err != nil {
			return err
		}
		if data, err = e.keys.encode(); err != nil {
			return err
		}
		if err := writeFile(filepath.Join(dir, keysFile), data, 0o600); err != nil {
			return err
		}
	case err != nil:
		return fmt.Errorf("reading the keys: %w", err)
	default:
		if e.keys, err = decodeKeys(data); err != nil {
			return fmt.Errorf("%s: %w", filepath.Join(dir, keysFile), err)
		}
	}
	if err := writeFile(filepath.Join(dir, caFile), e.keys.caPEM(), 0o644); err != nil {
		return err
	}
	return e.loadState(filepath.Join(dir, stateFile))
}

func (e *Emulator) loadState(path string) error {
	data, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	} else if err != nil {
		return fmt.Errorf("reading the state: %w", err)
	}
	var s stored
	if err := json.Unmarshal(data, &s); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	if e.tenant != "" && e.tenant != s.TenantID {
		return fmt.Errorf("%s belongs to tenant %s, not %s: use another state directory or remove it", path, s.TenantID, e.tenant)
	}
	e.tenant = s.TenantID
	if err := e.reg.restore(s.State, s.TenantID); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}

// restore fills the registry from a dump, which has every field that put would make up.
func (r *registry) restore(s State, tenant string) error {
	for _, i := range s.Identities {
		if _, err := r.putIdentity(i, tenant); err != nil {
			return err
		}
	}
	for _, c := range s.Compute {
		stored, err := r.putCompute(c)
		if err != nil {
			return err
		}
		stored.Version, stored.UserAssigned = c.Version, c.UserAssigned
		r.compute[key(c.ID)] = &stored
	}
	for _, a := range s.Apps {
		if _, err := r.putApp(a, tenant); err != nil {
			return err
		}
	}
	for _, role := range s.Roles {
		if err := r.grant(role); err != nil {
			return err
		}
	}
	for _, op := range s.Operations {
		r.operations[op.ID] = &op
	}
	return r.putGroups(s.Groups)
}

// seed adds what the registry does not have yet. Apps are found by client ID or, without one, by name.
func (e *Emulator) seed(s State) error {
	for _, i := range s.Identities {
		if _, ok := e.reg.identities[key(i.ID)]; ok {
			continue
		}
		if _, err := e.reg.putIdentity(i, e.tenant); err != nil {
			return err
		}
	}
	for _, c := range s.Compute {
		if _, ok := e.reg.compute[key(c.ID)]; ok {
			continue
		}
		if _, err := e.reg.putCompute(c); err != nil {
			return err
		}
	}
	for _, a := range s.Apps {
		if e.reg.hasApp(a) {
			continue
		}
		if _, err := e.reg.putApp(a, e.tenant); err != nil {
			return err
		}
	}
	for _, role := range s.Roles {
		if err := e.reg.grant(role); err != nil {
			return err
		}
	}
	if err := e.reg.putGroups(s.Groups); err != nil {
		return err
	}
	e.save()
	return nil
}

func (r *registry) hasApp(wanted App) bool {
	if wanted.ClientID != "" {
		_, ok := r.apps[key(wanted.ClientID)]
		return ok
	}
	for _, a := range r.apps {
		if wanted.Name != "" && a.Name == wanted.Name {
			return true
		}
	}
	return false
}

// save writes the registry. The caller holds mu, or is alone. A failure is kept for healthz: a request
// that Azure has carried out cannot be answered with "disk full".
func (e *Emulator) save() {
	if e.options.StateDir == "" {
		return
	}
	data, err := json.MarshalIndent(stored{TenantID: e.tenant, State: e.reg.dump()}, "", "  ")
	if err == nil {
		err = writeFile(filepath.Join(e.options.StateDir, stateFile), data, 0o600)
	}
	e.saveErr = err
}

// writeFile replaces a file in one step, so that a killed emulator leaves the old or the new one.
func writeFile(path string, data []byte, mode os.FileMode) error {
	temporary := path + ".new"
	if err := os.WriteFile(temporary, data, mode); err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	if err := os.Rename(temporary, path); err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	return nil
}
