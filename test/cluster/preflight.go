package cluster

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
)

// ErrUnsupported says that this machine or user cannot run the cluster; the message around it says why and what to do.
var ErrUnsupported = errors.New("a local cluster cannot run here")

// program is a file of a Debian package that the cluster executes.
type program struct{ path, debianPackage string }

// systemPrograms come from the distribution; everything else is built from source.
var systemPrograms = []program{
	{"/usr/bin/containerd", "containerd"},
	{"/usr/bin/ctr", "containerd"},
	{"/usr/bin/containerd-shim-runc-v2", "containerd"},
	{"/usr/sbin/runc", "runc"},
	{"/usr/lib/cni/bridge", "containernetworking-plugins"},
	{"/usr/sbin/iptables", "iptables"},
	{"/usr/sbin/conntrack", "conntrack"},
	{"/usr/bin/mount", "mount"},
	{"/sbin/ip", "iproute2"},
}

// requireRootOnLinux refuses early, before anything is built or changed.
func requireRootOnLinux(action string) error {
	const remote = "Use a Linux machine or virtual machine as root. Unit tests do not need it: go test ./..."
	if runtime.GOOS != "linux" {
		return fmt.Errorf("%w: cannot %s on %s: containerd, kubelet and iptables need Linux.\n%s", ErrUnsupported, action, runtime.GOOS, remote)
	}
	if os.Geteuid() != 0 {
		return fmt.Errorf("%w: cannot %s as user %d: creating network interfaces, cgroups, mounts and iptables rules needs root.\n"+
			"Run the same command through sudo (sudo -E keeps PATH and the Go caches), or:\n%s", ErrUnsupported, action, os.Geteuid(), remote)
	}
	return nil
}

// missingPackages are the Debian packages whose programs are absent, judged by exists.
func missingPackages(programs []program, exists func(string) bool) []string {
	var missing []string
	for _, p := range programs {
		if !exists(p.path) && !slices.Contains(missing, p.debianPackage) {
			missing = append(missing, p.debianPackage)
		}
	}
	return missing
}

func fileExists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// installPackages installs what the distribution has to provide and the machine lacks.
func (c *Cluster) installPackages(ctx context.Context) error {
	missing := missingPackages(systemPrograms, fileExists)
	if len(missing) == 0 {
		return nil
	}
	list := strings.Join(missing, " ")
	if _, err := exec.LookPath("apt-get"); err != nil {
		return fmt.Errorf("%w: it needs the programs of the Debian packages %s, and this machine has no apt-get to install them; "+
			"install the equivalents and repeat", ErrUnsupported, list)
	}
	install := append([]string{"install", "--no-install-recommends", "--yes", "--quiet"}, missing...)
	apt := func(args ...string) error {
		cmd := exec.CommandContext(ctx, "apt-get", args...)
		cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
		out, err := cmd.CombinedOutput()
		if err != nil {
			return fmt.Errorf("apt-get %s: %w\n%s", strings.Join(args, " "), err, lastLines(string(out), 10))
		}
		return nil
	}
	done := c.progress.step("installing Debian packages " + list)
	err := apt(install...)
	if err != nil {
		// A fresh machine has no package lists, an old one has stale ones.
		if err = apt("update", "--quiet"); err == nil {
			err = apt(install...)
		}
	}
	done(err)
	if err != nil {
		return fmt.Errorf("installing Debian packages: %w", err)
	}
	if still := missingPackages(systemPrograms, fileExists); len(still) > 0 {
		return fmt.Errorf("%w: after installation the programs of %s are still not at their usual paths", ErrUnsupported, strings.Join(still, " "))
	}
	return nil
}

// checkConflicts refuses to share the machine with another kubelet, whose iptables chains
// have the same names, or with a network that overlaps the cluster's.
func (c *Cluster) checkConflicts() error {
	all, err := processes()
	if err != nil {
		return err
	}
	for _, p := range all {
		switch filepath.Base(p.exe) {
		case "kubelet", "kube-proxy", "k3s", "k0s", "rke2":
			if !c.owns(p) && inMachineNetwork(p.pid) {
				return fmt.Errorf("%w: %s runs already; both would write the same iptables chains. Stop it first", ErrUnsupported, p)
			}
		}
	}
	interfaces, err := net.Interfaces()
	if err != nil {
		return fmt.Errorf("listing network interfaces: %w", err)
	}
	for _, ifc := range interfaces {
		if ifc.Name == bridgeName {
			continue
		}
		addrs, err := ifc.Addrs()
		if err != nil {
			continue // the interface has just gone
		}
		for _, a := range addrs {
			if p, err := netip.ParsePrefix(a.String()); err == nil && conflicts(p) {
				return fmt.Errorf("%w: interface %s has %s, which overlaps the cluster's pods %s, services %s or node address %s",
					ErrUnsupported, ifc.Name, p, podCIDR, serviceCIDR, nodeIP)
			}
		}
	}
	return nil
}

// conflicts reports whether an address of another interface makes the cluster's own unreachable.
func conflicts(p netip.Prefix) bool {
	return p.Overlaps(netip.MustParsePrefix(podCIDR)) || p.Overlaps(netip.MustParsePrefix(serviceCIDR)) ||
		p.Addr() == netip.MustParseAddr(nodeIP)
}

// inMachineNetwork reports whether a process shares our network namespace; a cluster in a container does not disturb.
func inMachineNetwork(pid int) bool {
	own, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		return true
	}
	other, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/net", pid))
	return err != nil || own == other
}

func lastLines(s string, n int) string {
	lines := strings.Split(strings.TrimRight(s, "\n"), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}
