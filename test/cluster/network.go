package cluster

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
)

// ipLink is the part of `ip -json addr` that is needed here.
type ipLink struct {
	Name   string `json:"ifname"`
	Master string `json:"master"`
	Addrs  []struct {
		Local  string `json:"local"`
		Prefix int    `json:"prefixlen"`
	} `json:"addr_info"`
}

func parseLinks(data []byte) ([]ipLink, error) {
	var links []ipLink
	if len(strings.TrimSpace(string(data))) == 0 {
		return nil, nil
	}
	if err := json.Unmarshal(data, &links); err != nil {
		return nil, fmt.Errorf("reading the output of ip: %w", err)
	}
	return links, nil
}

func listLinks(ctx context.Context) ([]ipLink, error) {
	out, err := run(ctx, "", "ip", "-json", "address", "show")
	if err != nil {
		return nil, fmt.Errorf("listing network interfaces: %w", err)
	}
	return parseLinks([]byte(out))
}

// has reports whether the interface link exists and, if address is not empty, holds that address.
func has(links []ipLink, link, address string) bool {
	return slices.ContainsFunc(links, func(l ipLink) bool {
		if l.Name != link {
			return false
		}
		if address == "" {
			return true
		}
		for _, a := range l.Addrs {
			if fmt.Sprintf("%s/%d", a.Local, a.Prefix) == address {
				return true
			}
		}
		return false
	})
}

const (
	loopback        = "lo"
	metadataAddress = MetadataIP + "/32"
	gatewayAddress  = gatewayIP + "/16"
	nodeAddress     = nodeIP + "/32"
)

// ensureNetwork makes the bridge with the gateway's and the node's address, the metadata
// address on lo, forwarding, and the few rules of desiredRules.
func ensureNetwork(ctx context.Context) error {
	links, err := listLinks(ctx)
	if err != nil {
		return err
	}
	ip := func(args ...string) { // after the first failure it does nothing
		if err == nil {
			_, err = run(ctx, "", "ip", args...)
		}
	}
	if !has(links, bridgeName, "") {
		ip("link", "add", bridgeName, "type", "bridge")
	}
	ip("link", "set", bridgeName, "up")
	for _, a := range []struct{ link, address string }{
		{bridgeName, gatewayAddress}, {bridgeName, nodeAddress}, {loopback, metadataAddress},
	} {
		if !has(links, a.link, a.address) {
			ip("address", "add", a.address, "dev", a.link)
		}
	}
	if err != nil {
		return fmt.Errorf("setting up the network: %w", err)
	}
	if err := os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0o644); err != nil {
		return fmt.Errorf("setting net.ipv4.ip_forward: %w", err)
	}
	return ensureRules(ctx)
}

// removeNetwork removes what ensureNetwork and CNI made; what is absent is fine.
func removeNetwork(ctx context.Context) error {
	links, err := listLinks(ctx)
	if err != nil {
		return err
	}
	if has(links, loopback, metadataAddress) {
		if _, err := run(ctx, "", "ip", "address", "del", metadataAddress, "dev", loopback); err != nil {
			return fmt.Errorf("removing the metadata address: %w", err)
		}
	}
	for _, l := range links {
		// A pod's interface goes with its network namespace, which the kernel destroys a moment after the last process.
		if l.Master == bridgeName {
			if _, err := run(ctx, "", "ip", "link", "del", l.Name); err != nil && !strings.Contains(err.Error(), "Cannot find device") {
				return fmt.Errorf("removing a pod's interface: %w", err)
			}
		}
	}
	if has(links, bridgeName, "") {
		if _, err := run(ctx, "", "ip", "link", "del", bridgeName); err != nil {
			return fmt.Errorf("removing the bridge: %w", err)
		}
	}
	return nil
}
