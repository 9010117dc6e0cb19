package cluster

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// APIServer is the name of the API server for Signal.
const APIServer = apiServerName

// Signal sends a signal to a component, or to a program of EnsureProgram: SIGSTOP and
// SIGCONT make an outage in which connections hang.
func (c *Cluster) Signal(name string, signal os.Signal) error {
	p, _, ok := c.running(name)
	if !ok {
		return fmt.Errorf("%s does not run", name)
	}
	return p.signal(signal)
}

// SignalPod sends a signal to the processes of a program in a pod, named by its UID, and
// returns their numbers.
func (c *Cluster) SignalPod(uid, program string, signal os.Signal) ([]int, error) {
	all, err := processes()
	if err != nil {
		return nil, err
	}
	var pids []int
	var errs []error
	for _, p := range all {
		if inCgroup(p.cgroups, cgroupName) && strings.Contains(p.cgroups, "pod"+uid) && len(p.args) > 0 && filepath.Base(p.args[0]) == program {
			pids = append(pids, p.pid)
			errs = append(errs, p.signal(signal))
		}
	}
	if len(pids) == 0 {
		return nil, fmt.Errorf("no process %s runs in pod %s", program, uid)
	}
	return pids, errors.Join(errs...)
}

// Runs says whether a process is there.
func (*Cluster) Runs(pid int) bool {
	_, ok := inspect(pid)
	return ok
}

func (p processInfo) signal(signal os.Signal) error {
	handle, err := os.FindProcess(p.pid)
	if err != nil {
		return fmt.Errorf("process %d: %w", p.pid, err)
	}
	defer func() { _ = handle.Release() }()
	if err := handle.Signal(signal); err != nil {
		return fmt.Errorf("signalling %s: %w", p, err)
	}
	return nil
}
