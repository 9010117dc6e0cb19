// Command emulator serves the Azure emulator of package test/azure: ARM and AAD over HTTPS, IMDS for any number of nodes
// over plain HTTP, and the control API. It is what the demo and the end-to-end tests reach through azure.json and an
// environment file. See the package's documentation for what it emulates and for the control API, and --help for flags.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/pflag"
)

func main() {
	if err := mainErr(); err != nil {
		fmt.Fprintln(os.Stderr, "emulator:", err)
		os.Exit(1)
	}
}

func mainErr() error {
	var o options
	flags := pflag.NewFlagSet("emulator", pflag.ContinueOnError)
	o.addFlags(flags)
	if err := flags.Parse(os.Args[1:]); errors.Is(err, pflag.ErrHelp) {
		return nil
	} else if err != nil {
		return err
	}
	if flags.NArg() > 0 {
		return fmt.Errorf("unexpected argument %q", flags.Arg(0))
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	return run(ctx, o, os.Stdout)
}
