// Command webhook is the admission webhook: it refuses objects of our kinds that
// are wrong, with the words that say what to write, and tags pods with the
// identities they get. Its other commands serve the chart's hooks.
package main

import (
	"context"
	"os"
	"strings"

	"github.com/aad-pod-identity/aad-pod-identity/internal/run"
	"github.com/aad-pod-identity/aad-pod-identity/webhook/prepare"
	"github.com/aad-pod-identity/aad-pod-identity/webhook/uninstall"
)

func main() {
	os.Exit(run.Main("webhook", command))
}

// command runs the command that args begin with; without one, the server.
func command(ctx context.Context, args []string) error {
	name := "serve"
	if len(args) > 0 && !strings.HasPrefix(args[0], "-") {
		name, args = args[0], args[1:]
	}
	switch name {
	case "serve":
		return serveCommand(ctx, args)
	case "prepare":
		return prepare.Command(ctx, args)
	case "uninstall":
		return uninstall.Command(ctx, args)
	case "cleanup":
		return uninstall.CleanupCommand(ctx, args)
	default:
		return run.Usagef("unknown command %q: there are serve, prepare, uninstall and cleanup", name)
	}
}
