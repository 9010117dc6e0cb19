package sourceroute

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"
	"unsafe"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// arrival is the index of the interface on which the connection was opened; 0 if the
// kernel does not know. Linux keeps it for each connection that it has accepted
// (tcp_v4_syn_recv_sock, tcp_v6_syn_recv_sock) and tells it as the IP_PKTINFO of the
// socket's packets.
func arrival(conn net.Conn, v4 bool) (int, error) {
	sc, ok := conn.(syscall.Conn)
	if !ok {
		return 0, errors.New("it is not a connection of the kernel")
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return 0, fmt.Errorf("asking where it came in: %w", err)
	}
	level, wanted, options := unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO, unix.IPV6_2292PKTOPTIONS
	if v4 {
		level, wanted, options = unix.IPPROTO_IP, unix.IP_PKTINFO, unix.IP_PKTOPTIONS
	}
	var index int
	var failed error
	err = raw.Control(func(fd uintptr) {
		if failed = unix.SetsockoptInt(int(fd), level, wanted, 1); failed != nil {
			return
		}
		buffer := make([]byte, 256)
		var n int
		if n, failed = getsockopt(fd, level, options, buffer); failed == nil {
			index, failed = readPacketInfo(buffer[:n])
		}
		// Only for IPv6 this costs something for each packet.
		failed = errors.Join(failed, unix.SetsockoptInt(int(fd), level, wanted, 0))
	})
	if err = errors.Join(err, failed); err != nil {
		return 0, fmt.Errorf("asking where it came in: %w", err)
	}
	return index, nil
}

// getsockopt reads an option of any form, for which x/sys has nothing.
func getsockopt(fd uintptr, level, option int, into []byte) (int, error) {
	size := uint32(len(into))
	_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, fd, uintptr(level), uintptr(option),
		uintptr(unsafe.Pointer(&into[0])), uintptr(unsafe.Pointer(&size)), 0)
	if errno != 0 {
		return 0, errno
	}
	return int(size), nil
}

// readPacketInfo finds the interface in the control messages of a socket; 0 if they
// do not tell. It is pure.
func readPacketInfo(control []byte) (int, error) {
	messages, err := unix.ParseSocketControlMessage(control)
	if err != nil {
		return 0, fmt.Errorf("reading control messages: %w", err)
	}
	for _, m := range messages {
		at := -1
		switch {
		case m.Header.Level == unix.IPPROTO_IP && m.Header.Type == unix.IP_PKTINFO:
			at = 0 // struct in_pktinfo begins with it
		case m.Header.Level == unix.IPPROTO_IPV6 && m.Header.Type == unix.IPV6_PKTINFO:
			at = net.IPv6len // in struct in6_pktinfo after an address
		}
		if at >= 0 && len(m.Data) >= at+4 {
			return int(binary.NativeEndian.Uint32(m.Data[at:])), nil
		}
	}
	return 0, nil
}

// answerTimeout bounds a question to the kernel, which answers at once.
const answerTimeout = time.Second

// routes asks the kernel about routes and interfaces.
type routes struct {
	mu   sync.Mutex
	conn *netlink.Conn
}

// answerSize is more than the kernel ever says about one interface.
const answerSize = 32 << 10

func openRoutes() (*routes, error) {
	conn, err := netlink.Dial(unix.NETLINK_ROUTE, &netlink.Config{MessageBufferSize: answerSize})
	if err != nil {
		return nil, fmt.Errorf("opening a netlink socket: %w", err)
	}
	return &routes{conn: conn}, nil
}

func (r *routes) close() error { return r.conn.Close() }

// to is the route by which answers go from a local address to another one.
func (r *routes) to(destination, local netip.Addr) (route, error) {
	family := byte(unix.AF_INET6)
	if destination.Is4() {
		family = unix.AF_INET
	}
	header := make([]byte, unix.SizeofRtMsg)
	header[0], header[1], header[2] = family, byte(destination.BitLen()), byte(local.BitLen())
	binary.NativeEndian.PutUint32(header[8:], unix.RTM_F_FIB_MATCH)
	attributes := netlink.NewAttributeEncoder()
	attributes.Bytes(unix.RTA_DST, destination.AsSlice())
	attributes.Bytes(unix.RTA_SRC, local.AsSlice())
	answer, err := r.ask(unix.RTM_GETROUTE, header, attributes)
	var found route
	if err == nil {
		found, err = readRoute(answer)
	}
	if err != nil {
		return route{}, fmt.Errorf("looking for the route to %s: %w", destination, err)
	}
	return found, nil
}

