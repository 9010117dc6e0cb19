package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	"k8s.io/klog/v2"

	"github.com/aad-pod-identity/aad-pod-identity/internal/logkey"
)

// In a rolling update, the NMI that serves a node hands its listening sockets to
// the one that is to take its place, over a unix socket in a directory of the node
// that only root can enter. Both have the same socket for a moment, with one queue
// of connections, so none is lost: two sockets of one port (SO_REUSEPORT) have a
// queue each, and the one that closes resets what is in its own.
//
//	successor                         predecessor
//	connects, waits until it is ready
//	{"addresses": [...],
//	 "generation": n}              ─▶
//	                               ◀─ {"addresses": [...]} and the sockets
//	serves
//	{"serving": true}              ─▶ accepts no more
//
// Until the last message the predecessor goes on as before, whatever happens to
// the successor. It hands nothing over to an NMI of an older pod template: one that is
// restarted while its successor serves would take over from that, and the update would
// wait for ever for the successor to be ready.
const (
	handoverSocket  = "nmi.sock"
	handoverMode    = 0o700
	handoverTimeout = 30 * time.Second
	maxSockets      = 8
)

// message is what the two say, each in one line.
type message struct {
	Addresses  []string `json:"addresses,omitempty"`
	Generation int64    `json:"generation,omitempty"` // of the pod template, 0 if it is not known
	Serving    bool     `json:"serving,omitempty"`
}

func say(c *net.UnixConn, m message, fds ...int) error {
	line, err := json.Marshal(m)
	if err != nil {
		return fmt.Errorf("encoding: %w", err)
	}
	var rights []byte
	if len(fds) > 0 {
		rights = unix.UnixRights(fds...)
	}
	if _, _, err := c.WriteMsgUnix(append(line, '\n'), rights, nil); err != nil {
		return fmt.Errorf("writing: %w", err)
	}
	return nil
}

// predecessor is the NMI that serves the node when this one starts.
type predecessor struct{ conn *net.UnixConn }

// findPredecessor returns nil without an error if nobody serves: a socket file
// without a process is what a killed one leaves.
func findPredecessor(ctx context.Context, dir string) (*predecessor, error) {
	c, err := new(net.Dialer).DialContext(ctx, "unix", filepath.Join(dir, handoverSocket))
	switch {
	case errors.Is(err, os.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("looking for the NMI before this one: %w", err)
	}
	u, ok := c.(*net.UnixConn)
	if !ok {
		return nil, errors.Join(errors.New("looking for the NMI before this one: not a unix socket"), c.Close())
	}
	return &predecessor{u}, nil
}

// gone waits until the predecessor has ended, or ctx does. It says nothing by
// itself, so whatever can be read is its end.
func (p *predecessor) gone(ctx context.Context) error {
	woken := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(woken)
		_ = p.conn.SetReadDeadline(time.Unix(1, 0))
	})
	_, err := p.conn.Read(make([]byte, 1))
	if !stop() {
		<-woken // or it would cut short what is read next
	}
	if ctx.Err() != nil {
		return errors.Join(ctx.Err(), p.conn.SetReadDeadline(time.Time{}))
	}
	return fmt.Errorf("the NMI before this one has ended: %w", errors.Join(err, io.EOF))
}

// take asks for the sockets of the addresses and returns those that the
// predecessor has, by address.
func (p *predecessor) take(addresses []string, generation int64) (map[string]net.Listener, error) {
	if err := p.conn.SetDeadline(time.Now().Add(handoverTimeout)); err != nil {
		return nil, fmt.Errorf("taking over: %w", err)
	}
	if err := say(p.conn, message{Addresses: addresses, Generation: generation}); err != nil {
		return nil, fmt.Errorf("taking over: %w", err)
	}
	line, rights := make([]byte, 4096), make([]byte, unix.CmsgSpace(maxSockets*4))
	n, rn, _, _, err := p.conn.ReadMsgUnix(line, rights)
	if err != nil {
		return nil, fmt.Errorf("taking over: reading: %w", err)
	}
	fds, err := descriptors(rights[:rn])
	if err != nil {
		return nil, fmt.Errorf("taking over: %w", err)
	}
	got, err := listenersOf(fds)
	if err != nil {
		return nil, fmt.Errorf("taking over: %w", err)
	}
	var m message
	if err := json.Unmarshal(line[:n], &m); err != nil || len(m.Addresses) != len(got) {
		err = errors.Join(fmt.Errorf("taking over: %d sockets for %q", len(got), line[:n]), err)
		for _, l := range got {
			err = errors.Join(err, l.Close())
		}
		return nil, err
	}
	taken := map[string]net.Listener{}
	for i, a := range m.Addresses {
		taken[a] = got[i]
	}
	return taken, nil
}

// serving tells the predecessor that its sockets are served.
func (p *predecessor) serving() error {
	return errors.Join(say(p.conn, message{Serving: true}), p.conn.Close())
}

func descriptors(rights []byte) ([]int, error) {
	if len(rights) == 0 {
		return nil, nil
	}
	messages, err := unix.ParseSocketControlMessage(rights)
	if err != nil {
		return nil, fmt.Errorf("reading the sockets: %w", err)
	}
	var all []int
	for i := range messages {
		fds, err := unix.ParseUnixRights(&messages[i])
		if err != nil {
			return all, fmt.Errorf("reading the sockets: %w", err)
		}
		all = append(all, fds...)
	}
	return all, nil
}

