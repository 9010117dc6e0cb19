// Package netns gives tests network namespaces of their own: nodes and pods with
// interfaces, routes and packet filters that are gone when the test is.
package netns

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// Namespace is a network namespace: a thread that is in it and does what it is told.
type Namespace struct {
	// Path is what the ip command takes for its name.
	Path string
	do   chan func()
}

// New makes a namespace that lasts as long as the test, which is skipped where that
// cannot be done.
func New(t testing.TB) *Namespace {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	n := &Namespace{do: make(chan func())}
	ready := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		err := unix.Unshare(unix.CLONE_NEWNET)
		n.Path = fmt.Sprintf("/proc/%d/task/%d/ns/net", os.Getpid(), unix.Gettid())
		ready <- err
		for f := range n.do {
			f()
		}
	}()
	t.Cleanup(func() { close(n.do) })
	if err := <-ready; err != nil {
		t.Skipf("cannot make a network namespace: %v", err)
	}
	return n
}

// In runs a function in the namespace. Sockets that it opens stay there.
func (n *Namespace) In(f func()) {
	done := make(chan struct{})
	n.do <- func() { defer close(done); f() }
	<-done
}

// Run runs commands in the namespace, one a line, and ends the test when one fails, or
// skips it when the program is not there.
func (n *Namespace) Run(t testing.TB, commands string) {
	t.Helper()
	for line := range strings.Lines(commands) {
		args := strings.Fields(line)
		if len(args) == 0 {
			continue
		}
		var out []byte
		var err error
		n.In(func() { out, err = exec.CommandContext(t.Context(), args[0], args[1:]...).CombinedOutput() })
		switch {
		case errors.Is(err, exec.ErrNotFound):
			t.Skipf("%s is not installed", args[0])
		case err != nil:
			t.Fatalf("%s: %v %s", strings.TrimSpace(line), err, out)
		}
	}
}
