// Command azidentity2024 gets a token as test/client does, with the azidentity of
// November 2024. It prints whose token it is.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"

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
		return errors.New("usage: azidentity2024 wait | token [flags]")
	}
	fs := flag.NewFlagSet("token", flag.ContinueOnError)
	credential := fs.String("credential", "managed", "managed or default")
	clientID := fs.String("client-id", "", "ask for the identity with this client ID")
	resourceID := fs.String("resource-id", "", "ask for the identity with this resource ID")
	scope := fs.String("scope", "https://management.azure.com/.default", "scope of the token")
	once := fs.Bool("once", false, "do not retry")
	timeout := fs.Duration("timeout", 2*time.Minute, "give up after this long")
	if err := fs.Parse(args[1:]); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, *timeout)
	defer cancel()
	var options azcore.ClientOptions
	if *once {
		options.Retry = policy.RetryOptions{MaxRetries: -1}
	}
	cred, err := newCredential(*credential, *clientID, *resourceID, options)
	if err != nil {
		return err
	}
	t, err := cred.GetToken(ctx, policy.TokenRequestOptions{Scopes: []string{*scope}})
	if err != nil {
		return err
	}
	return claims.Print(t.Token, os.Stdout)
}

func newCredential(kind, clientID, resourceID string, options azcore.ClientOptions) (azcore.TokenCredential, error) {
	switch {
	case kind == "default" && resourceID == "":
		// What a program is told by its environment.
		if clientID != "" {
			if err := os.Setenv("AZURE_CLIENT_ID", clientID); err != nil {
				return nil, err
			}
		}
		return azidentity.NewDefaultAzureCredential(&azidentity.DefaultAzureCredentialOptions{ClientOptions: options})
	case kind != "managed":
		return nil, fmt.Errorf("--credential=%s with --resource-id=%s", kind, resourceID)
	}
	o := &azidentity.ManagedIdentityCredentialOptions{ClientOptions: options}
	if clientID != "" {
		o.ID = azidentity.ClientID(clientID)
	}
	if resourceID != "" {
		o.ID = azidentity.ResourceID(resourceID)
	}
	return azidentity.NewManagedIdentityCredential(o)
}
