package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"time"

	"github.com/spf13/pflag"
	"k8s.io/klog/v2"

	"github.com/aad-pod-identity/aad-pod-identity/internal/logkey"
	"github.com/aad-pod-identity/aad-pod-identity/internal/run"
)

const (
	// probeTimeout bounds one question of the probe subcommand.
	probeTimeout = 4 * time.Second
	// maxProbe bounds what it reads of the answer.
	maxProbe = 64 << 10
	// processHeader says whose probes they are; those of 1.8 lack it.
	processHeader = "Nmi-Probes"
)

// marked adds processHeader with the name of this process.
func marked(h http.Handler, process string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set(processHeader, process)
		h.ServeHTTP(w, r)
	})
}

// serveProbes serves the probes of this very process on a unix socket until ctx
// ends. In a rolling update two NMIs share the node's ports, so that a probe of a
// port can reach the other one.
func serveProbes(ctx context.Context, path string, probes http.Handler) error {
	// Left by a process of this container that was killed.
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("serving probes: %w", err)
	}
	l, err := new(net.ListenConfig).Listen(ctx, "unix", path)
	if err != nil {
		return fmt.Errorf("serving probes: %w", err)
	}
	klog.FromContext(ctx).Info("Serving", logkey.Server, "own probes", logkey.Path, path)
	srv := &http.Server{Handler: probes, ReadHeaderTimeout: probeTimeout, ReadTimeout: probeTimeout, WriteTimeout: probeTimeout, IdleTimeout: probeTimeout}
	defer context.AfterFunc(ctx, func() { _ = srv.Close() })()
	if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serving probes: %w", err)
	}
	return ctx.Err()
}

// probe asks the NMI of this container, for the kubelet's exec probes.
func probe(ctx context.Context, out io.Writer, args []string) error {
	fs := pflag.NewFlagSet(component+" probe", pflag.ContinueOnError)
	fs.SetOutput(out)
	socket := fs.String("probe-socket", "", "unix socket of the probes, as given to the NMI")
	path := fs.String("path", "/readyz", "what to ask")
	if err := fs.Parse(args); err != nil {
		if errors.Is(err, pflag.ErrHelp) {
			return nil
		}
		return run.Usagef("%w", err)
	}
	if *socket == "" || fs.NArg() > 0 {
		return run.Usagef("probe needs --probe-socket and takes no arguments")
	}
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	client := &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", *socket)
		},
	}}
	status, body, _, err := ask(ctx, client, "http://nmi"+*path)
	if err != nil {
		return err
	}
	if _, err := fmt.Fprintln(out, body); err != nil {
		return fmt.Errorf("printing the answer: %w", err)
	}
	if status != http.StatusOK {
		return &run.ExitError{Code: 1}
	}
	return nil
}

func ask(ctx context.Context, client *http.Client, url string) (status int, body string, header http.Header, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return 0, "", nil, fmt.Errorf("asking NMI: %w", err)
	}
	resp, err := client.Do(req)
	if err != nil {
		return 0, "", nil, fmt.Errorf("asking NMI: %w", err)
	}
	defer func() { _ = resp.Body.Close() }()
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxProbe))
	if err != nil {
		return 0, "", nil, fmt.Errorf("reading NMI's answer: %w", err)
	}
	return resp.StatusCode, string(text), resp.Header, nil
}

// anotherNMI says whether the NMI that serves the probes of this node is another
// process than this. It may hold its ports until it is told to end: those of 1.8 hand
// nothing over, and others cannot if their directory has gone.
func anotherNMI(ctx context.Context, probePort, process string) bool {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	status, body, header, err := ask(ctx, client, "http://"+net.JoinHostPort(loopback, probePort)+"/healthz")
	return err == nil && status == http.StatusOK && header.Get(processHeader) != process && (body == "Active" || body == "Not Active")
}
