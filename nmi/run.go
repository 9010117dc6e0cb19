package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"strings"
	"sync"
	"time"

	"go.opentelemetry.io/otel/trace"
	"golang.org/x/sync/errgroup"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/klog/v2"

	"github.com/aad-pod-identity/aad-pod-identity/internal/logkey"
	"github.com/aad-pod-identity/aad-pod-identity/internal/metric"
	"github.com/aad-pod-identity/aad-pod-identity/internal/run"
	"github.com/aad-pod-identity/aad-pod-identity/internal/version"
	"github.com/aad-pod-identity/aad-pod-identity/nmi/podindex"
	"github.com/aad-pod-identity/aad-pod-identity/nmi/redirect"
	"github.com/aad-pod-identity/aad-pod-identity/nmi/server"
	"github.com/aad-pod-identity/aad-pod-identity/nmi/sourceroute"
	"github.com/aad-pod-identity/aad-pod-identity/nmi/tracing"
)

// serve checks what the node is like, then runs NMI until ctx ends.
func serve(ctx context.Context, o *options) error {
	log := klog.FromContext(ctx)
	log.Info("Starting", logkey.Component, component, logkey.Version, version.String(component), logkey.Node, o.node)
	if err := checkNetworkPlugin(o.kubeletConfig, o.allowKubenet); err != nil {
		return err
	}
	redirects, err := newRedirects(ctx, o)
	if err != nil {
		return err
	}
	clients, err := newClients(o)
	if err != nil {
		return err
	}
	if o.metadataIP6 == "" && kernelHasIPv6() {
		var left sync.WaitGroup
		defer left.Wait()
		leftCtx, stop := context.WithCancel(ctx)
		defer stop()
		left.Go(func() { removeLeftIPv6(leftCtx, redirect.NewIP6Tables, time.Duration(o.redirectSeconds)*time.Second) })
	}
	return runWith(ctx, o, clients, redirects)
}

