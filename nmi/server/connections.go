package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/aad-pod-identity/aad-pod-identity/nmi/podindex"
)

// Limits bound what clients can hold of NMI. Zero stands for the default.
type Limits struct {
	// Connections of all clients together.
	Connections int
	// ConnectionsPerPod of one source address.
	ConnectionsPerPod int
	// RequestsPerPod under way from one source address.
	RequestsPerPod int
}

// DefaultLimits let 250 pods, as many as a node runs, wait with 40 requests each,
// and one pod fill several of the usual connection pools. A connection costs
// about 33 KiB while it waits, by what nmi-cold of make bench measures.
var DefaultLimits = Limits{Connections: 12288, ConnectionsPerPod: 512, RequestsPerPod: 256}

func (l Limits) orDefault() Limits {
	set := func(v *int, to int) {
		if *v <= 0 {
			*v = to
		}
	}
	set(&l.Connections, DefaultLimits.Connections)
	set(&l.ConnectionsPerPod, DefaultLimits.ConnectionsPerPod)
	set(&l.RequestsPerPod, DefaultLimits.RequestsPerPod)
	return l
}

// portion of what is still free is what one address may hold. So however many
// addresses hold all that they can, something is left for one that holds nothing:
// n greedy ones together leave total/(1+n/portion) free.
const portion = 16

// admits says whether an address that holds some connections gets one more. It is
// pure.
func (l Limits) admits(held, all int) bool {
	return held < l.ConnectionsPerPod && held < max(1, (l.Connections-all)/portion) && all < l.Connections
}

// refusals is how many clients over the limit are told so at a time; others are
// only cut off, which costs nothing.
const (
	refusals      = 64
	refusalTime   = time.Second
	refusedBuffer = 4 << 10
)

// connections are the open connections by source address.
type connections struct {
	limits  Limits
	pods    *podindex.Index
	refused func(reason string)

	mu      sync.Mutex
	all     int
	origins map[netip.Addr]*origin

	refusing chan struct{}
	running  sync.WaitGroup
}

// origin is a source address with open connections.
type origin struct {
	address  netip.Addr
	conns    map[*conn]struct{} // guarded by connections.mu
	requests atomic.Int32       // under way
}

// conn is a connection of a client. It belongs to the first pod that is known to
// have its source address: an address changes hands, a connection does not.
type conn struct {
	net.Conn
	all    *connections
	origin *origin
	pod    atomic.Pointer[types.UID]
	source sourceCheck
	// idle is since when no request is under way, in nanoseconds of the Unix
	// epoch; 0 while there is one, or none has come yet.
	idle  atomic.Int64
	close sync.Once
}

func newConnections(l Limits, pods *podindex.Index, refused func(reason string)) *connections {
	return &connections{
		limits: l, pods: pods, refused: refused,
		origins: map[netip.Addr]*origin{}, refusing: make(chan struct{}, refusals),
	}
}

// count is the number of open connections.
func (c *connections) count() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.all
}

// listener admits connections within the limits.
type listener struct {
	net.Listener
	all *connections
}

// Accept implements net.Listener.
func (l *listener) Accept() (net.Conn, error) {
	for {
		raw, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if c := l.all.admit(raw); c != nil {
			return c, nil
		}
		l.all.refuse(raw)
	}
}

// admit counts a connection, or returns nil when there is no room for it. An
// address at its limit gives up the connection that it has not used for longest:
// connection pools of clients keep more than they use.
func (c *connections) admit(raw net.Conn) *conn {
	from := addressOf(raw.RemoteAddr())
	c.mu.Lock()
	o := c.origins[from]
	if o == nil {
		o = &origin{address: from, conns: map[*conn]struct{}{}}
	}
	var unused *conn
	if !c.limits.admits(len(o.conns), c.all) {
		if unused = o.unused(); unused == nil {
			c.mu.Unlock()
			return nil
		}
		c.drop(unused)
	}
	c.origins[from] = o
	admitted := &conn{Conn: raw, all: c, origin: o}
	o.conns[admitted] = struct{}{}
	c.all++
	c.mu.Unlock()
	if unused != nil {
		_ = unused.Close() // the client has nothing under way on it
	}
	if v, err := c.pods.ByIP(from); err == nil {
		admitted.belongs(v.Pod.UID)
	}
	return admitted
}

// unused is the connection that has been idle for longest, or nil.
func (o *origin) unused() *conn {
	var longest *conn
	var since int64
	for c := range o.conns {
		if idle := c.idle.Load(); idle != 0 && (longest == nil || idle < since) {
			longest, since = c, idle
		}
	}
	return longest
}

// drop forgets a connection; c.mu is held. It can be repeated.
func (c *connections) drop(gone *conn) {
	if _, ok := gone.origin.conns[gone]; !ok {
		return
	}
	delete(gone.origin.conns, gone)
	c.all--
	if len(gone.origin.conns) == 0 && c.origins[gone.origin.address] == gone.origin {
		delete(c.origins, gone.origin.address)
	}
}

