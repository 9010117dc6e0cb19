package azure

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"
)

// Options configure a new Emulator.
type Options struct {
	// Listen are the addresses of the HTTPS server for ARM and AAD; default 127.0.0.1:0. The first one is
	// the one that environment files and issuers name, unless PublicURL says otherwise.
	Listen []string
	// HTTPListen are addresses that serve the same over plain HTTP, for clients that cannot be told to trust a CA.
	HTTPListen []string
	// PublicURL replaces the first listen address in everything that names the emulator.
	PublicURL string
	// Hosts are further names and IP addresses of the serving certificate, such as management.azure.com.
	Hosts []string
	// TenantID is the first tenant, made up when empty. More exist as soon as an app or identity is in them.
	TenantID string
	// StateDir keeps CA, keys and registry, so that a restart is the same cloud. Empty keeps nothing.
	StateDir string
	// Settings are the initial knobs.
	Settings Settings
	// Seed is put into the registry at start. Objects that a kept registry already has are left as they are.
	Seed State
	// Log, when set, is called once for each request that was answered.
	Log func(Call)
}

// Emulator is one Azure cloud. Its methods are safe for concurrent use.
type Emulator struct {
	options Options
	keys    *keys
	calls   recorder
	faults  faults

	mu       sync.Mutex
	tenant   string
	reg      *registry
	settings Settings
	buckets  buckets
	// base is the URL of ARM and AAD, known once it listens.
	base string
	// saveErr is the first failure to write the state directory; it makes healthz fail.
	saveErr error

	servers sync.WaitGroup
	started bool
	// done is closed by stop, that is by Close or the end of Start's context; every server ends with it.
	done   chan struct{}
	stop   func()
	failed chan error
}

// New makes a cloud: it reads the state directory if there is one, creates keys and CA, and applies the seed.
func New(options Options) (*Emulator, error) {
	if len(options.Listen) == 0 {
		options.Listen = []string{"127.0.0.1:0"}
	}
	if err := options.Settings.validate(); err != nil {
		return nil, fmt.Errorf("settings: %w", err)
	}
	e := &Emulator{
		options: options, tenant: options.TenantID, reg: newRegistry(), settings: options.Settings,
		buckets: newBuckets(), failed: make(chan error, 8),
	}
	e.done = make(chan struct{})
	e.stop = sync.OnceFunc(func() { close(e.done) })
	e.calls.log = options.Log
	if err := e.load(); err != nil {
		return nil, err
	}
	if e.tenant == "" {
		e.tenant = uuid.NewString()
	}
	if err := e.seed(options.Seed); err != nil {
		return nil, fmt.Errorf("seed: %w", err)
	}
	return e, nil
}

// Start listens and serves until ctx ends or Close is called. When it returns nil the endpoints answer.
func (e *Emulator) Start(ctx context.Context) error {
	e.mu.Lock()
	if e.started {
		e.mu.Unlock()
		return errors.New("the emulator was started before")
	}
	e.started = true
	e.mu.Unlock()
	context.AfterFunc(ctx, e.stop)

	var listeners, plain []net.Listener
	closeAll := func() {
		for _, l := range append(listeners, plain...) {
			_ = l.Close() // already failing
		}
	}
	var lc net.ListenConfig
	for _, address := range e.options.Listen {
		l, err := lc.Listen(ctx, "tcp", address)
		if err != nil {
			closeAll()
			return fmt.Errorf("listening for ARM and AAD: %w", err)
		}
		listeners = append(listeners, l)
	}
	for _, address := range e.options.HTTPListen {
		l, err := lc.Listen(ctx, "tcp", address)
		if err != nil {
			closeAll()
			return fmt.Errorf("listening for plain HTTP: %w", err)
		}
		plain = append(plain, l)
	}
	hosts := append([]string{"localhost", "127.0.0.1"}, e.options.Hosts...)
	for _, l := range listeners {
		if host, _, err := net.SplitHostPort(l.Addr().String()); err == nil {
			hosts = append(hosts, host)
		}
	}
	base, err := e.publicBase(listeners[0].Addr().String())
	if err != nil {
		closeAll()
		return err
	}
	if u, err := url.Parse(base); err == nil {
		hosts = append(hosts, u.Hostname())
	}
	certificate, err := e.keys.serving(hosts)
	if err != nil {
		closeAll()
		return fmt.Errorf("issuing the serving certificate: %w", err)
	}
	e.mu.Lock()
	e.base = base
	e.mu.Unlock()

	handler := e.Handler()
	for _, l := range listeners {
		e.serveOn(ctx, l, handler, &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{certificate}})
	}
	for _, l := range plain {
		e.serveOn(ctx, l, handler, nil)
	}
	return nil
}