// runWith wires the parts and runs them.
func runWith(ctx context.Context, o *options, clients clients, redirects []redirect.Redirect) error {
	addresses, err := o.listeners()
	if err != nil {
		return err
	}
	registry := metric.NewRegistry()
	metrics := metric.NewNMI(registry)

	index := podindex.New(o.node)
	if o.operationMode == modeManaged {
		index = podindex.NewManaged(o.node)
	}
	boot, err := bootTime("/proc/stat")
	if err != nil {
		return err
	}
	watcher, err := podindex.NewWatcher(index, podindex.WatchOptions{
		Core: clients.core, Custom: clients.custom, Node: o.node, ByNodeLabel: o.scaleFeatures, Boot: boot,
		OnError: func() { metrics.KubernetesAPIErrors.WithLabelValues(opWatch).Inc() },
	})
	if err != nil {
		return err
	}

	// Requests under way may still need tokens after ctx has ended.
	fetching, stopFetching := context.WithCancel(context.WithoutCancel(ctx))
	defer stopFetching()
	metadata := &url.URL{Scheme: "http", Host: net.JoinHostPort(o.metadataIP, o.metadataPort)}
	tracer, stopTracing, err := startTracing(ctx, o)
	if err != nil {
		return err
	}
	defer stopTracing()
	tokens, err := newTokens(fetching, o, metadata, clients, metrics, tracer)
	if err != nil {
		return err
	}

	checkSource, closeCheck, err := sourceCheck(o, metrics)
	if err != nil {
		return err
	}
	defer closeCheck()

	var selfTest types.NamespacedName
	selfTest.Namespace, selfTest.Name, _ = strings.Cut(o.selfTest, "/")
	answers := server.New(server.Options{
		Metadata: metadata, Waiting: o.waiting(), ForceNamespaced: o.forceNamespaced,
		MICNamespace: o.micNamespace, MICServiceAccount: o.micServiceAccount,
		BlockInstanceMetadata: o.blockInstance, MetadataHeaderRequired: o.metadataHeaderRequired,
		SetRetryAfter: o.setRetryAfter, HostToken: o.hostToken, Limits: o.limits, Node: o.node, SelfTest: selfTest, Records: o.records,
		CheckSource: checkSource, Tracer: tracer,
	}, index, tokens.source, metrics, tokens.passing)

	metric.RegisterConnections(registry, answers.Connections)

	hooks := redirect.Hooks{Repaired: metrics.RedirectRepairs.Inc}
	if o.conntrackDeletion {
		hooks.Set = func(ctx context.Context) {
			for _, r := range redirects {
				redirect.CutConnections(ctx, r.Target)
			}
		}
	}
	runner := redirect.NewRunner(redirects, time.Duration(o.redirectSeconds)*time.Second, hooks)
	listening := newListening(addresses)
	listening.dir = o.handoverDir
	listening.ready = func(ctx context.Context) error {
		if err := index.WaitSynced(ctx); err != nil {
			return err
		}
		return redirect.WaitReadable(ctx, redirects)
	}
	listening.generation = o.generation
	process := rand.Text()
	listening.held = func(ctx context.Context) bool { return anotherNMI(ctx, o.ProbePort, process) }
	marker := newMarker(clients.core, o.micNamespace, o.node, runner)
	retirement := newRetirement()

	health := run.NewHealth()
	health.AddLive("redirect", runner.Live)
	health.AddReady("watch", watcher.Ready)
	health.AddReady("redirect", runner.Ready)
	health.AddReady("listen", listening.Ready)
	health.AddReady("successor", retirement.Ready)
	health.AddReady("self-test", answers.SelfTested)
	probes := marked(health.Handler(runner.Active), process)

	parent := ctx
	g, ctx := errgroup.WithContext(ctx)
	// What a successor does in place of this NMI ends with its retirement.
	active, stopActive := context.WithCancel(ctx)
	defer stopActive()
	untilRetired := func(part func(context.Context) error) {
		g.Go(func() error {
			err := part(active)
			if retirement.done() && (err == nil || errors.Is(err, context.Canceled)) {
				return nil
			}
			return err
		})
	}
	for _, serve := range o.Servers(probes, registry) {
		untilRetired(func(ctx context.Context) error {
			return whileInUse(ctx, "A port is taken, perhaps by the NMI before this one; trying again", serve)
		})
	}
	untilRetired(marker.run)
	untilRetired(answers.Prefetch)
	untilRetired(func(ctx context.Context) error {
		// With someone there to answer, if possible: a refused connection sends
		// some SDKs on to other credentials. But not later, since until then pods
		// reach the real service.
		listening.tried(ctx)
		return runner.Run(ctx)
	})
	untilRetired(func(ctx context.Context) error {
		if err := listening.run(ctx); err != nil || o.handoverDir == "" {
			return err
		}
		return (&giver{dir: o.handoverDir, generation: o.generation, sockets: listening.open, retire: func() {
			klog.FromContext(ctx).Info("Another NMI serves this node now; finishing the requests under way")
			retirement.begin()
			stopActive()
		}}).run(ctx)
	})
	if !o.allowKubenet {
		untilRetired(func(ctx context.Context) error {
			return watchForKubenet(ctx, time.Duration(o.redirectSeconds)*time.Second, net.InterfaceByName)
		})
	}
	if o.startupTaint != "" {
		taint := &startupTaint{client: clients.core, node: o.node, key: o.startupTaint, ready: func(ctx context.Context) error {
			return errors.Join(health.Ready(ctx), answers.ProvenBySelfTest(ctx))
		}}
		untilRetired(taint.run)
	}
	if o.probeSocket != "" {
		g.Go(func() error { return serveProbes(ctx, o.probeSocket, probes) })
	}
	// Requests under way are answered by what is true then, also after ctx has
	// ended.
	watching, stopWatching := context.WithCancel(context.WithoutCancel(ctx))
	defer stopWatching()
	g.Go(func() error {
		if err := watcher.Run(watching); !errors.Is(err, context.Canceled) {
			return err
		}
		return ctx.Err()
	})
	g.Go(func() error {
		defer stopWatching()
		if err := answers.Serve(ctx, listening.arriving, retirement.begun); err != nil {
			return err
		}
		return ctx.Err()
	})
	err = g.Wait()
	stopFetching()
	tokens.wait()
	if o.daemonSet != "" && parent.Err() != nil && !retirement.done() {
		if err := leaveNode(context.WithoutCancel(parent), clients.core, o.daemonSet, o.node, redirects); err != nil {
			klog.FromContext(parent).Error(err, "Leaving the redirect in place, as an NMI should come back to this node; 'nmi cleanup' removes it")
		}
	}
	return err
}

