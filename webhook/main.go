// Command webhook is the admission webhook: it refuses objects of our kinds that
// are wrong, with the words that say what to write, and tags pods with the
// identities they get. "webhook lint" judges manifests without a cluster; the other
// commands serve the chart's hooks.
package main

import (
	"context"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/aad-pod-identity/aad-pod-identity/internal/run"
	"github.com/aad-pod-identity/aad-pod-identity/webhook/lint"
	"github.com/aad-pod-identity/aad-pod-identity/webhook/prepare"
	"github.com/aad-pod-identity/aad-pod-identity/webhook/uninstall"
)

func main() {
	os.Exit(run.Main("webhook", command))
}

// commands of the binary; without one, "serve" runs. "lint" is for people and
// pipelines, the others are those of the chart's hooks.
func commands() map[string]func(ctx context.Context, args []string) error {
	return map[string]func(ctx context.Context, args []string) error{
		"serve":     serveCommand,
		"lint":      lint.Command,
		"prepare":   prepare.Command,
		"uninstall": uninstall.Command,
		"cleanup":   uninstall.CleanupCommand,
	}
}

// command runs the command that args begin with.
func command(ctx context.Context, args []string) error {
	name := "serve"
	if len(args) > 0 && !strings.HasPrefix(args[0], "-") {
		name, args = args[0], args[1:]
	}
	all := commands()
	chosen, ok := all[name]
	if !ok {
		return run.Usagef("unknown command %q, must be one of %s", name, strings.Join(slices.Sorted(maps.Keys(all)), ", "))
	}
	return chosen(ctx, args)
}
