package sourceroute

import (
	"context"
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/aad-pod-identity/aad-pod-identity/test/netns"
)

// node is a node with two pods on a network, and a server that NMI's redirect leads to.
type node struct {
	*netns.Namespace
	a, b     *netns.Namespace
	listener net.Listener
	checker  *Checker
	results  []string
}

const metadata = "169.254.169.254:80"

// newNode makes a node of which the commands say how pods are connected. They can
// name the pods' namespaces as A and B.
func newNode(t *testing.T, mode Mode, address string, commands map[string]string) *node {
	t.Helper()
	n := &node{Namespace: netns.New(t), a: netns.New(t), b: netns.New(t)}
	names := strings.NewReplacer("netns A", "netns "+n.a.Path, "netns B", "netns "+n.b.Path)
	n.Run(t, "ip link set lo up\nsysctl -qw net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.default.rp_filter=0 net.ipv4.ip_forward=1\n"+names.Replace(commands["node"]))
	n.a.Run(t, "ip link set lo up\n"+commands["A"])
	n.b.Run(t, "ip link set lo up\n"+commands["B"])
	var err error
	n.In(func() {
		n.checker, err = New(mode, func(result string) { n.results = append(n.results, result) })
		if err == nil {
			n.listener, err = new(net.ListenConfig).Listen(t.Context(), "tcp", address)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(n.listener.Close(), n.checker.Close()); err != nil {
			t.Error(err)
		}
	})
	return n
}

// accept checks the next connection.
func (n *node) accept(t *testing.T) (source netip.Addr, result string, err error) {
	t.Helper()
	conn, err := n.listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	n.results = nil
	err = n.checker.Check(t.Context(), conn)
	return addressOf(conn.RemoteAddr()), strings.Join(n.results, " "), err
}

// connect opens a connection from a pod.
func connect(t *testing.T, pod *netns.Namespace, from, to string) {
	t.Helper()
	var conn net.Conn
	var err error
	pod.In(func() {
		d := &net.Dialer{Timeout: 30 * time.Second, LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
		conn, err = d.DialContext(t.Context(), "tcp", to)
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
}

// routed is a network on which each pod has a route and an interface of its own.
var routed = map[string]string{
	"node": `
		ip addr add 10.0.0.1/32 dev lo
		ip link add va type veth peer name eth0 netns A
		ip link add vb type veth peer name eth0 netns B
		ip link set va up
		ip link set vb up
		ip route add 10.1.0.2/32 dev va
		ip route add 10.1.0.3/32 dev vb
		iptables -t nat -A PREROUTING -d 169.254.169.254/32 -p tcp -m tcp --dport 80 -j DNAT --to-destination 10.0.0.1:2579`,
	"A": `
		ip addr add 10.1.0.2/32 dev eth0
		ip link set eth0 up
		ip route add default via 10.0.0.1 dev eth0 onlink
		iptables -A OUTPUT -p tcp --tcp-flags RST RST -j DROP`,
	"B": `
		ip addr add 10.1.0.3/32 dev eth0
		ip link set eth0 up
		ip route add default via 10.0.0.1 dev eth0 onlink`,
}

// TestPodsHaveTheirAnswers: on a routed network both pods are known by their address.
func TestPodsHaveTheirAnswers(t *testing.T) {
	for _, mode := range []Mode{Auto, On} {
		n := newNode(t, mode, "10.0.0.1:2579", routed)
		for address, pod := range map[string]*netns.Namespace{"10.1.0.2": n.a, "10.1.0.3": n.b} {
			connect(t, pod, address, metadata)
			if source, result, err := n.accept(t); source.String() != address || result != ResultVerified || err != nil {
				t.Errorf("%s: from %s: %s, %v", mode, source, result, err)
			}
		}
	}
}

// TestSpoofedSourceIsRefused: pod B opens a connection from the address of pod A. The
// node's answers go to A; the test, which has A's raw socket, tells B the number that
// B would have to guess, and keeps A from refusing what it has not asked for.
func TestSpoofedSourceIsRefused(t *testing.T) {
	for _, mode := range []Mode{Auto, On} {
		n := newNode(t, mode, "10.0.0.1:2579", routed)
		const port, first = 20000, 1000 // not one that the kernel gives to others
		a, b := netip.MustParseAddr("10.1.0.2"), netip.MustParseAddrPort(metadata)
		heard := rawSocket(t, n.a, unix.IPPROTO_TCP)
		spoof := rawSocket(t, n.b, unix.IPPROTO_RAW)
		send := func(flags byte, sequence, acknowledged uint32) {
			t.Helper()
			to := &unix.SockaddrInet4{Addr: b.Addr().As4()}
			if err := unix.Sendto(spoof, segment(a, b, port, flags, sequence, acknowledged), 0, to); err != nil {
				t.Fatal(err)
			}
		}
		send(flagSYN, first, 0)
		buffer := make([]byte, 1500)
		for {
			size, _, err := unix.Recvfrom(heard, buffer, 0)
			if err != nil {
				t.Fatalf("nothing came to A: %v", err)
			}
			tcp := buffer[:size]
			tcp = tcp[int(tcp[0]&0xf)*4:]
			if binary.BigEndian.Uint16(tcp[2:]) == port && tcp[13] == flagSYN|flagACK {
				send(flagACK, first+1, binary.BigEndian.Uint32(tcp[4:])+1)
				break
			}
		}
		source, result, err := n.accept(t)
		if source != a {
			t.Fatalf("the connection comes from %s", source)
		}
		if result != ResultRefused || !errors.Is(err, ErrSource) {
			t.Errorf("%s: %s, %v", mode, result, err)
		}
		// A itself is answered as before.
		connect(t, n.a, "10.1.0.2", metadata)
		if source, result, err := n.accept(t); source != a || result != ResultVerified || err != nil {
			t.Errorf("%s: A itself, from %s: %s, %v", mode, source, result, err)
		}
	}
}

// TestABridgeTellsNothing: on a bridge, B needs but to have A's packets sent to it.
func TestABridgeTellsNothing(t *testing.T) {
	bridged := map[string]string{
		"node": `
			ip link add br0 type bridge
			ip addr add 10.2.0.1/24 dev br0
			ip link set br0 up
			ip link add va type veth peer name eth0 netns A
			ip link add vb type veth peer name eth0 netns B
			ip link set va master br0 up
			ip link set vb master br0 up
			iptables -t nat -A PREROUTING -d 169.254.169.254/32 -p tcp -m tcp --dport 80 -j DNAT --to-destination 10.2.0.1:2579`,
		"A": `
			ip addr add 10.2.0.2/24 dev eth0
			ip link set eth0 up
			ip route add default via 10.2.0.1`,
		"B": `
			ip link set eth0 address 02:00:00:00:00:0b
			ip addr add 10.2.0.3/24 dev eth0
			ip addr add 10.2.0.2/32 dev eth0
			ip link set eth0 up
			ip route add default via 10.2.0.1`,
	}
	for mode, wanted := range map[Mode]string{Auto: ResultUnverifiable, On: ResultRefused} {
		n := newNode(t, mode, "10.2.0.1:2579", bridged)
		check := func(who string, pod *netns.Namespace) {
			t.Helper()
			connect(t, pod, "10.2.0.2", metadata)
			source, result, err := n.accept(t)
			if source.String() != "10.2.0.2" || result != wanted || (err != nil) != (mode == On) {
				t.Errorf("%s: %s, from %s: %s, %v", mode, who, source, result, err)
			}
		}
		n.Run(t, "ip neigh flush dev br0")
		n.b.Run(t, "ip link set eth0 down")
		check("A", n.a)
		n.b.Run(t, "ip link set eth0 up\nip route add default via 10.2.0.1")
		n.Run(t, "ip neigh replace 10.2.0.2 lladdr 02:00:00:00:00:0b dev br0") // by ARP from B
		check("B as A", n.b)
	}
}

func TestIPv6(t *testing.T) {
	n := newNode(t, On, "[fd00::1]:2579", map[string]string{
		"node": `
			sysctl -qw net.ipv6.conf.all.forwarding=1
			ip addr add fd00::1/128 dev lo nodad
			ip link add va type veth peer name eth0 netns A
			ip link set va up addrgenmode none
			ip addr add fe80::1/64 dev va nodad
			ip route add fd00:1::2/128 dev va`,
		"A": `
			ip addr add fd00:1::2/128 dev eth0 nodad
			ip link set eth0 up
			ip addr add fe80::2/64 dev eth0 nodad
			ip route add default via fe80::1 dev eth0`,
	})
	connect(t, n.a, "fd00:1::2", "[fd00::1]:2579")
	if source, result, err := n.accept(t); source.String() != "fd00:1::2" || result != ResultVerified || err != nil {
		t.Errorf("from %s: %s, %v", source, result, err)
	}
}

func rawSocket(t *testing.T, n *netns.Namespace, protocol int) int {
	t.Helper()
	var fd int
	var err error
	n.In(func() { fd, err = unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, protocol) })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(fd) })
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 30}); err != nil {
		t.Fatal(err)
	}
	return fd
}

