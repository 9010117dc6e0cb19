// Command azidentity2024 gets a token as test/client does, with the azidentity of
// November 2024. It prints whose token it is.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"

	"github.com/aad-pod-identity/aad-pod-identity/test/client/older/program"
)

func main() {
	var credential string
	program.Main("azidentity2024", func(fs *flag.FlagSet) {
		fs.StringVar(&credential, "credential", "managed", "managed or default")
	}, func(ctx context.Context, o program.Options) (string, error) {
		return get(ctx, credential, o)
	})
}

func get(ctx context.Context, credential string, o program.Options) (string, error) {
	var options azcore.ClientOptions
	if o.Once {
		options.Retry = policy.RetryOptions{MaxRetries: -1}
	}
	cred, err := newCredential(credential, o.ClientID, o.ResourceID, options)
	if err != nil {
		return "", err
	}
	t, err := cred.GetToken(ctx, policy.TokenRequestOptions{Scopes: []string{o.Scope}})
	return t.Token, err
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