// listenersOf makes listeners of descriptors, all or none.
func listenersOf(fds []int) ([]net.Listener, error) {
	var listeners []net.Listener
	var errs error
	for _, fd := range fds {
		f := os.NewFile(uintptr(fd), "handed over")
		l, err := net.FileListener(f) // a copy
		errs = errors.Join(errs, err, f.Close())
		if err == nil {
			listeners = append(listeners, l)
		}
	}
	if errs != nil {
		for _, l := range listeners {
			errs = errors.Join(errs, l.Close())
		}
		return nil, errs
	}
	return listeners, nil
}

// giver hands the listening sockets of this NMI to its successor.
type giver struct {
	dir string
	// generation is that of the DaemonSet's pod template, 0 if it is not known.
	generation int64
	// sockets returns the listeners by address, retire is called when a successor
	// serves on them.
	sockets func() map[string]net.Listener
	retire  func()
}

// run waits for successors until ctx ends. Without a directory to wait in, an
// update loses requests, which is no reason not to serve.
func (g *giver) run(ctx context.Context) error {
	log := klog.FromContext(ctx)
	l, err := g.listen(ctx)
	if err != nil {
		log.Error(err, "The next NMI of this node cannot take over the listening sockets; pods will be refused for a moment then", logkey.Path, g.dir)
		<-ctx.Done()
		return ctx.Err()
	}
	defer context.AfterFunc(ctx, func() { _ = l.Close() })()
	for {
		c, err := l.AcceptUnix()
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			return fmt.Errorf("waiting for a successor: %w", err)
		}
		go func() { // ends with its connection, which ctx closes
			defer context.AfterFunc(ctx, func() { _ = c.Close() })()
			if err := g.give(c); err != nil && ctx.Err() == nil {
				log.Error(err, "The successor has not taken over; serving on")
			}
			_ = c.Close()
		}()
	}
}

// listen makes the socket. The one of a predecessor is replaced in one step, and
// never removed at the end: it may be the successor's by then.
func (g *giver) listen(ctx context.Context) (*net.UnixListener, error) {
	if err := os.MkdirAll(g.dir, handoverMode); err != nil {
		return nil, fmt.Errorf("making the directory of the handover: %w", err)
	}
	if err := os.Chmod(g.dir, handoverMode); err != nil {
		return nil, fmt.Errorf("protecting the directory of the handover: %w", err)
	}
	path := filepath.Join(g.dir, handoverSocket)
	fresh := fmt.Sprintf("%s.%d.%d", path, os.Getpid(), time.Now().UnixNano())
	l, err := new(net.ListenConfig).Listen(ctx, "unix", fresh)
	if err != nil {
		return nil, fmt.Errorf("listening for a successor: %w", err)
	}
	u, ok := l.(*net.UnixListener)
	if !ok {
		return nil, errors.Join(errors.New("listening for a successor: not a unix socket"), l.Close())
	}
	u.SetUnlinkOnClose(false)
	if err := os.Rename(fresh, path); err != nil {
		return nil, errors.Join(fmt.Errorf("listening for a successor: %w", err), os.Remove(fresh), u.Close())
	}
	return u, nil
}

// give serves one successor, which first takes as long as it needs to get ready.
func (g *giver) give(c *net.UnixConn) error {
	if err := sameUser(c); err != nil {
		return err
	}
	lines := bufio.NewReader(io.LimitReader(c, 4096))
	wants, err := hear(lines)
	if err != nil {
		if errors.Is(err, io.EOF) {
			return nil // it left without a word
		}
		return err
	}
	if wants.Generation > 0 && wants.Generation < g.generation {
		return fmt.Errorf("handing over: to an NMI of the older pod template %d, this one is of %d", wants.Generation, g.generation)
	}
	if err := c.SetDeadline(time.Now().Add(handoverTimeout)); err != nil {
		return fmt.Errorf("handing over: %w", err)
	}
	have := g.sockets()
	var m message
	var fds []int
	for _, a := range wants.Addresses {
		l, ok := have[a].(*net.TCPListener)
		if !ok || len(fds) == maxSockets {
			continue
		}
		raw, err := l.SyscallConn()
		if err != nil {
			return fmt.Errorf("handing over: %w", err)
		}
		// The kernel copies the descriptor, so it need not outlive the message.
		// TCPListener.File would make ours a blocking one.
		if err := raw.Control(func(fd uintptr) { fds = append(fds, int(fd)) }); err != nil {
			return fmt.Errorf("handing over: %w", err)
		}
		m.Addresses = append(m.Addresses, a)
	}
	if err := say(c, m, fds...); err != nil {
		return fmt.Errorf("handing over: %w", err)
	}
	answer, err := hear(lines)
	if err != nil {
		return fmt.Errorf("handing over: %w", err)
	}
	if !answer.Serving {
		return errors.New("handing over: the successor does not serve")
	}
	g.retire()
	return nil
}

func hear(r *bufio.Reader) (message, error) {
	line, err := r.ReadBytes('\n')
	if err != nil {
		return message{}, fmt.Errorf("hearing the other NMI: %w", err)
	}
	var m message
	if err := json.Unmarshal(line, &m); err != nil {
		return message{}, fmt.Errorf("understanding the other NMI: %w", err)
	}
	return m, nil
}

// sameUser checks that the other end runs as the same user as this process, which
// the mode of the directory should have seen to.
func sameUser(c *net.UnixConn) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return fmt.Errorf("identifying the successor: %w", err)
	}
	var cred *unix.Ucred
	var credErr error
	if err := raw.Control(func(fd uintptr) {
		cred, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); err != nil || credErr != nil {
		return fmt.Errorf("identifying the successor: %w", errors.Join(err, credErr))
	}
	if int(cred.Uid) != os.Geteuid() {
		return fmt.Errorf("a process of user %d wants the sockets", cred.Uid)
	}
	return nil
}
