// Package program is what the older clients have in common: the command line of
// test/client, and what they print.
package program

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"
)

// Options say which token is asked for, and how.
type Options struct {
	ClientID, ResourceID string
	Scope                string
	// Once is without the client's own retries.
	Once bool
}

// Main gets a token as the command line says, prints whose it is, and does not return.
// Flags, if not nil, adds those of one client.
func Main(name string, flags func(*flag.FlagSet), get func(context.Context, Options) (token string, err error)) {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	err := run(ctx, name, os.Args[1:], flags, get)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

func run(ctx context.Context, name string, args []string, flags func(*flag.FlagSet), get func(context.Context, Options) (string, error)) error {
	if len(args) == 1 && args[0] == "wait" {
		<-ctx.Done()
		return nil
	}
	if len(args) == 0 || args[0] != "token" {
		return errors.New("usage: " + name + " wait | token [flags]")
	}
	var o Options
	fs := flag.NewFlagSet("token", flag.ContinueOnError)
	fs.StringVar(&o.ClientID, "client-id", "", "ask for the identity with this client ID")
	fs.StringVar(&o.ResourceID, "resource-id", "", "ask for the identity with this resource ID")
	fs.StringVar(&o.Scope, "scope", "https://management.azure.com/.default", "scope of the token; a resource is what precedes /.default")
	fs.BoolVar(&o.Once, "once", false, "do not retry")
	timeout := fs.Duration("timeout", 2*time.Minute, "give up after this long")
	if flags != nil {
		flags(fs)
	}
	if err := fs.Parse(args[1:]); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, *timeout)
	defer cancel()
	token, err := get(ctx, o)
	if err != nil {
		return err
	}
	return printClaims(token, os.Stdout)
}
