package redirect

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/aad-pod-identity/aad-pod-identity/test/netns"
)

// TestNoWayAroundByIPv6: a pod of a node with both families, and a service that has an
// address of both, reaches NMI or nobody.
func TestNoWayAroundByIPv6(t *testing.T) {
	node, pod := nodeAndPod(t)
	v4 := nodeTarget
	var tables4, tables6 IPTables
	node.In(func() {
		var err4, err6 error
		tables4, err4 = NewIPTables()
		tables6, err6 = NewIP6Tables()
		if err := errors.Join(err4, err6); err != nil {
			t.Skip(err)
		}
	})
	greet(t, node, netip.AddrPortFrom(v4.Metadata, 80), "the service")
	greet(t, node, netip.AddrPortFrom(target6.Metadata, 80), "the service")
	stop4, stop6 := greet(t, node, v4.NMI, "NMI"), greet(t, node, target6.NMI, "NMI")
	ask := func(service netip.Addr) (answer string, err error) {
		conn, err := dial(t, pod, service)
		if err != nil {
			return "", err
		}
		return hear(conn)
	}
	expect := func(when string, service netip.Addr, want string) {
		t.Helper()
		if got, err := ask(service); err != nil || got != want {
			t.Errorf("%s: %s is %q, %v", when, service, got, err)
		}
	}
	ensure := func(tables IPTables, target Target) {
		t.Helper()
		redirectOn(t, node, func() (IPTables, error) { return tables, nil }, target)
	}
	expect("without a redirect", v4.Metadata, "the service")
	ensure(tables4, v4)
	expect("with that of IPv4 only", v4.Metadata, "NMI")
	expect("with that of IPv4 only", target6.Metadata, "the service")
	ensure(tables6, target6)
	expect("with both", v4.Metadata, "NMI")
	expect("with both", target6.Metadata, "NMI")
	stop4()
	stop6()
	for _, service := range []netip.Addr{v4.Metadata, target6.Metadata} {
		if got, err := ask(service); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("without NMI %s is %q, %v", service, got, err)
		}
	}
	// A node without an IPv6 address has none to redirect to.
	nowhere := target6
	nowhere.NMI = netip.AddrPortFrom(Discard, 2579)
	ensure(tables6, nowhere)
	if got, err := ask(target6.Metadata); !errors.Is(err, syscall.EHOSTUNREACH) && !errors.Is(err, syscall.ENETUNREACH) {
		t.Errorf("redirected to nowhere, %s is %q, %v", target6.Metadata, got, err)
	}
}

// nodeAndPod are the namespaces of a node with the metadata service, 10.0.0.4, and of a
// pod on it, in both families.
func nodeAndPod(t *testing.T) (node, pod *netns.Namespace) {
	t.Helper()
	node, pod = netns.New(t), netns.New(t)
	node.Run(t, `
		ip link set lo up
		sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1
		ip addr add 169.254.169.254/32 dev lo
		ip addr add fd00:a9fe::254/128 dev lo nodad
		ip addr add 10.0.0.4/32 dev lo
		ip addr add fd00::4/128 dev lo nodad
		ip link add v type veth peer name eth0 netns `+pod.Path+`
		ip link set v up addrgenmode none
		ip addr add fe80::1/64 dev v nodad
		ip route add 10.1.0.2/32 dev v
		ip route add fd00:1::2/128 dev v`)
	pod.Run(t, `
		ip link set lo up
		ip addr add 10.1.0.2/32 dev eth0
		ip addr add fd00:1::2/128 dev eth0 nodad
		ip link set eth0 up
		ip route add default via 10.0.0.4 dev eth0 onlink
		ip -6 route add default via fe80::1 dev eth0`)
	return node, pod
}

