package run

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/pprof"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"k8s.io/klog/v2"

	"github.com/aad-pod-identity/aad-pod-identity/internal/logkey"
)

// ProfileAddress is where pprof listens when enabled: loopback only, since a
// profile reveals what the process works on.
const ProfileAddress = "localhost:6060"

// shutdownGrace is how long a server waits for requests under way. It is below
// the 30 s that the kubelet gives a pod.
const shutdownGrace = 10 * time.Second

// Serve serves HTTP on an address until ctx ends, then lets the requests under
// way finish. Slow and idle clients are cut off.
func Serve(ctx context.Context, name, address string, handler http.Handler) error {
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", address)
	if err != nil {
		return fmt.Errorf("%s server: %w", name, err)
	}
	klog.FromContext(ctx).Info("Serving", logkey.Server, name, logkey.Address, l.Addr().String())
	srv := &http.Server{
		Handler:           handler,
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       30 * time.Second,
		WriteTimeout:      2 * time.Minute, // a CPU profile takes 30 s by default
		IdleTimeout:       time.Minute,
		MaxHeaderBytes:    16 << 10,
	}
	failed := make(chan error, 1)
	go func() { failed <- srv.Serve(l) }()
	select {
	case err := <-failed:
		return fmt.Errorf("%s server: %w", name, err)
	case <-ctx.Done():
	}
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownGrace)
	defer cancel()
	if err := srv.Shutdown(grace); err != nil && !errors.Is(err, http.ErrServerClosed) {
		return errors.Join(fmt.Errorf("%s server: shutting down: %w", name, err), srv.Close())
	}
	return nil
}

// Servers returns the probe and metrics servers and, if enabled, the pprof
// server, each to be run until its context ends.
func (f *CommonFlags) Servers(probes http.Handler, metrics prometheus.Gatherer) []func(context.Context) error {
	m := http.NewServeMux()
	m.Handle("/metrics", promhttp.HandlerFor(metrics, promhttp.HandlerOpts{}))
	servers := []func(context.Context) error{
		func(ctx context.Context) error { return Serve(ctx, "probe", ":"+f.ProbePort, probes) },
		func(ctx context.Context) error { return Serve(ctx, "metrics", ":"+f.PrometheusPort, m) },
	}
	if f.EnableProfile {
		servers = append(servers, func(ctx context.Context) error {
			return Serve(ctx, "pprof", ProfileAddress, profiles())
		})
	}
	return servers
}

// profiles serves pprof from a mux of its own: the default mux would also be
// reachable through any other server that uses it.
func profiles() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/debug/pprof/", pprof.Index)
	mux.HandleFunc("/debug/pprof/cmdline", pprof.Cmdline)
	mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	return mux
}
