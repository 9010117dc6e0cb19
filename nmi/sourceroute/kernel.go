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
	mu       sync.Mutex
	fd       int // -1 once it is closed
	sequence uint32
	buffer   []byte
}

func openRoutes() (*routes, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("opening a netlink socket: %w", err)
	}
	timeout := unix.NsecToTimeval(answerTimeout.Nanoseconds())
	err = errors.Join(
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &timeout),
		unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}))
	if err != nil {
		return nil, errors.Join(fmt.Errorf("opening a netlink socket: %w", err), unix.Close(fd))
	}
	return &routes{fd: fd, buffer: make([]byte, 32<<10)}, nil
}

func (r *routes) close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	fd := r.fd
	if r.fd = -1; fd < 0 {
		return nil
	}
	return unix.Close(fd)
}

// to is the route by which answers go from a local address to another one.
func (r *routes) to(destination, local netip.Addr) (route, error) {
	family := byte(unix.AF_INET6)
	if destination.Is4() {
		family = unix.AF_INET
	}
	message := make([]byte, unix.SizeofRtMsg)
	message[0], message[1], message[2] = family, byte(destination.BitLen()), byte(local.BitLen())
	binary.NativeEndian.PutUint32(message[8:], unix.RTM_F_FIB_MATCH)
	message = appendAttribute(message, unix.RTA_DST, destination.AsSlice())
	message = appendAttribute(message, unix.RTA_SRC, local.AsSlice())
	var found route
	err := r.ask(unix.RTM_GETROUTE, unix.RTM_NEWROUTE, message, func(answer []byte) (err error) {
		found, err = readRoute(answer)
		return err
	})
	if err != nil {
		return route{}, fmt.Errorf("looking for the route to %s: %w", destination, err)
	}
	return found, nil
}

// readRoute reads the answer about a route. It is pure.
func readRoute(answer []byte) (route, error) {
	if len(answer) < unix.SizeofRtMsg {
		return route{}, errors.New("the answer is too short")
	}
	family, bits, kind := answer[0], answer[1], answer[7]
	if kind != unix.RTN_UNICAST {
		return route{}, errors.New("it does not lead to an interface")
	}
	device, ok := attributes(answer[unix.SizeofRtMsg:])[unix.RTA_OIF]
	if !ok || len(device) < 4 {
		return route{}, errors.New("it does not lead to one interface")
	}
	return route{
		device: int(binary.NativeEndian.Uint32(device)),
		single: family == unix.AF_INET && bits == 32 || family == unix.AF_INET6 && bits == 128,
	}, nil
}

// withoutStatistics is RTEXT_FILTER_SKIP_STATS of linux/rtnetlink.h.
const withoutStatistics = 1 << 3

// device finds an interface by its index.
func (r *routes) device(index int) (device, error) {
	message := make([]byte, unix.SizeofIfInfomsg)
	binary.NativeEndian.PutUint32(message[4:], uint32(index))
	message = appendAttribute(message, unix.IFLA_EXT_MASK, binary.NativeEndian.AppendUint32(nil, withoutStatistics))
	var found device
	err := r.ask(unix.RTM_GETLINK, unix.RTM_NEWLINK, message, func(answer []byte) (err error) {
		found, err = readDevice(answer)
		return err
	})
	if err != nil {
		return device{}, fmt.Errorf("looking for interface %d: %w", index, err)
	}
	return found, nil
}

// readDevice reads the answer about an interface. It is pure.
func readDevice(answer []byte) (device, error) {
	if len(answer) < unix.SizeofIfInfomsg {
		return device{}, errors.New("the answer is too short")
	}
	found := attributes(answer[unix.SizeofIfInfomsg:])
	_, port := found[unix.IFLA_MASTER]
	return device{
		name: text(found[unix.IFLA_IFNAME]), port: port,
		kind: text(attributes(found[unix.IFLA_LINKINFO])[unix.IFLA_INFO_KIND]),
	}, nil
}

// ask sends one message and has its answer read.
func (r *routes) ask(kind, answerKind uint16, message []byte, read func([]byte) error) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.fd < 0 {
		return net.ErrClosed
	}
	r.sequence++
	header := make([]byte, unix.SizeofNlMsghdr, unix.SizeofNlMsghdr+len(message))
	binary.NativeEndian.PutUint32(header, uint32(len(header)+len(message)))
	binary.NativeEndian.PutUint16(header[4:], kind)
	binary.NativeEndian.PutUint16(header[6:], unix.NLM_F_REQUEST)
	binary.NativeEndian.PutUint32(header[8:], r.sequence)
	if err := unix.Sendto(r.fd, append(header, message...), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return fmt.Errorf("asking the kernel: %w", err)
	}
	for {
		n, _, err := unix.Recvfrom(r.fd, r.buffer, 0)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return fmt.Errorf("asking the kernel: %w", err)
		}
		data := r.buffer[:n]
		if len(data) < unix.SizeofNlMsghdr || binary.NativeEndian.Uint32(data[8:]) != r.sequence {
			continue // of an earlier question that was given up
		}
		size := min(len(data), int(binary.NativeEndian.Uint32(data)))
		if size < unix.SizeofNlMsghdr {
			return errors.New("the kernel's answer is too short")
		}
		body := data[unix.SizeofNlMsghdr:size]
		switch binary.NativeEndian.Uint16(data[4:]) {
		case answerKind:
			return read(body)
		case unix.NLMSG_ERROR:
			if len(body) >= 4 {
				return syscall.Errno(-int32(binary.NativeEndian.Uint32(body)))
			}
		}
		return errors.New("the kernel's answer is not understood")
	}
}

const (
	attributeHead = 4
	attributeType = 0x3fff // without the flags
)

func appendAttribute(to []byte, kind uint16, value []byte) []byte {
	to = binary.NativeEndian.AppendUint16(to, uint16(attributeHead+len(value)))
	to = binary.NativeEndian.AppendUint16(to, kind)
	to = append(to, value...)
	for len(to)%4 != 0 {
		to = append(to, 0)
	}
	return to
}

// attributes reads the attributes of a message. It is pure.
func attributes(data []byte) map[uint16][]byte {
	found := map[uint16][]byte{}
	for len(data) >= attributeHead {
		size := int(binary.NativeEndian.Uint16(data))
		if size < attributeHead || size > len(data) {
			break
		}
		found[binary.NativeEndian.Uint16(data[2:])&attributeType] = data[attributeHead:size]
		data = data[min(len(data), (size+3)&^3):]
	}
	return found
}

// text is a string of the kernel, without its end.
func text(value []byte) string {
	if n := len(value); n > 0 && value[n-1] == 0 {
		value = value[:n-1]
	}
	return string(value)
}