// sourceCheck is the check of source addresses that the options ask for, nil for none.
func sourceCheck(o *options, metrics *metric.NMI) (check func(context.Context, net.Conn) error, done func(), err error) {
	c, err := sourceroute.New(sourceroute.Mode(o.sourceCheck), func(result string) { metrics.SourceChecks.WithLabelValues(result).Inc() })
	if c == nil || err != nil {
		return nil, func() {}, err
	}
	return c.Check, func() { _ = c.Close() }, nil
}

// tracesTimeout bounds the sending of the last traces at NMI's end.
const tracesTimeout = 3 * time.Second

// startTracing makes the tracer that the options ask for, nil for none.
func startTracing(ctx context.Context, o *options) (tracer trace.Tracer, stop func(), err error) {
	if o.traces == "" {
		return nil, func() {}, nil
	}
	transport := &http.Transport{
		Proxy:           http.ProxyFromEnvironment, // the collector may be anywhere
		DialContext:     (&net.Dialer{Timeout: 5 * time.Second}).DialContext,
		IdleConnTimeout: 90 * time.Second,
	}
	tracer, end, err := tracing.Start(ctx, tracing.Options{
		Endpoint: o.traces, SampleRatio: o.traceRatio, Service: component, Version: version.Version, Node: o.node,
	}, transport)
	if err != nil {
		return nil, nil, fmt.Errorf("--tracing-endpoint: %w", err)
	}
	return tracer, func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), tracesTimeout)
		defer cancel()
		if err := end(ctx); err != nil {
			klog.FromContext(ctx).Error(err, "Some traces were not sent")
		}
	}, nil
}

// retirement begins when a successor has taken over.
type retirement struct {
	begun chan struct{}
	once  sync.Once
}

func newRetirement() *retirement { return &retirement{begun: make(chan struct{})} }

func (r *retirement) begin() { r.once.Do(func() { close(r.begun) }) }

func (r *retirement) done() bool {
	select {
	case <-r.begun:
		return true
	default:
		return false
	}
}

// Ready fails once a successor serves the node.
func (r *retirement) Ready(context.Context) error {
	if r.done() {
		return errors.New("another NMI has taken over")
	}
	return nil
}

// newRedirects opens the tables of the kernel for the redirects that the options ask for.
func newRedirects(ctx context.Context, o *options) ([]redirect.Redirect, error) {
	targets, err := o.targets()
	if err != nil {
		return nil, err
	}
	var redirects []redirect.Redirect
	for _, target := range targets {
		open := redirect.NewIPTables
		if target.Metadata.Is6() {
			if !kernelHasIPv6() {
				klog.FromContext(ctx).Info("The kernel of this node has no IPv6, so nothing is redirected there", logkey.Address, target.Metadata.String())
				continue
			}
			if target.NMI.Addr() == redirect.Discard {
				klog.FromContext(ctx).Info("This node has no IPv6 address to redirect to; what pods send to the IPv6 address of the instance metadata service reaches nobody", logkey.Address, target.Metadata.String())
			}
			open = redirect.NewIP6Tables
		}
		tables, err := open()
		if err != nil {
			return nil, err
		}
		warnOfLoopback(ctx, target.NMI.Addr() == netip.AddrFrom4([4]byte{127, 0, 0, 1}))
		redirects = append(redirects, redirect.Redirect{Tables: tables, Target: target})
	}
	return redirects, nil
}

// kernelHasIPv6 says whether there is IPv6 at all; ipv6.disable=1 takes it away.
func kernelHasIPv6() bool {
	_, err := os.Stat("/proc/sys/net/ipv6")
	return err == nil
}

// warnOfLoopback says what a redirect to 127.0.0.1 needs.
func warnOfLoopback(ctx context.Context, loopback bool) {
	const file = "/proc/sys/net/ipv4/conf/all/route_localnet"
	if !loopback {
		return
	}
	if data, err := os.ReadFile(file); err == nil && strings.TrimSpace(string(data)) == "0" {
		klog.FromContext(ctx).Info("The redirect leads to 127.0.0.1, which the kernel drops while route_localnet is 0; set --nmi-listen-address to the node's address",
			logkey.File, file)
	}
}
