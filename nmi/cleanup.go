package main

import (
	"errors"
	"fmt"
	"io"
	"net/netip"

	"github.com/spf13/pflag"

	"github.com/aad-pod-identity/aad-pod-identity/internal/run"
	"github.com/aad-pod-identity/aad-pod-identity/nmi/redirect"
)

// cleanup removes the redirect of this node by hand. A running NMI would put it
// back.
func cleanup(out io.Writer, args []string) error {
	fs := pflag.NewFlagSet(component+" cleanup", pflag.ContinueOnError)
	fs.SetOutput(out)
	ip := fs.String("metadata-ip", "169.254.169.254", "IPv4 address of the instance metadata service")
	ip6 := fs.String("metadata-ip6", "", "its IPv6 address, if there is one")
	if err := fs.Parse(args); err != nil {
		if errors.Is(err, pflag.ErrHelp) {
			return nil
		}
		return run.Usagef("%w", err)
	}
	metadata, err := netip.ParseAddr(*ip)
	metadata6, err6 := netip.ParseAddr(*ip6)
	if err != nil || !metadata.Is4() || *ip6 != "" && (err6 != nil || !ordinaryIPv6(metadata6)) || fs.NArg() > 0 {
		return run.Usagef("cleanup takes --metadata-ip, an IPv4 address, --metadata-ip6, an IPv6 address, and nothing else")
	}
	removed, err := removeFrom(redirect.NewIPTables, metadata)
	if err != nil {
		return err
	}
	// An NMI of 1.8 may have used it.
	removedLegacy, err := removeFrom(redirect.NewLegacyIPTables, metadata)
	if err != nil {
		return err
	}
	// Also without its address, as of a release whose values have changed. Many nodes
	// have no nat table of IPv6, and so no redirect in it.
	removed6, err := removeFrom(redirect.NewIP6Tables, metadata6)
	if err != nil && *ip6 != "" {
		return err
	}
	text := "There is no redirect on this node."
	if removed || removedLegacy || removed6 {
		text = "Removed the chain aad-metadata and its jump from the nat table."
	}
	_, err = fmt.Fprintln(out, text)
	return err
}

func removeFrom(open func() (redirect.IPTables, error), metadata netip.Addr) (removed bool, err error) {
	tables, err := open()
	if tables == nil || err != nil {
		return false, err
	}
	removed, err = redirect.Remove(tables, redirect.Target{Metadata: metadata})
	if err != nil {
		return removed, fmt.Errorf("removing the redirect: %w", err)
	}
	return removed, nil
}