// readRoute reads the answer about a route. It is pure.
func readRoute(answer []byte) (route, error) {
	if len(answer) < unix.SizeofRtMsg {
		return route{}, errTooShort
	}
	family, bits, kind := answer[0], answer[1], answer[7]
	if kind != unix.RTN_UNICAST {
		return route{}, errors.New("it does not lead to an interface")
	}
	found := route{single: family == unix.AF_INET && bits == 32 || family == unix.AF_INET6 && bits == 128}
	err := readAttributes(answer[unix.SizeofRtMsg:], func(d *netlink.AttributeDecoder) {
		if d.Type() == unix.RTA_OIF {
			found.device = int(d.Uint32())
		}
	})
	if err == nil && found.device == 0 {
		err = errors.New("it does not lead to one interface")
	}
	return found, err
}

// withoutStatistics is RTEXT_FILTER_SKIP_STATS of linux/rtnetlink.h.
const withoutStatistics = 1 << 3

// device finds an interface by its index.
func (r *routes) device(index int) (device, error) {
	header := make([]byte, unix.SizeofIfInfomsg)
	binary.NativeEndian.PutUint32(header[4:], uint32(index))
	attributes := netlink.NewAttributeEncoder()
	attributes.Uint32(unix.IFLA_EXT_MASK, withoutStatistics)
	answer, err := r.ask(unix.RTM_GETLINK, header, attributes)
	var found device
	if err == nil {
		found, err = readDevice(answer)
	}
	if err != nil {
		return device{}, fmt.Errorf("looking for interface %d: %w", index, err)
	}
	return found, nil
}

// readDevice reads the answer about an interface. It is pure.
func readDevice(answer []byte) (device, error) {
	if len(answer) < unix.SizeofIfInfomsg {
		return device{}, errTooShort
	}
	var found device
	err := readAttributes(answer[unix.SizeofIfInfomsg:], func(d *netlink.AttributeDecoder) {
		switch d.Type() {
		case unix.IFLA_IFNAME:
			found.name = d.String()
		case unix.IFLA_MASTER:
			found.port = true
		case unix.IFLA_LINKINFO:
			d.Nested(func(info *netlink.AttributeDecoder) error {
				for info.Next() {
					if info.Type() == unix.IFLA_INFO_KIND {
						found.kind = info.String()
					}
				}
				return nil
			})
		}
	})
	return found, err
}

func readAttributes(data []byte, each func(*netlink.AttributeDecoder)) error {
	d, err := netlink.NewAttributeDecoder(data)
	if err == nil {
		for d.Next() {
			each(d)
		}
		err = d.Err()
	}
	if err != nil {
		return fmt.Errorf("reading the kernel's answer: %w", err)
	}
	return nil
}

var errTooShort = errors.New("the kernel's answer is too short")

// ask sends a message and returns what its answer has after the header.
func (r *routes) ask(kind netlink.HeaderType, header []byte, attributes *netlink.AttributeEncoder) ([]byte, error) {
	data, err := attributes.Encode()
	if err != nil {
		return nil, fmt.Errorf("asking the kernel: %w", err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	question, err := r.conn.Send(netlink.Message{Header: netlink.Header{Type: kind, Flags: netlink.Request}, Data: append(header, data...)})
	if err == nil {
		err = r.conn.SetReadDeadline(time.Now().Add(answerTimeout))
	}
	for err == nil {
		var answers []netlink.Message
		answers, err = r.conn.Receive()
		for _, a := range answers {
			if a.Header.Sequence == question.Header.Sequence { // others are of a question that was given up
				return a.Data, nil
			}
		}
	}
	return nil, fmt.Errorf("asking the kernel: %w", err)
}
