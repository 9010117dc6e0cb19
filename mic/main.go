// Command mic is the Managed Identity Controller: it finds the identities that
// pods need and assigns them to the VMs and scale sets that the pods run on.
package main

import (
	"context"
	"os"

	"github.com/spf13/pflag"

	"github.com/aad-pod-identity/aad-pod-identity/internal/run"
)

func main() {
	os.Exit(run.Main("mic", command))
}

// command reads and checks the options, then runs.
func command(ctx context.Context, args []string) error {
	o := newOptions(os.Getenv)
	fs := pflag.NewFlagSet("mic", pflag.ContinueOnError)
	o.addFlags(fs)
	if done, err := o.Parse(fs, "mic", args); done || err != nil {
		return err
	}
	if err := o.validate(); err != nil {
		return err
	}
	return serve(ctx, o)
}
