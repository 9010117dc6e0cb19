// Command nmi runs on every node. It redirects the pods' requests for the Azure
// instance metadata service to itself, finds out which pod asks, and answers with
// a token of an identity that MIC has assigned for that pod, or not at all.
//
//	nmi [flags]     serve
//	nmi cleanup     remove the redirect of this node
//	nmi probe       ask the NMI of this container how it is
//	nmi selftest    in a pod of its own: ask whether pods' requests come to NMI
package main

import (
	"context"
	"os"

	"github.com/aad-pod-identity/aad-pod-identity/internal/run"
)

const component = "nmi"

func main() {
	os.Exit(run.Main(component, command))
}

// command picks the subcommand.
func command(ctx context.Context, args []string) error {
	if len(args) > 0 {
		switch args[0] {
		case "cleanup":
			return cleanup(os.Stdout, args[1:])
		case "probe":
			return probe(ctx, os.Stdout, args[1:])
		case "selftest":
			return selftest(ctx, args[1:])
		}
	}
	o := newOptions()
	done, err := o.parse(args, os.LookupEnv)
	if done || err != nil {
		return err
	}
	return serve(ctx, o)
}
