// Command adal gets a token as test/client does, with the autorest client that was
// there before azidentity. It prints whose token it is.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/Azure/go-autorest/autorest/adal"

	"github.com/aad-pod-identity/aad-pod-identity/test/client/older/claims"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	if len(args) == 1 && args[0] == "wait" {
		<-ctx.Done()
		return nil
	}
	if len(args) == 0 || args[0] != "token" {
		return errors.New("usage: adal wait | token [flags]")
	}
	fs := flag.NewFlagSet("token", flag.ContinueOnError)
	clientID := fs.String("client-id", "", "ask for the identity with this client ID")
	resourceID := fs.String("resource-id", "", "ask for the identity with this resource ID")
	scope := fs.String("scope", "https://management.azure.com/.default", "scope of the token; the resource is what precedes /.default")
	once := fs.Bool("once", false, "do not retry")
	timeout := fs.Duration("timeout", 2*time.Minute, "give up after this long")
	if err := fs.Parse(args[1:]); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, *timeout)
	defer cancel()
	t, err := adal.NewServicePrincipalTokenFromManagedIdentity(strings.TrimSuffix(*scope, "/.default"),
		&adal.ManagedIdentityOptions{ClientID: *clientID, IdentityResourceID: *resourceID})
	if err != nil {
		return err
	}
	if *once {
		t.MaxMSIRefreshAttempts = 1
	}
	if err := t.RefreshWithContext(ctx); err != nil {
		return err
	}
	return claims.Print(t.OAuthToken(), os.Stdout)
}