// Close implements net.Conn.
func (c *conn) Close() error {
	c.close.Do(func() {
		c.all.mu.Lock()
		defer c.all.mu.Unlock()
		c.all.drop(c)
	})
	return c.Conn.Close()
}

// CloseWrite lets the server end its side first, so that the client reads the
// answer before the connection is gone.
func (c *conn) CloseWrite() error {
	if w, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return w.CloseWrite()
	}
	return nil
}

// owner is the UID of the pod whose connection it is, or "".
func (c *conn) owner() types.UID {
	if owner := c.pod.Load(); owner != nil {
		return *owner
	}
	return ""
}

// belongs says whether the connection is the pod's, and makes it so if it is
// nobody's yet.
func (c *conn) belongs(pod types.UID) bool {
	if owner := c.pod.Load(); owner != nil {
		return *owner == pod
	}
	kept := pod // escapes only here, so that requests on a known connection allocate nothing
	return c.pod.CompareAndSwap(nil, &kept) || *c.pod.Load() == pod
}

// sourceCheck is the outcome of the check of a connection's source address, which is
// made when the first request has come from a pod. Requests come one after the other.
type sourceCheck struct {
	made bool
	err  error
}

// trusted says whether the connection comes from where its source address is.
func (c *conn) trusted(ctx context.Context, check func(context.Context, net.Conn) error) error {
	if check != nil && !c.source.made {
		c.source = sourceCheck{made: true, err: check(ctx, c.Conn)}
	}
	return c.source.err
}

// follow keeps note of when the connection was last in use; it is the server's
// ConnState hook.
func follow(nc net.Conn, state http.ConnState) {
	c, ok := nc.(*conn)
	if !ok {
		return
	}
	if state == http.StateIdle {
		c.idle.Store(time.Now().UnixNano())
	} else {
		c.idle.Store(0)
	}
}

// refuse answers as the real service does when it is asked too much. What the
// client has sent is read first: closing a connection with unread data resets it,
// and the answer would be lost.
func (c *connections) refuse(raw net.Conn) {
	c.refused(reasonConnections)
	select {
	case c.refusing <- struct{}{}:
	default:
		_ = raw.Close()
		return
	}
	c.running.Go(func() {
		defer func() { <-c.refusing }()
		defer func() { _ = raw.Close() }()
		if raw.SetDeadline(time.Now().Add(refusalTime)) != nil {
			return
		}
		buffer := make([]byte, refusedBuffer)
		if _, err := raw.Read(buffer); err == nil {
			_, _ = raw.Write(refusal)
		}
	})
}

// refusal is the answer to a client over the limit of connections.
var refusal = func() []byte {
	body, _ := json.Marshal(map[string]string{"error": codeTooMany, "error_description": "too many connections"})
	return fmt.Appendf(nil, "HTTP/1.1 429 Too Many Requests\r\nContent-Type: application/json; charset=utf-8\r\nContent-Length: %d\r\n"+
		"Retry-After: 1\r\nCache-Control: no-store\r\nConnection: close\r\n\r\n%s", len(body), body)
}()

// severed says whether a connection that is the pod's is to be cut off, by what is
// known of its source address now. It is pure. Where that is not certain, requests
// are refused, and the connection may yet prove to be right.
func severed(owner types.UID, now podindex.View, err error) bool {
	if err == nil {
		return now.Pod.UID != owner
	}
	return errors.Is(err, podindex.ErrUnknown)
}

// cutForeign closes the connections of pods that are gone or have lost their
// address, whenever pods change, until ctx ends.
func (c *connections) cutForeign(ctx context.Context) {
	for {
		changed := c.pods.PodsChanged()
		for _, foreign := range c.foreign() {
			c.refused(reasonAddress)
			_ = foreign.Close()
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}

func (c *connections) foreign() []*conn {
	c.mu.Lock()
	defer c.mu.Unlock()
	var found []*conn
	for address, o := range c.origins {
		v, err := c.pods.ByIP(address)
		for n := range o.conns {
			if owner := n.pod.Load(); owner != nil && severed(*owner, v, err) {
				found = append(found, n)
			}
		}
	}
	return found
}

type connKey struct{}

// connOf is the connection of a request; nil if it did not come over one of ours.
func connOf(ctx context.Context) *conn {
	c, _ := ctx.Value(connKey{}).(*conn)
	return c
}

func withConn(ctx context.Context, nc net.Conn) context.Context {
	if c, ok := nc.(*conn); ok {
		return context.WithValue(ctx, connKey{}, c)
	}
	return ctx
}

func addressOf(a net.Addr) netip.Addr {
	t, ok := a.(*net.TCPAddr)
	if !ok {
		return netip.Addr{}
	}
	return t.AddrPort().Addr().Unmap()
}
