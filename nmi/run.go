package main

import (
	"context"
	"errors"
	"net"
	"net/url"
	"os"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	"k8s.io/klog/v2"

	"github.com/aad-pod-identity/aad-pod-identity/internal/logkey"
	"github.com/aad-pod-identity/aad-pod-identity/internal/metric"
	"github.com/aad-pod-identity/aad-pod-identity/internal/run"
	"github.com/aad-pod-identity/aad-pod-identity/internal/version"
	"github.com/aad-pod-identity/aad-pod-identity/nmi/podindex"
	"github.com/aad-pod-identity/aad-pod-identity/nmi/redirect"
	"github.com/aad-pod-identity/aad-pod-identity/nmi/server"
)

// serve checks what the node is like, then runs NMI until ctx ends.
func serve(ctx context.Context, o *options) error {
	log := klog.FromContext(ctx)
	log.Info("Starting", logkey.Component, component, logkey.Version, version.String(component), logkey.Node, o.node)
	if err := checkNetworkPlugin(o.kubeletConfig, o.allowKubenet); err != nil {
		return err
	}
	iptables, err := redirect.NewIPTables()
	if err != nil {
		return err
	}
	clients, err := newClients(o)
	if err != nil {
		return err
	}
	return runWith(ctx, o, clients, iptables)
}

// runWith wires the parts and runs them.
func runWith(ctx context.Context, o *options, clients clients, iptables redirect.IPTables) error {
	target, err := o.target()
	if err != nil {
		return err
	}
	warnOfLoopback(ctx, target.NMI.Addr().IsLoopback())
	registry := metric.NewRegistry()
	metrics := metric.NewNMI(registry)

	index := podindex.New(o.node)
	if o.operationMode == modeManaged {
		index = podindex.NewManaged(o.node)
	}
	watcher, err := podindex.NewWatcher(index, podindex.WatchOptions{
		Core: clients.core, Custom: clients.custom, Node: o.node, ByNodeLabel: o.scaleFeatures,
		OnError: func() { metrics.KubernetesAPIErrors.WithLabelValues(opWatch).Inc() },
	})
	if err != nil {
		return err
	}

	// Requests under way may still need tokens after ctx has ended.
	fetching, stopFetching := context.WithCancel(context.WithoutCancel(ctx))
	defer stopFetching()
	metadata := &url.URL{Scheme: "http", Host: net.JoinHostPort(o.metadataIP, o.metadataPort)}
	tokens, err := newTokens(fetching, o, metadata, clients, metrics)
	if err != nil {
		return err
	}

	answers := server.New(server.Options{
		Metadata: metadata, Waiting: o.waiting(), ForceNamespaced: o.forceNamespaced,
		MICNamespace: o.micNamespace, MICServiceAccount: o.micServiceAccount,
		BlockInstanceMetadata: o.blockInstance, MetadataHeaderRequired: o.metadataHeaderRequired,
		SetRetryAfter: o.setRetryAfter, HostToken: o.hostToken,
	}, index, tokens.source, metrics, tokens.passing)

	var onFirst func(context.Context)
	if o.conntrackDeletion {
		onFirst = func(ctx context.Context) { redirect.CutConnections(ctx, target) }
	}
	runner := redirect.NewRunner(iptables, target, time.Duration(o.redirectSeconds)*time.Second, onFirst)
	listening := newListening(o.listenAddress, o.port)
	marker := newMarker(clients.core, o.micNamespace, o.node, runner)

	health := run.NewHealth()
	health.AddLive("redirect", runner.Live)
	health.AddReady("watch", watcher.Ready)
	health.AddReady("redirect", runner.Ready)
	health.AddReady("listen", listening.Ready)

	g, ctx := errgroup.WithContext(ctx)
	for _, serve := range o.Servers(health.Handler(runner.Active), registry) {
		g.Go(func() error { return serve(ctx) })
	}
	g.Go(func() error { return watcher.Run(ctx) })
	g.Go(func() error { return marker.run(ctx) })
	g.Go(func() error { return answers.Prefetch(ctx) })
	g.Go(func() error {
		listeners, err := listening.listen(ctx)
		if err != nil {
			return err
		}
		return answers.Serve(ctx, listeners)
	})
	g.Go(func() error {
		// With someone there to answer, if possible: a refused connection sends
		// some SDKs on to other credentials. But not later, since until then pods
		// reach the real service.
		listening.tried(ctx)
		return runner.Run(ctx)
	})
	err = g.Wait()
	stopFetching()
	tokens.wait()
	return err
}

// checkNetworkPlugin refuses kubenet, on whose bridge a pod with CAP_NET_RAW can
// send from another pod's address and so get its tokens (CVE-2021-1677).
func checkNetworkPlugin(file string, allow bool) error {
	if allow {
		return nil
	}
	data, err := os.ReadFile(file)
	if err != nil {
		return run.Usagef("looking for kubenet in --kubelet-config: %w (an empty file will do where the kubelet has none; --allow-network-plugin-kubenet skips the check)", err)
	}
	if strings.Contains(string(data), "--network-plugin=kubenet") {
		return errors.New("AAD Pod Identity is not supported for Kubenet: pods can spoof each other's address there (CVE-2021-1677); --allow-network-plugin-kubenet=true starts it all the same")
	}
	return nil
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
