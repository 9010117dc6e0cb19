package sourceroute

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"

	"k8s.io/klog/v2"

	"github.com/aad-pod-identity/aad-pod-identity/internal/logkey"
)

// Mode says what is checked.
type Mode string

// Modes.
const (
	// Auto refuses a connection that came in on another interface than the route to
	// its source address leads to, where that tells pods apart.
	Auto Mode = "auto"
	// On refuses as well what cannot be checked.
	On Mode = "on"
	// Off checks nothing.
	Off Mode = "off"
)

// Modes are all of them.
var Modes = []Mode{Auto, On, Off}

// Results of a check, for metrics.
const (
	ResultVerified     = "verified"
	ResultUnverifiable = "unverifiable"
	ResultRefused      = "refused"
)

// ErrSource is the error of a connection whose source address is not trusted.
var ErrSource = errors.New("the connection did not come in by the route to its source address")

// Checker checks connections. Its methods are safe for concurrent use.
type Checker struct {
	mode    Mode
	routes  *routes
	observe func(result string)
	told    sync.Once
}

// New makes a Checker of connections in the network namespace of the calling thread.
// Observe is told the result of each check. With the mode off there is none.
func New(mode Mode, observe func(result string)) (*Checker, error) {
	if mode == Off {
		return nil, nil
	}
	r, err := openRoutes()
	if err != nil {
		return nil, fmt.Errorf("checking source addresses: %w", err)
	}
	return &Checker{mode: mode, routes: r, observe: observe}, nil
}

// Close ends the use of the Checker.
func (c *Checker) Close() error { return c.routes.close() }

// Check says whether a connection is to be served, by an error that is ErrSource if
// not. It takes two questions to the kernel, some tens of microseconds for each
// connection.
func (c *Checker) Check(ctx context.Context, conn net.Conn) error {
	result, why := c.look(conn)
	if result == ResultUnverifiable && c.mode == On {
		result = ResultRefused
	}
	c.observe(result)
	switch result {
	case ResultRefused:
		return fmt.Errorf("%w: %s", ErrSource, why)
	case ResultUnverifiable:
		c.told.Do(func() {
			klog.FromContext(ctx).Info("Where connections come from cannot be checked on the network of this node: a pod with CAP_NET_RAW may be able to act as another one", logkey.Reason, why)
		})
	}
	return nil
}

// look finds out about a connection, with the reason unless it is verified.
func (c *Checker) look(conn net.Conn) (result, why string) {
	source, local := addressOf(conn.RemoteAddr()), addressOf(conn.LocalAddr())
	if !source.IsValid() || !local.IsValid() {
		return ResultUnverifiable, "it has no IP addresses"
	}
	arrived, err := arrival(conn, source.Is4())
	if err != nil {
		return ResultUnverifiable, err.Error()
	}
	r, err := c.routes.to(source, local)
	if err != nil {
		return ResultUnverifiable, err.Error()
	}
	d, err := c.routes.device(r.device)
	if err != nil {
		return ResultUnverifiable, err.Error()
	}
	return judge(arrived, r, d)
}

// route is how the kernel sends packets to an address.
type route struct {
	device int // index of the interface
	// single says that it is the route of this very address.
	single bool
}

// device is an interface.
type device struct {
	name string
	// kind is what the kernel calls the sort of a virtual interface; empty for others.
	kind string
	// port says that it belongs to a bridge or the like.
	port bool
}

// alone are the kinds of interfaces that have one pod at their other end: pairs, and
// those of virtual machines.
var alone = map[string]bool{"veth": true, "netkit": true, "tun": true}

// judge decides about a connection that has come in on an interface. It is pure.
//
// An interface other than that of the route proves a wrong source only where pods are
// known to come in by it: on a route of the pod's own, or on a bridge. Networks that
// route by eBPF have one interface for all pods that none of them comes in by. The
// same interface proves a right source only where it leads to this one pod.
func judge(arrived int, r route, d device) (result, why string) {
	bridge := d.kind == "bridge"
	switch {
	case arrived == 0:
		return ResultUnverifiable, "the kernel does not say where it came in"
	case arrived != r.device && (r.single || bridge):
		return ResultRefused, fmt.Sprintf("it came in on interface %d, and the route leads to %d, %s", arrived, r.device, d.name)
	case !r.single:
		return ResultUnverifiable, fmt.Sprintf("the route by %s is not of this address alone", d.name)
	case bridge || d.port || !alone[d.kind]:
		return ResultUnverifiable, fmt.Sprintf("other pods may be behind %s, too", d.name)
	}
	return ResultVerified, ""
}

func addressOf(a net.Addr) netip.Addr {
	t, ok := a.(*net.TCPAddr)
	if !ok {
		return netip.Addr{}
	}
	return t.AddrPort().Addr().Unmap()
}