// TestGuardOfTheNode: with the rule that docs/nmi.md has for a node's own start, a pod
// that is there before NMI waits for it.
func TestGuardOfTheNode(t *testing.T) {
	text, err := os.ReadFile("../../docs/nmi.md")
	if err != nil {
		t.Fatal(err)
	}
	_, guard, found := strings.Cut(string(text), "\nExecStart=/usr/sbin/")
	guard, _, _ = strings.Cut(guard, "\n")
	if !found {
		t.Fatal("the guide has no such rule")
	}
	node, pod := nodeAndPod(t)
	azure := netns.New(t)
	node.Run(t, `
		ip addr del 169.254.169.254/32 dev lo
		ip link add uplink type veth peer name eth0 netns `+azure.Path+`
		ip link set uplink up
		sysctl -qw net.ipv4.conf.uplink.proxy_arp=1
		ip route add 169.254.169.254/32 dev uplink`)
	azure.Run(t, `
		ip link set lo up
		ip addr add 169.254.169.254/32 dev eth0
		ip link set eth0 up
		ip route add 10.0.0.0/8 dev eth0
		sysctl -qw net.ipv4.conf.all.rp_filter=0`)
	target := nodeTarget
	greet(t, azure, netip.AddrPortFrom(target.Metadata, 80), "the service")
	greet(t, node, target.NMI, "NMI")
	ask := func() string {
		conn, err := dial(t, pod, target.Metadata)
		if err != nil {
			return err.Error()
		}
		answer, err := hear(conn)
		if err != nil {
			return err.Error()
		}
		return answer
	}
	if got := ask(); got != "the service" {
		t.Fatalf("on a node as it is, %q answers", got)
	}
	node.Run(t, guard)
	answer := make(chan string, 1)
	go func() { answer <- ask() }()
	// Dropped once at least, and so without a redirect.
	for deadline, dropped := time.Now().Add(time.Minute), ""; dropped == "" || dropped == "0"; {
		if time.Now().After(deadline) {
			t.Fatalf("%s packets of the pod came to the rule", dropped)
		}
		node.In(func() {
			out, err := exec.CommandContext(t.Context(), "iptables", "-t", "mangle", "-nvxL", "FORWARD", "1").Output()
			if fields := strings.Fields(string(out)); err == nil && len(fields) > 0 {
				dropped = fields[0]
			}
		})
	}
	redirectOn(t, node, NewIPTables, target)
	if got := <-answer; got != "NMI" {
		t.Errorf("the pod that was first got %q", got)
	}
	if got := ask(); got != "NMI" {
		t.Errorf("with the redirect, %q answers", got)
	}
}

// TestOnlyConnectionsAroundNMIAreCut: those to NMI have the service's address, too.
func TestOnlyConnectionsAroundNMIAreCut(t *testing.T) {
	conntrack, err := exec.LookPath("conntrack")
	if err != nil {
		t.Skip(err)
	}
	node, pod := nodeAndPod(t)
	target := nodeTarget
	node.Run(t, `iptables -A INPUT -m conntrack --ctstate INVALID -j DROP`) // connections are tracked from now on
	greet(t, node, netip.AddrPortFrom(target.Metadata, 80), "the service")
	greet(t, node, target.NMI, "NMI")
	connect := func() net.Conn {
		t.Helper()
		conn, err := dial(t, pod, target.Metadata)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		// Nothing more is to come, which would be tracked anew.
		if _, err := io.ReadAll(conn); err != nil {
			t.Fatal(err)
		}
		return conn
	}
	around := connect().LocalAddr().(*net.TCPAddr).Port
	var redirected int
	var left []byte
	redirectOn(t, node, NewIPTables, target)
	redirected = connect().LocalAddr().(*net.TCPAddr).Port
	node.In(func() {
		CutConnections(t.Context(), target)
		left, err = exec.CommandContext(t.Context(), conntrack, "-L", "-p", "tcp").Output()
	})
	if err != nil {
		t.Fatal(err)
	}
	has := func(port int) bool { return strings.Contains(string(left), fmt.Sprintf("sport=%d ", port)) }
	if has(around) || !has(redirected) {
		t.Errorf("around NMI from port %d, to NMI from port %d; the kernel still has:\n%s", around, redirected, left)
	}
}

// nodeTarget is the redirect of IPv4 on a node of nodeAndPod.
var nodeTarget = Target{Metadata: netip.MustParseAddr("169.254.169.254"), MetadataPort: 80, NMI: netip.MustParseAddrPort("10.0.0.4:2579")}

// redirectOn sets a redirect in a namespace.
func redirectOn(t *testing.T, node *netns.Namespace, open func() (IPTables, error), target Target) {
	t.Helper()
	node.In(func() {
		tables, err := open()
		if err == nil {
			_, err = Ensure(tables, target)
		}
		if err != nil {
			t.Errorf("redirecting %s: %v", target.Metadata, err)
		}
	})
}

// dial connects to the service from a namespace.
func dial(t *testing.T, from *netns.Namespace, service netip.Addr) (conn net.Conn, err error) {
	d := &net.Dialer{Timeout: time.Minute} // never reached
	from.In(func() { conn, err = d.DialContext(t.Context(), "tcp", netip.AddrPortFrom(service, 80).String()) })
	return conn, err
}

// hear reads to the end what a connection says.
func hear(conn net.Conn) (string, error) {
	defer func() { _ = conn.Close() }()
	data, err := io.ReadAll(conn)
	return string(data), err
}

// greet has a server in a namespace that tells its name, until it is stopped.
func greet(t *testing.T, n *netns.Namespace, at netip.AddrPort, name string) (stop func()) {
	t.Helper()
	var l net.Listener
	var err error
	n.In(func() { l, err = new(net.ListenConfig).Listen(t.Context(), "tcp", at.String()) })
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = io.WriteString(conn, name)
			_ = conn.Close()
		}
	}()
	stop = func() { _ = l.Close(); <-done }
	t.Cleanup(stop)
	return stop
}
