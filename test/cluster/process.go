package cluster

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// pollInterval is how often states are looked at that nothing announces.
const pollInterval = 50 * time.Millisecond

// process is a program that Up keeps running.
type process struct {
	name string
	exe  string
	args []string
	env  []string
	// inputs are files that the program reads once at its start; a change of one restarts it.
	inputs []string
	// built says that exe is built anew from the tree each time.
	built bool
}

// pidRecord is the content of a pid file: enough to recognise the process for certain,
// so that a pid the kernel gave to somebody else meanwhile is never signalled.
type pidRecord struct {
	PID        int    `json:"pid"`
	StartTicks uint64 `json:"startTicks"`
	BootID     string `json:"bootID"`
	Exe        string `json:"exe"`
	// Fingerprint covers arguments, environment, inputs and the program itself.
	Fingerprint string `json:"fingerprint"`
}

// matches reports whether the running process is the recorded one.
func (r pidRecord) matches(p processInfo, boot string) bool {
	return r.PID == p.pid && r.BootID == boot && r.StartTicks == p.stat.startTicks && r.Exe == p.exe
}

func readPID(path string) (pidRecord, error) {
	var r pidRecord
	data, err := os.ReadFile(path)
	if err != nil {
		return r, err
	}
	if err := json.Unmarshal(data, &r); err != nil {
		return r, fmt.Errorf("reading %s: %w", path, err)
	}
	return r, nil
}

// fingerprint changes whenever the process would behave differently if started anew.
func (p process) fingerprint() (string, error) {
	h := sha256.New()
	fmt.Fprintf(h, "%q %q %q\n", p.exe, p.args, p.env)
	inputs := p.inputs
	if p.built {
		// The go tool touches a binary that is up to date, so only its content tells.
		inputs = append(slices.Clone(inputs), p.exe)
	} else {
		info, err := os.Stat(p.exe)
		if err != nil {
			return "", fmt.Errorf("looking at %s: %w", p.exe, err)
		}
		fmt.Fprintf(h, "%d %d\n", info.Size(), info.ModTime().UnixNano())
	}
	for _, path := range inputs {
		data, err := os.ReadFile(path)
		if err != nil {
			return "", fmt.Errorf("reading an input of %s: %w", p.name, err)
		}
		fmt.Fprintf(h, "%s %x\n", path, sha256.Sum256(data))
	}
	return hex.EncodeToString(h.Sum(nil))[:16], nil
}

// running returns the recorded process of a component if it still runs.
func (c *Cluster) running(component string) (processInfo, pidRecord, bool) {
	r, err := readPID(c.paths.pid(component))
	if err != nil {
		return processInfo{}, r, false
	}
	boot, err := bootID()
	if err != nil {
		return processInfo{}, r, false
	}
	p, ok := inspect(r.PID)
	if !ok || !r.matches(p, boot) {
		return processInfo{}, r, false
	}
	return p, r, true
}

// ensure starts a process unless it runs as it should; started tells which.
func (c *Cluster) ensure(ctx context.Context, p process) (started bool, err error) {
	exe, err := filepath.EvalSymlinks(p.exe)
	if err != nil {
		return false, fmt.Errorf("starting %s: %w", p.name, err)
	}
	p.exe = exe
	want, err := p.fingerprint()
	if err != nil {
		return false, err
	}
	if info, record, ok := c.running(p.name); ok {
		if record.Fingerprint == want {
			return false, nil
		}
		if err := terminate(ctx, info, stopGrace); err != nil {
			return false, fmt.Errorf("restarting %s: %w", p.name, err)
		}
	}
	// A crash between the start of a process and the writing of its pid file leaves one that no file names.
	if err := c.killStray(ctx, p.exe); err != nil {
		return false, err
	}
	return true, c.start(p, want)
}

func (c *Cluster) killStray(ctx context.Context, exe string) error {
	all, err := processes()
	if err != nil {
		return err
	}
	for _, info := range all {
		if info.exe == exe && !inCgroup(info.cgroups, cgroupName) && c.owns(info) {
			if err := terminate(ctx, info, stopGrace); err != nil {
				return fmt.Errorf("stopping a stray %s: %w", exe, err)
			}
		}
	}
	return nil
}

