package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"
)

// cgroup is a memory cgroup for one process. Its working set is what the kubelet
// reports for a container, `kubectl top` shows and eviction goes by: pages of
// files that can be dropped at once are not in it.
type cgroup struct {
	dir, usage string
	// inactive is the line of memory.stat with the files' pages that were not used lately.
	inactive string
}

// newCgroup makes a cgroup below the root, for which the process must be root.
func newCgroup(name string) (*cgroup, error) {
	const root = "/sys/fs/cgroup"
	c := &cgroup{dir: filepath.Join(root, "memory", name), usage: "memory.usage_in_bytes", inactive: "total_inactive_file"}
	if _, err := os.Stat(filepath.Join(root, "cgroup.controllers")); err == nil {
		c = &cgroup{dir: filepath.Join(root, name), usage: "memory.current", inactive: "inactive_file"}
		if err := os.WriteFile(filepath.Join(root, "cgroup.subtree_control"), []byte("+memory"), 0o644); err != nil {
			return nil, fmt.Errorf("enabling memory cgroups: %w", err)
		}
	}
	if err := os.Mkdir(c.dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("making a memory cgroup: %w", err)
	}
	return c, nil
}

// wrap makes a command start in the cgroup. The binary is first put out of the
// page cache, where it is charged to the cgroup that wrote it.
func (c *cgroup) wrap(ctx context.Context, binary string, args ...string) (string, []string, error) {
	drop := exec.CommandContext(ctx, "dd", "of="+binary, "oflag=nocache", "conv=notrunc,fdatasync", "count=0", "status=none")
	if out, err := drop.CombinedOutput(); err != nil {
		return "", nil, fmt.Errorf("dropping %s from the page cache: %w: %s", binary, err, out)
	}
	const enter = `echo $$ >"$0" && exec "$@"`
	return "/bin/sh", append([]string{"-c", enter, filepath.Join(c.dir, "cgroup.procs"), binary}, args...), nil
}

// workingSet is computed as cAdvisor does for the kubelet (setMemoryStats in its
// container/libcontainer/handler.go), in MiB.
func (c *cgroup) workingSet() (float64, error) {
	raw, err := os.ReadFile(filepath.Join(c.dir, c.usage))
	if err != nil {
		return 0, fmt.Errorf("reading the memory of a cgroup: %w", err)
	}
	usage, err := strconv.ParseFloat(strings.TrimSpace(string(raw)), 64)
	if err != nil {
		return 0, fmt.Errorf("reading %s: %w", c.usage, err)
	}
	stat, err := os.ReadFile(filepath.Join(c.dir, "memory.stat"))
	if err != nil {
		return 0, fmt.Errorf("reading the memory of a cgroup: %w", err)
	}
	for line := range strings.Lines(string(stat)) {
		if value, ok := strings.CutPrefix(line, c.inactive+" "); ok {
			inactive, err := strconv.ParseFloat(strings.TrimSpace(value), 64)
			if err != nil {
				return 0, fmt.Errorf("reading %s: %w", c.inactive, err)
			}
			return max(usage-inactive, 0) / (1 << 20), nil
		}
	}
	return 0, fmt.Errorf("no %s in the statistics of %s", c.inactive, c.dir)
}

// peak samples the working set until stop, which returns the largest.
func (c *cgroup) peak() (stop func() (float64, error)) {
	const every = 50 * time.Millisecond
	done := make(chan struct{})
	var group sync.WaitGroup
	var most float64
	var failed error
	group.Go(func() {
		tick := time.NewTicker(every)
		defer tick.Stop()
		for failed == nil {
			var now float64
			now, failed = c.workingSet()
			most = max(most, now)
			select {
			case <-done:
				return
			case <-tick.C:
			}
		}
	})
	return func() (float64, error) {
		close(done)
		group.Wait()
		return most, failed
	}
}

// remove removes the cgroup, whose process has ended.
func (c *cgroup) remove() error {
	if err := os.Remove(c.dir); err != nil {
		return fmt.Errorf("removing a memory cgroup: %w", err)
	}
	return nil
}
