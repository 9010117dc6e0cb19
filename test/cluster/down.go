package cluster

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// Down removes everything that Up and the pods of the cluster made on this machine, and the run
// directory with it; the cache of built binaries stays. It works from what it finds, so it also
// cleans up after a crash, a reboot or a half-finished Up, and does nothing where nothing is.
func (c *Cluster) Down(ctx context.Context) error {
	if err := requireRootOnLinux("remove a cluster"); err != nil {
		return err
	}
	unlock, err := lockFile(ctx, c.paths.lock())
	if err != nil {
		return err
	}
	defer unlock()
	var errs []error
	step := func(name string, remove func() error) {
		done := c.progress.step(name)
		err := remove()
		done(err)
		errs = append(errs, err)
	}
	// A failed step does not keep the later ones from cleaning up what they can.
	step("stopping the cluster's processes and containers", func() error { return c.killAll(ctx) })
	step("removing iptables rules", func() error { return removeRules(ctx) })
	step("removing mounts", func() error { return unmountBelow(c.paths.root) })
	step("removing network interfaces and addresses", func() error { return removeNetwork(ctx) })
	step("removing cgroups", func() error { return c.retryBusy(ctx, removeCgroups) })
	step("removing files", func() error { return c.removeFiles(ctx) })
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("removing the cluster: %w", err)
	}
	if err := os.Remove(c.paths.lock()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("removing the lock: %w", err)
	}
	return nil
}

// killAll ends the recorded processes, then whatever else belongs to the cluster: shims,
// containers, and processes whose pid file was lost.
func (c *Cluster) killAll(ctx context.Context) error {
	// The kubelet first, or it would restart containers; it need not be polite, its pods go anyway.
	names, err := c.recordedNames()
	if err != nil {
		return err
	}
	for _, name := range names {
		grace := time.Duration(0)
		if name == etcdName || name == containerdName {
			grace = stopGrace
		}
		if err := c.stop(ctx, name, grace); err != nil {
			return err
		}
	}
	for {
		all, err := processes()
		if err != nil {
			return err
		}
		var wait sync.WaitGroup
		found := false
		errs := make(chan error, len(all))
		for _, info := range all {
			if !c.owns(info) {
				continue
			}
			found = true
			wait.Go(func() { errs <- terminate(ctx, info, 0) })
		}
		wait.Wait()
		close(errs)
		for err := range errs {
			if err != nil {
				return err
			}
		}
		if !found {
			return ctx.Err()
		}
	}
}

// retryBusy repeats remove for a moment: the kernel empties cgroups a little after their last process.
func (c *Cluster) retryBusy(ctx context.Context, remove func() error) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	for {
		err := remove()
		if err == nil || pause(ctx) != nil {
			return err
		}
	}
}

// Fixed places outside the run directory where containerd, CNI and the kubelet leave files.
const (
	shimSockets    = "/run/containerd/s"
	cniResults     = "/var/lib/cni/results"
	containerLinks = "/var/log/containers"
	devicePlugins  = "/var/lib/kubelet/device-plugins"
)

func (c *Cluster) removeFiles(ctx context.Context) error {
	strays, err := c.strayFiles()
	if err != nil {
		return err
	}
	for _, path := range strays {
		if err := os.RemoveAll(path); err != nil {
			return fmt.Errorf("removing a file: %w", err)
		}
	}
	// Directories that were made for our files, unless others use them.
	for _, dir := range []string{
		shimSockets, filepath.Dir(shimSockets), cniResults, filepath.Dir(cniResults), containerLinks, devicePlugins, filepath.Dir(devicePlugins),
	} {
		_ = os.Remove(dir) // fails for a directory that is not empty, as it should
	}
	mounts, err := listMounts()
	if err != nil {
		return err
	}
	if left := mountsBelow(mounts, c.paths.root); len(left) > 0 {
		// Removing files through a mount could remove those of somebody else.
		return fmt.Errorf("the run directory still has mounts: %s", strings.Join(left, ", "))
	}
	return c.retryBusy(ctx, func() error {
		if err := os.RemoveAll(c.paths.root); err != nil {
			return fmt.Errorf("removing the run directory: %w", err)
		}
		return nil
	})
}

// strayFiles lists the cluster's files outside the run directory.
func (c *Cluster) strayFiles() ([]string, error) {
	var files []string
	// Each shim's socket is named by a hash of containerd's address, namespace and container.
	bundles := filepath.Join(c.paths.containerdState(), "io.containerd.runtime.v2.task", "k8s.io")
	entries, err := os.ReadDir(bundles)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("listing containers: %w", err)
	}
	for _, e := range entries {
		if address, err := os.ReadFile(filepath.Join(bundles, e.Name(), "address")); err == nil {
			files = append(files, strings.TrimPrefix(strings.TrimSpace(string(address)), "unix://"))
		}
		files = append(files, shimSocket(c.paths.containerdSocket(), e.Name()))
	}
	cached, err := filepath.Glob(filepath.Join(cniResults, cniNetwork+"-*"))
	if err != nil {
		return nil, fmt.Errorf("listing CNI results: %w", err)
	}
	for _, f := range cached {
		// Every pod's loopback has a result too, which does not carry our network's name.
		id := strings.TrimSuffix(strings.TrimPrefix(filepath.Base(f), cniNetwork+"-"), "-eth0")
		files = append(files, filepath.Join(cniResults, "cni-loopback-"+id+"-lo"), f)
	}
	links, err := filepath.Glob(filepath.Join(containerLinks, "*.log"))
	if err != nil {
		return nil, fmt.Errorf("listing container logs: %w", err)
	}
	for _, link := range links {
		if target, err := os.Readlink(link); err == nil && strings.HasPrefix(target, c.paths.root+"/") {
			files = append(files, link)
		}
	}
	if !fileExists(filepath.Join(filepath.Dir(devicePlugins), "config.yaml")) { // no other kubelet on this machine
		for _, name := range []string{"kubelet.sock", "kubelet_internal_checkpoint", "DEPRECATION"} {
			files = append(files, filepath.Join(devicePlugins, name))
		}
	}
	existing := files[:0]
	for _, f := range files {
		if _, err := os.Lstat(f); err == nil {
			existing = append(existing, f)
		}
	}
	return existing, nil
}

// shimSocket is where a containerd shim listens for the given containerd and container.
func shimSocket(containerdSocket, id string) string {
	sum := sha256.Sum256([]byte(filepath.Join(containerdSocket, "k8s.io", id)))
	return fmt.Sprintf("%s/%x", shimSockets, sum)
}