// start runs p detached from this process and its terminal.
func (c *Cluster) start(p process, fingerprint string) error {
	log, err := os.OpenFile(c.paths.log(p.name), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return fmt.Errorf("opening the log of %s: %w", p.name, err)
	}
	defer func() { _ = log.Close() }()
	cmd := exec.Command(p.exe, p.args...) //nolint:noctx // it must outlive this command
	cmd.Dir = c.paths.root
	cmd.Env = append([]string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=" + c.paths.root}, p.env...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("starting %s: %w", p.name, err)
	}
	// Reaped when this process outlives it; otherwise init does that.
	go func() { _ = cmd.Wait() }()

	info, ok := inspect(cmd.Process.Pid)
	if !ok {
		return fmt.Errorf("%s ended at once; its log is %s", p.name, c.paths.log(p.name))
	}
	boot, err := bootID()
	if err != nil {
		return err
	}
	record, err := json.Marshal(pidRecord{
		PID: cmd.Process.Pid, StartTicks: info.stat.startTicks, BootID: boot, Exe: p.exe, Fingerprint: fingerprint,
	})
	if err != nil {
		return fmt.Errorf("recording the pid of %s: %w", p.name, err)
	}
	return writeFile(c.paths.pid(p.name), record, 0o644)
}

// stopGrace is how long a process may take to end after SIGTERM.
const stopGrace = 10 * time.Second

// recordedNames lists the processes that have a pid file: first the programs of EnsureProgram,
// then the components in the order in which they are to be stopped.
func (c *Cluster) recordedNames() ([]string, error) {
	entries, err := os.ReadDir(c.paths.pid(""))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("listing pid files: %w", err)
	}
	var names []string
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), ".") && !slices.Contains(componentNames, e.Name()) {
			names = append(names, e.Name())
		}
	}
	return append(names, componentNames...), nil
}

// stop waits for a recorded component to end after asking it to; a component that does not run is fine.
func (c *Cluster) stop(ctx context.Context, component string, grace time.Duration) error {
	if info, _, ok := c.running(component); ok {
		if err := terminate(ctx, info, grace); err != nil {
			return fmt.Errorf("stopping %s: %w", component, err)
		}
	}
	if err := os.Remove(c.paths.pid(component)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("stopping %s: %w", component, err)
	}
	return nil
}

// terminate ends exactly the process that was inspected: SIGTERM, after grace SIGKILL.
func terminate(ctx context.Context, info processInfo, grace time.Duration) error {
	// On Linux FindProcess holds a pidfd. Looking at the process again afterwards makes sure the
	// descriptor is of the inspected process, and from then on no reused pid can be hit.
	handle, err := os.FindProcess(info.pid)
	if err != nil {
		return fmt.Errorf("process %d: %w", info.pid, err)
	}
	defer func() { _ = handle.Release() }()
	same := func() bool {
		now, ok := inspect(info.pid)
		return ok && now.stat.startTicks == info.stat.startTicks
	}
	if !same() {
		return nil
	}
	signal := func(s syscall.Signal) error {
		if err := handle.Signal(s); err != nil && !errors.Is(err, os.ErrProcessDone) && !errors.Is(err, syscall.ESRCH) {
			return fmt.Errorf("signalling process %d: %w", info.pid, err)
		}
		return nil
	}
	first := syscall.SIGTERM
	if grace == 0 {
		first = syscall.SIGKILL
	}
	if err := signal(first); err != nil {
		return err
	}
	killAt := time.Now().Add(grace)
	for killed := first == syscall.SIGKILL; same(); {
		if !killed && time.Now().After(killAt) {
			if err := signal(syscall.SIGKILL); err != nil {
				return err
			}
			killed = true
		}
		if err := pause(ctx); err != nil {
			return fmt.Errorf("waiting for process %d to end: %w", info.pid, err)
		}
	}
	return nil
}

// pause waits for one poll interval or the end of ctx.
func pause(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(pollInterval):
		return nil
	}
}

// run executes a short program and returns its standard output; its error output becomes part of the error.
func run(ctx context.Context, stdin string, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	if stdin != "" {
		cmd.Stdin = strings.NewReader(stdin)
	}
	out, err := cmd.Output()
	if err != nil {
		detail := ""
		if exit, ok := errors.AsType[*exec.ExitError](err); ok {
			detail = ": " + strings.TrimSpace(string(exit.Stderr))
		}
		return string(out), fmt.Errorf("%s %s: %w%s", filepath.Base(name), strings.Join(args, " "), err, detail)
	}
	return string(out), nil
}
