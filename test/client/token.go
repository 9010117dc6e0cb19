package main

import (
	"context"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"os"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"
	"github.com/golang-jwt/jwt/v5"
	"github.com/spf13/pflag"
)

type tokenOptions struct {
	clientID, resourceID, scope, jwks, caFile string
	once                                      bool
	timeout                                   time.Duration
}

func (o *tokenOptions) addFlags(fs *pflag.FlagSet) {
	fs.StringVar(&o.clientID, "client-id", "", "ask for the identity with this client ID")
	fs.StringVar(&o.resourceID, "resource-id", "", "ask for the identity with this resource ID")
	fs.StringVar(&o.scope, "scope", "https://management.azure.com/.default", "scope of the token")
	fs.StringVar(&o.jwks, "jwks", "", "verify the token's signature with the key set at this URL")
	fs.StringVar(&o.caFile, "ca-file", "", "PEM file with the CA of the key set's server")
	fs.BoolVar(&o.once, "once", false, "do not retry, as the SDK would for minutes")
	fs.DurationVar(&o.timeout, "timeout", 2*time.Minute, "give up after this long")
}

// token gets a token as an unmodified program does and prints its claims, never
// the token.
func token(ctx context.Context, o tokenOptions, out io.Writer) error {
	ctx, cancel := context.WithTimeout(ctx, o.timeout)
	defer cancel()
	opts := &azidentity.ManagedIdentityCredentialOptions{}
	switch {
	case o.clientID != "" && o.resourceID != "":
		return errors.New("client token: --client-id and --resource-id exclude each other")
	case o.clientID != "":
		opts.ID = azidentity.ClientID(o.clientID)
	case o.resourceID != "":
		opts.ID = azidentity.ResourceID(o.resourceID)
	}
	if o.once {
		opts.ClientOptions = azcore.ClientOptions{Retry: policy.RetryOptions{MaxRetries: -1}}
	}
	cred, err := azidentity.NewManagedIdentityCredential(opts)
	if err != nil {
		return err
	}
	t, err := cred.GetToken(ctx, policy.TokenRequestOptions{Scopes: []string{o.scope}})
	if err != nil {
		return err
	}
	claims, verified, err := inspect(ctx, t.Token, o)
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "token received, valid until %s; %s\n", t.ExpiresOn.UTC().Format(time.RFC3339), verified)
	enc := json.NewEncoder(out)
	enc.SetIndent("", "  ")
	return enc.Encode(claims)
}

// inspect returns the claims worth showing. With a key set it verifies the
// signature and the times first.
func inspect(ctx context.Context, raw string, o tokenOptions) (map[string]any, string, error) {
	claims := jwt.MapClaims{}
	verified := "signature not checked"
	if o.jwks == "" {
		if _, _, err := jwt.NewParser().ParseUnverified(raw, claims); err != nil {
			return nil, "", fmt.Errorf("reading the token: %w", err)
		}
	} else {
		keys, err := fetchKeys(ctx, o)
		if err != nil {
			return nil, "", err
		}
		parsed, err := jwt.ParseWithClaims(raw, claims, func(t *jwt.Token) (any, error) {
			kid, _ := t.Header["kid"].(string)
			key, ok := keys[kid]
			if !ok {
				return nil, fmt.Errorf("the key set has no key %q", kid)
			}
			return key, nil
		}, jwt.WithValidMethods([]string{"RS256"}), jwt.WithExpirationRequired())
		if err != nil {
			return nil, "", fmt.Errorf("verifying the token: %w", err)
		}
		kid, _ := parsed.Header["kid"].(string)
		verified = fmt.Sprintf("signature verified with key %s of %s", kid, o.jwks)
	}
	shown := map[string]any{}
	for _, name := range []string{"iss", "aud", "appid", "oid", "tid", "xms_mirid"} {
		if v, ok := claims[name]; ok {
			shown[name] = v
		}
	}
	return shown, verified, nil
}

// fetchKeys reads a JSON Web Key Set (RFC 7517), by key ID.
func fetchKeys(ctx context.Context, o tokenOptions) (map[string]*rsa.PublicKey, error) {
	client := http.DefaultClient
	if o.caFile != "" {
		pem, err := os.ReadFile(o.caFile)
		if err != nil {
			return nil, fmt.Errorf("reading the CA: %w", err)
		}
		roots := x509.NewCertPool()
		if !roots.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("%s holds no certificate", o.caFile)
		}
		client = &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}}}
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, o.jwks, nil)
	if err != nil {
		return nil, fmt.Errorf("fetching the key set: %w", err)
	}
	resp, err := client.Do(req)
	if err != nil {
		return nil, fmt.Errorf("fetching the key set: %w", err)
	}
	defer func() { _ = resp.Body.Close() }()
	var set struct {
		Keys []struct{ Kid, N, E string } `json:"keys"`
	}
	if err := json.NewDecoder(resp.Body).Decode(&set); err != nil {
		return nil, fmt.Errorf("reading the key set: %w", err)
	}
	keys := map[string]*rsa.PublicKey{}
	for _, k := range set.Keys {
		n, nerr := base64.RawURLEncoding.DecodeString(k.N)
		e, eerr := base64.RawURLEncoding.DecodeString(k.E)
		if err := errors.Join(nerr, eerr); err != nil {
			return nil, fmt.Errorf("reading key %s: %w", k.Kid, err)
		}
		keys[k.Kid] = &rsa.PublicKey{N: new(big.Int).SetBytes(n), E: int(new(big.Int).SetBytes(e).Int64())}
	}
	return keys, nil
}
