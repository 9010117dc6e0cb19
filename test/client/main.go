// Command client is the workload of the demo and of the end-to-end tests: a
// program that knows nothing of pod identity and asks for a token as any program
// on an Azure VM does, with the unmodified SDK.
//
//	client wait                        does nothing until it is told to stop
//	client token [flags]               azidentity's ManagedIdentityCredential
//	client get [-H 'Name: value'] URL  one HTTP request, to see an answer as it is
//	client load --until=FILE           token requests without a pause, until the file exists
//	client expect --client-id=ID       ask for some seconds, and fail for another's token
//	client touch FILE                  makes a file
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/pflag"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, out io.Writer) error {
	if len(args) == 0 {
		return errors.New("usage: client wait | token [flags] | get [-H 'Name: value'] URL | load --until=FILE | expect --client-id=ID | touch FILE")
	}
	switch args[0] {
	case "wait":
		<-ctx.Done()
		return nil
	case "token":
		var o tokenOptions
		fs := pflag.NewFlagSet("client token", pflag.ContinueOnError)
		o.addFlags(fs)
		if err := fs.Parse(args[1:]); err != nil {
			return err
		}
		return token(ctx, o, out)
	case "get":
		fs := pflag.NewFlagSet("client get", pflag.ContinueOnError)
		headers := fs.StringArrayP("header", "H", nil, "request header, as Name: value")
		if err := fs.Parse(args[1:]); err != nil {
			return err
		}
		if fs.NArg() != 1 {
			return errors.New("client get: exactly one URL is needed")
		}
		return get(ctx, fs.Arg(0), *headers, out)
	case "load":
		var o loadOptions
		fs := pflag.NewFlagSet("client load", pflag.ContinueOnError)
		o.addFlags(fs)
		if err := fs.Parse(args[1:]); err != nil {
			return err
		}
		return load(ctx, o, out)
	case "expect":
		var o expectOptions
		fs := pflag.NewFlagSet("client expect", pflag.ContinueOnError)
		o.addFlags(fs)
		if err := fs.Parse(args[1:]); err != nil {
			return err
		}
		return expect(ctx, o, out)
	case "touch":
		if len(args) != 2 {
			return errors.New("client touch: exactly one file is needed")
		}
		return os.WriteFile(args[1], nil, 0o600)
	default:
		return fmt.Errorf("client: unknown command %q", args[0])
	}
}
