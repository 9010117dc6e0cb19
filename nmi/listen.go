package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"sync"
	"syscall"
	"time"

	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/klog/v2"

	"github.com/aad-pod-identity/aad-pod-identity/internal/logkey"
)

// loopback is where processes of the node ask for /host/token.
const loopback = "127.0.0.1"

// listening gets NMI's sockets, from the NMI before it or from the kernel, and
// knows whether it has them.
type listening struct {
	addresses []string
	// dir is where a predecessor hands over; empty for none.
	dir string
	// ready returns when this NMI could serve. Before, a predecessor serves better.
	ready func(context.Context) error
	// generation is that of the DaemonSet's pod template, 0 if it is not known.
	generation int64
	// held says whether an address that is taken is that of another NMI, which has to
	// end first since it hands nothing over; nil for no.
	held func(context.Context) bool

	arriving chan net.Listener
	first    chan struct{} // closed after the first attempt

	mu      sync.Mutex
	sockets map[string]net.Listener
	errs    map[string]error // why an address is not listened on
}

func newListening(addresses []string) *listening {
	l := &listening{
		addresses: addresses,
		arriving:  make(chan net.Listener), first: make(chan struct{}),
		sockets: map[string]net.Listener{}, errs: map[string]error{},
	}
	for _, a := range l.addresses {
		l.errs[a] = errors.New("not listening yet")
	}
	return l
}

// run gets the sockets and returns when it has them all. What it has arrives on
// the channel at once.
func (l *listening) run(ctx context.Context) error {
	var once sync.Once
	tried := func() { once.Do(func() { close(l.first) }) }
	defer tried()
	if l.dir != "" {
		err := whileInUse(ctx, "An address that the NMI before this one does not have is taken; that one goes on", l.takeOver)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, errNotOpened):
			return err
		case err != nil:
			klog.FromContext(ctx).Error(err, "Not taking over from another NMI")
		}
	}
	return whileInUse(ctx, "Another process holds an address, perhaps an NMI that is just ending; trying again", func(ctx context.Context) error {
		err := l.openMissing(ctx)
		tried()
		return err
	})
}

// whileInUse tries again as long as an address is in use, and says so once.
func whileInUse(ctx context.Context, text string, try func(context.Context) error) error {
	backoff := wait.Backoff{Duration: 100 * time.Millisecond, Factor: 2, Jitter: 0.1, Steps: 5, Cap: time.Second}
	said := ""
	for {
		err := try(ctx)
		if !errors.Is(err, syscall.EADDRINUSE) {
			return err
		}
		if err.Error() != said {
			said = err.Error()
			klog.FromContext(ctx).Info(text, logkey.Reason, said)
		}
		timer := time.NewTimer(backoff.Step())
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		}
	}
}

// errNotOpened says that a predecessor was left in peace, since this NMI could not serve
// in its place.
var errNotOpened = errors.New("not taking over")

// takeOver gets the sockets of a predecessor, if there is one. What that one does not
// have is opened first: from then on it serves no more.
func (l *listening) takeOver(ctx context.Context) error {
	p, err := findPredecessor(ctx, l.dir)
	if p == nil {
		return err
	}
	defer func() { _ = p.conn.Close() }()
	klog.FromContext(ctx).Info("Another NMI serves this node; taking over from it as soon as pods and assigned identities are known")
	waiting, stop := context.WithCancel(ctx)
	readiness := make(chan error, 1)
	go func() { // ends with waiting
		readiness <- l.ready(waiting)
		stop()
	}()
	gone := p.gone(waiting)
	stop()
	if err := <-readiness; err != nil { // the predecessor or ctx was first
		return errors.Join(gone, err)
	}
	taken, err := p.take(l.addresses, l.generation)
	if err != nil {
		return err
	}
	if err := l.complete(ctx, taken); err != nil {
		for _, s := range taken {
			err = errors.Join(err, s.Close())
		}
		return err
	}
	for _, a := range slices.Sorted(maps.Keys(taken)) {
		if err := l.arrived(ctx, a, taken[a]); err != nil {
			return err
		}
	}
	if err := p.serving(); err != nil {
		return fmt.Errorf("telling the NMI before this one to end: %w", err)
	}
	klog.FromContext(ctx).Info("Took over the listening sockets")
	return nil
}

// complete opens the addresses that a predecessor does not have.
func (l *listening) complete(ctx context.Context, taken map[string]net.Listener) error {
	for _, a := range l.addresses {
		if taken[a] != nil {
			continue
		}
		s, err := listen(ctx, a)
		if err != nil {
			l.fails(a, err)
			return fmt.Errorf("%w: %w", errNotOpened, err)
		}
		taken[a] = s
	}
	return nil
}

// openMissing opens each address that is not open yet.
func (l *listening) openMissing(ctx context.Context) error {
	var errs []error
	for _, a := range l.addresses {
		if l.has(a) {
			continue
		}
		s, err := listen(ctx, a)
		if err != nil {
			if !errors.Is(err, syscall.EADDRINUSE) {
				return err // a mistake in the flags
			}
			if l.held != nil && l.held(ctx) {
				l.fails(a, nil)
			} else {
				l.fails(a, err)
			}
			errs = append(errs, err)
			continue
		}
		if err := l.arrived(ctx, a, s); err != nil {
			return err
		}
	}
	return errors.Join(errs...)
}

func listen(ctx context.Context, address string) (net.Listener, error) {
	network := "tcp4"
	if ap, err := netip.ParseAddrPort(address); err == nil && ap.Addr().Is6() {
		network = "tcp6"
	}
	s, err := new(net.ListenConfig).Listen(ctx, network, address)
	if err != nil {
		return nil, fmt.Errorf("listening for pods: %w", err)
	}
	return s, nil
}

func (l *listening) arrived(ctx context.Context, address string, s net.Listener) error {
	l.mu.Lock()
	l.sockets[address] = s
	delete(l.errs, address)
	l.mu.Unlock()
	klog.FromContext(ctx).Info("Listening", logkey.Address, s.Addr().String())
	select {
	case l.arriving <- s:
		return nil
	case <-ctx.Done():
		return errors.Join(ctx.Err(), s.Close())
	}
}

func (l *listening) has(address string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.sockets[address] != nil
}

func (l *listening) fails(address string, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.errs[address] = err
}

// open are the sockets by address.
func (l *listening) open() map[string]net.Listener {
	l.mu.Lock()
	defer l.mu.Unlock()
	return maps.Clone(l.sockets)
}

// tried waits for the end of the first attempt.
func (l *listening) tried(ctx context.Context) {
	select {
	case <-l.first:
	case <-ctx.Done():
	}
}

// Ready fails until all sockets are open. One that another NMI holds and does not hand
// over does not count: that ends only when this NMI is ready.
func (l *listening) Ready(context.Context) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	var errs []error
	for _, a := range slices.Sorted(maps.Keys(l.errs)) {
		if err := l.errs[a]; err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", a, err))
		}
	}
	return errors.Join(errs...)
}
