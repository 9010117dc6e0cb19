// Command adal gets a token as test/client does, with the autorest client that was
// there before azidentity. It prints whose token it is.
package main

import (
	"context"
	"strings"

	"github.com/Azure/go-autorest/autorest/adal"

	"github.com/aad-pod-identity/aad-pod-identity/test/client/older/program"
)

func main() { program.Main("adal", nil, get) }

func get(ctx context.Context, o program.Options) (string, error) {
	t, err := adal.NewServicePrincipalTokenFromManagedIdentity(strings.TrimSuffix(o.Scope, "/.default"),
		&adal.ManagedIdentityOptions{ClientID: o.ClientID, IdentityResourceID: o.ResourceID})
	if err != nil {
		return "", err
	}
	if o.Once {
		t.MaxMSIRefreshAttempts = 1
	}
	if err := t.RefreshWithContext(ctx); err != nil {
		return "", err
	}
	return t.OAuthToken(), nil
}
