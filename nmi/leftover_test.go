package main

import (
	"context"
	"net/netip"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/aad-pod-identity/aad-pod-identity/nmi/redirect"
	"github.com/aad-pod-identity/aad-pod-identity/test/netns"
)

// TestLeftIPv6 takes --metadata-ip6 away from an NMI: the next one removes the chain,
// also when the one before it, which still runs, puts it back once; and nothing else.
func TestLeftIPv6(t *testing.T) {
	node := netns.New(t)
	target := redirect.Target{
		Metadata: netip.MustParseAddr("fd00:a9fe::254"), MetadataPort: 80, NMI: netip.MustParseAddrPort("[fd00::4]:2579"),
	}
	rules := func() string {
		var out []byte
		var err error
		node.In(func() { out, err = exec.CommandContext(t.Context(), "ip6tables", "-t", "nat", "-S").CombinedOutput() })
		if err != nil {
			t.Skipf("no nat table of IPv6: %v %s", err, out)
		}
		return string(out)
	}
	before := rules()
	node.Run(t, "ip6tables -t nat -N KUBE-SERVICES\nip6tables -t nat -A PREROUTING -j KUBE-SERVICES")
	others := rules()
	set := func(tables redirect.IPTables) {
		if _, err := redirect.Ensure(tables, target); err != nil {
			t.Error(err)
		}
	}
	looks := 0
	node.In(func() {
		tables, err := redirect.NewIP6Tables()
		if err != nil {
			t.Error(err)
			return
		}
		set(tables)
		removeLeftIPv6(t.Context(), func() (redirect.IPTables, error) {
			if looks++; looks == 2 { // the NMI before has put it back
				set(tables)
			}
			return tables, nil
		}, time.Millisecond)
	})
	if after := rules(); after != others || !strings.Contains(after, "KUBE-SERVICES") || strings.Contains(before, "aad-metadata") {
		t.Errorf("left:\n%s\nwithout the redirect there were:\n%s", after, others)
	}
	if looks != 4 {
		t.Errorf("%d looks; want 4, the last two of which found nothing", looks)
	}
}

// TestLeftIPv6Unavailable ends where there are no tables of IPv6, and with the context.
func TestLeftIPv6Unavailable(t *testing.T) {
	looks := 0
	open := func() (redirect.IPTables, error) {
		looks++
		return nil, context.DeadlineExceeded
	}
	removeLeftIPv6(t.Context(), open, time.Millisecond)
	if looks != 2 {
		t.Errorf("%d looks, want 2", looks)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	removeLeftIPv6(ended, open, time.Hour)
}
