package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/spf13/pflag"
	"golang.org/x/sync/errgroup"
	"k8s.io/klog/v2"

	"github.com/aad-pod-identity/aad-pod-identity/internal/logkey"
	"github.com/aad-pod-identity/aad-pod-identity/internal/run"
	"github.com/aad-pod-identity/aad-pod-identity/nmi/server"
)

// selfTester asks, from a pod of its own, whether requests for the instance
// metadata service come to NMI. NMI shows in its readiness when they do not.
type selfTester struct {
	url      string
	interval time.Duration

	mu   sync.Mutex
	err  error
	said bool
}

const selfTestTimeout = 5 * time.Second

// selftest is the subcommand of the self-test pod.
func selftest(ctx context.Context, args []string) error {
	fs := pflag.NewFlagSet(component+" selftest", pflag.ContinueOnError)
	metadata := fs.String("metadata-url", "http://169.254.169.254", "the instance metadata service")
	interval := fs.Duration("interval", 10*time.Second, "between two requests")
	port := fs.String("http-probe-port", "8080", "port of the probe /readyz")
	if err := fs.Parse(args); err != nil {
		if errors.Is(err, pflag.ErrHelp) {
			return nil
		}
		return run.Usagef("%w", err)
	}
	if err := run.ValidatePort("http-probe-port", *port); err != nil || *interval <= 0 || fs.NArg() > 0 {
		return run.Usagef("selftest: a port, a positive interval and no arguments are needed (%v)", err)
	}
	s := &selfTester{url: *metadata + server.SelfTestPath, interval: *interval, err: errors.New("not asked yet")}
	health := run.NewHealth()
	health.AddReady("redirect", s.ready)
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return run.Serve(ctx, "probe", ":"+*port, health.Handler(func() bool { return true })) })
	g.Go(func() error { return s.run(ctx) })
	return g.Wait()
}

func (s *selfTester) ready(context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

func (s *selfTester) run(ctx context.Context) error {
	tick := time.NewTicker(s.interval)
	defer tick.Stop()
	// A new connection each time: an old one is not redirected anew.
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	for {
		s.note(ctx, s.ask(ctx, client))
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// note keeps the result, and logs it when it changes.
func (s *selfTester) note(ctx context.Context, err error) {
	s.mu.Lock()
	changed := !s.said || (err == nil) != (s.err == nil)
	s.err, s.said = err, true
	s.mu.Unlock()
	switch {
	case !changed || ctx.Err() != nil:
	case err != nil:
		klog.FromContext(ctx).Error(err, "Requests for the instance metadata service do not come to NMI", logkey.Address, s.url)
	default:
		klog.FromContext(ctx).Info("Requests for the instance metadata service come to NMI", logkey.Address, s.url)
	}
}

func (s *selfTester) ask(ctx context.Context, client *http.Client) error {
	ctx, cancel := context.WithTimeout(ctx, selfTestTimeout)
	defer cancel()
	status, body, header, err := ask(ctx, client, s.url)
	if err != nil {
		return err
	}
	var answer server.SelfTestAnswer
	if status != http.StatusOK || json.Unmarshal([]byte(body), &answer) != nil || answer.NMI == "" {
		return fmt.Errorf("the answer is not NMI's: status %d, Server %q, %.200q", status, header.Get("Server"), body)
	}
	return nil
}