// publicBase is the URL that names the emulator: the configured one, or the first listen address.
func (e *Emulator) publicBase(address string) (string, error) {
	if e.options.PublicURL != "" {
		return strings.TrimSuffix(e.options.PublicURL, "/"), nil
	}
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return "", fmt.Errorf("listen address %q: %w", address, err)
	}
	if ip := net.ParseIP(host); ip != nil && ip.IsUnspecified() {
		return "", fmt.Errorf("listening on all addresses (%s) needs a public URL that clients can reach", address)
	}
	return "https://" + address, nil
}

// StartIMDS serves the IMDS of a node at address until ctx or the emulator ends, and returns its URL.
// The node is named by the ID of its VM or scale set instance.
func (e *Emulator) StartIMDS(ctx context.Context, nodeResourceID, address string) (string, error) {
	handler, err := e.IMDSHandler(nodeResourceID)
	if err != nil {
		return "", err
	}
	return e.ServeHTTP(ctx, address, handler)
}

// ServeHTTP serves a handler of this emulator, such as ControlHandler, over plain HTTP and returns its URL.
func (e *Emulator) ServeHTTP(ctx context.Context, address string, handler http.Handler) (string, error) {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", address)
	if err != nil {
		return "", fmt.Errorf("listening: %w", err)
	}
	e.serveOn(ctx, l, handler, nil)
	return "http://" + l.Addr().String(), nil
}

// serveOn serves until ctx ends. Requests that are held up by a fault end with it.
func (e *Emulator) serveOn(ctx context.Context, l net.Listener, handler http.Handler, config *tls.Config) {
	ctx, cancel := context.WithCancel(ctx)
	// HTTP/1 only: a dropped answer then cuts the connection, not just a stream of it, and idle connections do not delay the end.
	protocols := &http.Protocols{}
	protocols.SetHTTP1(true)
	server := &http.Server{
		Protocols:         protocols,
		Handler:           handler,
		TLSConfig:         config,
		ReadHeaderTimeout: 10 * time.Second,
		BaseContext:       func(net.Listener) context.Context { return ctx },
		ErrorLog:          quietLog,
	}
	e.servers.Go(func() {
		select {
		case <-ctx.Done():
		case <-e.done:
			cancel()
		}
		grace, done := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
		defer done()
		if err := server.Shutdown(grace); err != nil {
			_ = server.Close() // what did not end in time is cut off
		}
	})
	e.servers.Go(func() {
		defer cancel()
		var err error
		if config != nil {
			err = server.ServeTLS(l, "", "")
		} else {
			err = server.Serve(l)
		}
		if !errors.Is(err, http.ErrServerClosed) {
			select {
			case e.failed <- fmt.Errorf("serving on %s: %w", l.Addr(), err):
			default:
			}
		}
	})
}

// Failed delivers the error of a server that ended by itself.
func (e *Emulator) Failed() <-chan error { return e.failed }

// Close stops all servers and waits for their end: two seconds for requests that are being answered.
func (e *Emulator) Close() {
	e.stop()
	e.servers.Wait()
}

// Handler serves ARM and AAD, whose paths are distinct.
func (e *Emulator) Handler() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if isARMPath(r.URL.Path) {
			e.serveARM(w, r)
		} else {
			e.serveAAD(w, r)
		}
	})
}

// perform runs one request: latency, faults, the handler, the record. The handler gets the fault that hit the request, for faults it must carry out itself.
func (e *Emulator) perform(w http.ResponseWriter, r *http.Request, c Call, latency time.Duration, handle func(w http.ResponseWriter, r *http.Request, hit *Fault)) {
	c.Time = time.Now()
	c.Method, c.Path = r.Method, r.URL.Path
	if c.Operation != OpToken {
		c.Query = r.URL.RawQuery
	}
	c.Source, c.UserAgent, c.ForwardedFor = r.RemoteAddr, r.UserAgent(), r.Header.Get("X-Forwarded-For")
	// The answer is kept until the call is recorded: a client that has its answer finds its call, and no slow
	// client holds up a handler.
	answer := &memoryWriter{header: w.Header(), status: http.StatusOK}
	cw := &callWriter{ResponseWriter: answer, call: &c}
	done := func() {
		c.Duration = Duration(time.Since(c.Time))
		e.calls.add(c)
	}
	sleep(r.Context(), latency)
	hit := e.faults.take(c)
	if hit != nil {
		sleep(r.Context(), time.Duration(hit.Delay))
		if hit.After {
			handle(&callWriter{ResponseWriter: lostWriter{http.Header{}}, call: &c}, r, hit)
		}
		if hit.answer(r.Context(), cw) {
			done()
			if c.Status == 0 {
				panic(http.ErrAbortHandler) //nolint:forbidigo // net/http's own way to cut a connection
			}
			answer.sendTo(w)
			return
		}
		if hit.After {
			done()
			panic(http.ErrAbortHandler) //nolint:forbidigo // as above
		}
	}
	handle(cw, r, hit)
	done()
	answer.sendTo(w)
}

// Control returns a client of this emulator's control API that needs no network.
func (e *Emulator) Control() *Control { return newInProcessControl(e.ControlHandler()) }
