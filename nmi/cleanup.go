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
	if err := fs.Parse(args); err != nil {
		if errors.Is(err, pflag.ErrHelp) {
			return nil
		}
		return run.Usagef("%w", err)
	}
	metadata, err := netip.ParseAddr(*ip)
	if err != nil || !metadata.Is4() || fs.NArg() > 0 {
		return run.Usagef("cleanup takes --metadata-ip, an IPv4 address, and nothing else")
	}
	iptables, err := redirect.NewIPTables()
	if err != nil {
		return err
	}
	removed, err := redirect.Remove(iptables, redirect.Target{Metadata: metadata})
	if err != nil {
		return fmt.Errorf("removing the redirect: %w", err)
	}
	text := "There is no redirect on this node."
	if removed {
		text = "Removed the chain aad-metadata and its jump from the nat table."
	}
	_, err = fmt.Fprintln(out, text)
	return err
}
