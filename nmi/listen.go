package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/klog/v2"

	"github.com/aad-pod-identity/aad-pod-identity/internal/logkey"
)

// loopback is where processes of the node ask for /host/token.
const loopback = "127.0.0.1"

// listening opens NMI's sockets and knows whether they are open.
type listening struct {
	addresses []string
	first     chan struct{} // closed after the first attempt

	mu   sync.Mutex
	done bool
	err  error
}

func newListening(address, port string) *listening {
	l := &listening{addresses: []string{net.JoinHostPort(address, port)}, first: make(chan struct{})}
	if ip, err := netip.ParseAddr(address); err == nil && !ip.IsLoopback() && !ip.IsUnspecified() {
		l.addresses = append(l.addresses, net.JoinHostPort(loopback, port))
	}
	return l
}

// listen opens the sockets. While another process holds an address it goes on
// trying: during an upgrade that is the NMI before us. Any other error is a
// mistake in the flags, and final.
func (l *listening) listen(ctx context.Context) ([]net.Listener, error) {
	backoff := wait.Backoff{Duration: 100 * time.Millisecond, Factor: 2, Jitter: 0.1, Steps: 6, Cap: 3 * time.Second}
	var once sync.Once
	defer once.Do(func() { close(l.first) })
	for {
		listeners, err := l.open(ctx)
		l.mu.Lock()
		l.done, l.err = err == nil, err
		l.mu.Unlock()
		once.Do(func() { close(l.first) })
		switch {
		case err == nil:
			return listeners, nil
		case !errors.Is(err, syscall.EADDRINUSE):
			return nil, err
		}
		klog.FromContext(ctx).Error(err, "Another process holds the address, perhaps an NMI that is just ending; trying again")
		timer := time.NewTimer(backoff.Step())
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return nil, ctx.Err()
		}
	}
}

func (l *listening) open(ctx context.Context) ([]net.Listener, error) {
	var listeners []net.Listener
	for _, a := range l.addresses {
		s, err := new(net.ListenConfig).Listen(ctx, "tcp4", a)
		if err != nil {
			err = fmt.Errorf("listening for pods: %w", err)
			for _, open := range listeners {
				err = errors.Join(err, open.Close())
			}
			return nil, err
		}
		listeners = append(listeners, s)
	}
	for _, s := range listeners {
		klog.FromContext(ctx).Info("Listening", logkey.Address, s.Addr().String())
	}
	return listeners, nil
}

// tried waits for the end of the first attempt.
func (l *listening) tried(ctx context.Context) {
	select {
	case <-l.first:
	case <-ctx.Done():
	}
}

// Ready fails until all sockets are open.
func (l *listening) Ready(context.Context) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err == nil && !l.done {
		return errors.New("not listening yet")
	}
	return l.err
}
