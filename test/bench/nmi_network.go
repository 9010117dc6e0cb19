package main

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strings"
)

// The network of a scenario of NMI: a node and the pods on it, each in a network
// namespace, so that NMI's rules are no other cluster's of this machine, and no other
// scenario's.
func nodeNamespace(scenario string) string { return "aad-bench-" + scenario }
func podNamespace(scenario string) string  { return nodeNamespace(scenario) + "-pods" }

const (
	nmiNodeIP = "10.250.0.1"
	// metadataIP is the real service's, to which pods send and NMI's redirect
	// applies; bareIP is what is redirected to the baseline in the same way.
	metadataIP, bareIP = "169.254.169.254", "169.254.169.253"

	// nmiPods is how many pods a node runs at most on AKS.
	nmiPods = 250
)

// podIP is the address of a pod on the node. All are in one namespace, which tells
// nobody apart: NMI sees the source address.
func podIP(i int) string { return fmt.Sprintf("10.250.1.%d", i+1) }

// nodeNetwork makes the namespaces; what an earlier run left goes first.
func nodeNetwork(ctx context.Context, scenario string) (remove func() error, err error) {
	nodeSide, podSide := nodeNamespace(scenario), podNamespace(scenario)
	remove = func() error {
		ctx := context.WithoutCancel(ctx)
		return errors.Join(removeNamespace(ctx, podSide), removeNamespace(ctx, nodeSide))
	}
	if err := remove(); err != nil {
		return nil, err
	}
	for _, namespace := range []string{nodeSide, podSide} {
		if err := ip(ctx, "", "netns", "add", namespace); err != nil {
			return remove, err
		}
	}
	node := []string{
		"link set lo up",
		"address add " + metadataIP + "/32 dev lo",
		"address add " + bareIP + "/32 dev lo",
		"link add pods type veth peer name eth0 netns " + podSide,
		"address add " + nmiNodeIP + "/16 dev pods",
		"link set pods up",
		"route add default dev pods", // or the API server finds no address of its own
	}
	pods := []string{"link set lo up", "link set eth0 up"}
	for i := range nmiPods {
		pods = append(pods, "address add "+podIP(i)+"/16 dev eth0")
	}
	pods = append(pods, "route add default via "+nmiNodeIP)
	if err := ip(ctx, strings.Join(node, "\n"), "-n", nodeSide, "-batch", "-"); err != nil {
		return remove, err
	}
	return remove, ip(ctx, strings.Join(pods, "\n"), "-n", podSide, "-batch", "-")
}

func removeNamespace(ctx context.Context, name string) error {
	out, err := exec.CommandContext(ctx, "ip", "netns", "list").Output()
	if err != nil {
		return fmt.Errorf("listing network namespaces: %w", err)
	}
	for line := range strings.Lines(string(out)) {
		if f := strings.Fields(line); len(f) > 0 && f[0] == name {
			return ip(ctx, "", "netns", "delete", name)
		}
	}
	return nil
}

func ip(ctx context.Context, stdin string, args ...string) error {
	cmd := exec.CommandContext(ctx, "ip", args...)
	cmd.Stdin = strings.NewReader(stdin)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("ip %s (it needs root): %w: %s", strings.Join(args, " "), err, strings.TrimSpace(string(out)))
	}
	return nil
}