const (
	flagSYN = 1 << 1
	flagACK = 1 << 4
)

// segment is an IPv4 packet with a TCP header and nothing else.
func segment(from netip.Addr, to netip.AddrPort, port uint16, flags byte, sequence, acknowledged uint32) []byte {
	const ipHeader, tcpHeader = 20, 20
	source, destination := from.As4(), to.Addr().As4()
	tcp := binary.BigEndian.AppendUint16(nil, port)
	tcp = binary.BigEndian.AppendUint16(tcp, to.Port())
	tcp = binary.BigEndian.AppendUint32(tcp, sequence)
	tcp = binary.BigEndian.AppendUint32(tcp, acknowledged)
	tcp = append(tcp, tcpHeader/4<<4, flags, 0xff, 0xff, 0, 0, 0, 0)
	pseudo := append(append(source[:], destination[:]...), 0, unix.IPPROTO_TCP, 0, tcpHeader)
	binary.BigEndian.PutUint16(tcp[16:], checksum(append(pseudo, tcp...)))
	ip := []byte{0x45, 0, 0, ipHeader + tcpHeader, 0, 0, 0, 0, 64, unix.IPPROTO_TCP, 0, 0}
	ip = append(append(ip, source[:]...), destination[:]...)
	return append(ip, tcp...) // the kernel fills in the checksum of the IP header
}

// checksum is that of RFC 1071.
func checksum(data []byte) uint16 {
	var sum uint32
	for i := 0; i+1 < len(data); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(data[i:]))
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}

func TestOffChecksNothing(t *testing.T) {
	if c, err := New(Off, nil); c != nil || err != nil {
		t.Errorf("got %v, %v", c, err)
	}
}

func TestCheckOfWhatIsNoConnectionOfTheKernel(t *testing.T) {
	for mode, refused := range map[Mode]bool{Auto: false, On: true} {
		c, err := New(mode, func(string) {})
		if err != nil {
			t.Fatal(err)
		}
		one, other := net.Pipe()
		if err := c.Check(context.Background(), one); errors.Is(err, ErrSource) != refused {
			t.Errorf("%s: %v", mode, err)
		}
		if err := errors.Join(one.Close(), other.Close(), c.Close(), c.Close()); err != nil {
			t.Error(err)
		}
	}
}
