package redirect

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"

	"github.com/coreos/go-iptables/iptables"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// inNewNetwork moves the (sub)test's thread into a network namespace of its own,
// whose tables are empty and vanish with the thread.
func inNewNetwork(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	runtime.LockOSThread() // never unlocked: the runtime ends the thread with the test's goroutine
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Skipf("cannot make a network namespace: %v", err)
	}
}

// family is what the two families differ in.
type family struct {
	protocol        iptables.Protocol
	family          byte
	target          Target
	loopback, stale string
	commands        []string
}

var families = []family{
	{iptables.ProtocolIPv4, unix.NFPROTO_IPV4, guideTarget, "127.0.0.1/32", "127.0.0.1:2579", []string{"iptables-nft", "iptables-legacy"}},
	{iptables.ProtocolIPv6, unix.NFPROTO_IPV6, target6, "::1/128", "[fd00::5]:2579", []string{"ip6tables-nft", "ip6tables-legacy"}},
}

// TestOnTheKernel runs the real iptables and ip6tables, both backends, in a fresh
// network namespace and compares with the troubleshooting guide's output.
func TestOnTheKernel(t *testing.T) {
	for _, f := range families {
		for _, command := range f.commands {
			t.Run(command, func(t *testing.T) { f.onTheKernel(t, command) })
		}
	}
}

// TestLegacyTables: rules that an NMI of 1.8 has left beside those of nf_tables.
func TestLegacyTables(t *testing.T) {
	path, err := exec.LookPath("iptables-legacy")
	if err != nil {
		t.Skip("not installed")
	}
	inNewNetwork(t)
	if tables, err := NewLegacyIPTables(); tables != nil || err != nil {
		t.Errorf("on a node without it: %v, %v", tables, err)
	}
	ipt, err := iptables.New(iptables.Path(path), iptables.Timeout(lockTimeout))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Ensure(ipt, guideTarget); err != nil {
		t.Skipf("the kernel has no nat table for iptables-legacy: %v", err)
	}
	tables, err := NewLegacyIPTables()
	if tables == nil || err != nil {
		t.Fatal(tables, err)
	}
	if removed, err := Remove(tables, guideTarget); !removed || err != nil {
		t.Errorf("removed %v, error %v", removed, err)
	}
	if exists, err := ipt.ChainExists(table, chain); exists || err != nil {
		t.Errorf("the chain is left: %v, %v", exists, err)
	}
}

func (f family) onTheKernel(t *testing.T, command string) {
	path, err := exec.LookPath(command)
	if err != nil {
		t.Skip("not installed")
	}
	inNewNetwork(t)
	ipt, err := iptables.New(iptables.IPFamily(f.protocol), iptables.Path(path), iptables.Timeout(lockTimeout))
	if err != nil {
		t.Fatal(err)
	}
	run := func(args ...string) string {
		out, err := exec.CommandContext(t.Context(), path, append([]string{"-t", "nat"}, args...)...).CombinedOutput()
		if err != nil {
			t.Errorf("%s %v: %v\n%s", command, args, err, out)
		}
		return string(out)
	}
	if out, err := exec.CommandContext(t.Context(), path, "-t", "nat", "-S").CombinedOutput(); err != nil {
		t.Skipf("the kernel has no nat table for %s: %s", command, out)
	}
	service := netip.PrefixFrom(f.target.Metadata, f.target.Metadata.BitLen()).String()
	run("-N", "KUBE-SERVICES")
	run("-A", "PREROUTING", "-j", "KUBE-SERVICES")

	check := func(when string) {
		t.Helper()
		guide := fmt.Sprintf(`-N aad-metadata
-A aad-metadata ! -s %s -d %s -p tcp -m tcp --dport 80 -j DNAT --to-destination %s
-A aad-metadata -j RETURN
`, f.loopback, service, f.target.NMI)
		if diff := cmp.Diff(guide, run("-S", "aad-metadata")); diff != "" {
			t.Errorf("%s: iptables -t nat -S aad-metadata (-guide +got):\n%s", when, diff)
		}
		const hooks = "-P PREROUTING ACCEPT\n-A PREROUTING -j aad-metadata\n-A PREROUTING -j KUBE-SERVICES\n"
		if diff := cmp.Diff(hooks, run("-S", "PREROUTING")); diff != "" {
			t.Errorf("%s: iptables -t nat -S PREROUTING (-want +got):\n%s", when, diff)
		}
	}
	ensure := func(when string, wantChanged bool) {
		t.Helper()
		changed, err := Ensure(ipt, f.target)
		if err != nil || changed != wantChanged {
			t.Errorf("%s: changed %v, error %v", when, changed, err)
		}
		check(when)
	}
	ensure("fresh", true)
	ensure("again", false)
	run("-F", "aad-metadata")
	ensure("chain flushed", true)
	run("-F", "PREROUTING")
	run("-A", "PREROUTING", "-j", "KUBE-SERVICES")
	ensure("PREROUTING flushed", true)
	run("-D", "PREROUTING", "-j", "aad-metadata")
	run("-A", "PREROUTING", "-j", "aad-metadata")
	run("-A", "PREROUTING", "-j", "aad-metadata")
	ensure("jump last and doubled", true)
	run("-R", "aad-metadata", "1", "!", "-s", f.loopback, "-d", service, "-p", "tcp", "--dport", "80", "-j", "DNAT", "--to-destination", f.stale)
	ensure("target of an older release", true)

	if removed, err := Remove(ipt, f.target); !removed || err != nil {
		t.Errorf("removed %v, error %v", removed, err)
	}
	if removed, err := Remove(ipt, f.target); removed || err != nil {
		t.Errorf("again: removed %v, error %v", removed, err)
	}
	if left := run("-S"); strings.Contains(left, "aad-metadata") {
		t.Errorf("left:\n%s", left)
	}
	if err := ipt.Delete("nat", "PREROUTING", "-j", "aad-metadata"); !missing(err) {
		t.Errorf("deleting what is not there: %v counts as failure", err)
	}
	if missing(errors.New("other")) {
		t.Error("any error counts as missing")
	}
}
