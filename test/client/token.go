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
	credential, clientID, resourceID, scope string
	jwks, arm, caFile                       string
	once                                    bool
	timeout                                 time.Duration
}

func (o *tokenOptions) addFlags(fs *pflag.FlagSet) {
	fs.StringVar(&o.credential, "credential", "managed", "managed or default: ManagedIdentityCredential or DefaultAzureCredential, which is told the client ID by its environment")
	fs.StringVar(&o.clientID, "client-id", "", "ask for the identity with this client ID")
	fs.StringVar(&o.resourceID, "resource-id", "", "ask for the identity with this resource ID")
	fs.StringVar(&o.scope, "scope", "https://management.azure.com/.default", "scope of the token")
	fs.StringVar(&o.jwks, "jwks", "", "verify the token's signature with the key set at this URL")
	fs.StringVar(&o.arm, "arm", "", "list the subscriptions with the token at this ARM")
	fs.StringVar(&o.caFile, "ca-file", "", "PEM file with the CA of the key set's server and of ARM")
	fs.BoolVar(&o.once, "once", false, "do not retry, as the SDK would for minutes")
	fs.DurationVar(&o.timeout, "timeout", 2*time.Minute, "give up after this long")
}

// token gets a token as an unmodified program does and prints its claims, never
// the token.
func token(ctx context.Context, o tokenOptions, out io.Writer) error {
	ctx, cancel := context.WithTimeout(ctx, o.timeout)
	defer cancel()
	cred, err := newCredential(o)
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
	if o.arm != "" {
		if err := listSubscriptions(ctx, o, t.Token); err != nil {
			return err
		}
		fmt.Fprintln(out, "ARM takes the token")
	}
	fmt.Fprintf(out, "token received, valid until %s; %s\n", t.ExpiresOn.UTC().Format(time.RFC3339), verified)
	enc := json.NewEncoder(out)
	enc.SetIndent("", "  ")
	return enc.Encode(claims)
}

func newCredential(o tokenOptions) (azcore.TokenCredential, error) {
	var options azcore.ClientOptions
	if o.once {
		options.Retry = policy.RetryOptions{MaxRetries: -1}
	}
	switch {
	case o.clientID != "" && o.resourceID != "":
		return nil, errors.New("client token: --client-id and --resource-id exclude each other")
	case o.credential == "default" && o.resourceID == "":
		if o.clientID != "" {
			if err := os.Setenv("AZURE_CLIENT_ID", o.clientID); err != nil {
				return nil, err
			}
		}
		return azidentity.NewDefaultAzureCredential(&azidentity.DefaultAzureCredentialOptions{ClientOptions: options})
	case o.credential != "managed":
		return nil, fmt.Errorf("client token: --credential=%s with --resource-id=%s", o.credential, o.resourceID)
	}
	m := &azidentity.ManagedIdentityCredentialOptions{ClientOptions: options}
	switch {
	case o.clientID != "":
		m.ID = azidentity.ClientID(o.clientID)
	case o.resourceID != "":
		m.ID = azidentity.ResourceID(o.resourceID)
	}
	return azidentity.NewManagedIdentityCredential(m)
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

// httpsClient trusts the CA of the file, if there is one.
func httpsClient(o tokenOptions) (*http.Client, error) {
	if o.caFile == "" {
		return http.DefaultClient, nil
	}
	pem, err := os.ReadFile(o.caFile)
	if err != nil {
		return nil, fmt.Errorf("reading the CA: %w", err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("%s holds no certificate", o.caFile)
	}
	return &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}}}, nil
}

// listSubscriptions is a request of ARM that every identity may send.
func listSubscriptions(ctx context.Context, o tokenOptions, token string) error {
	client, err := httpsClient(o)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, o.arm+"/subscriptions?api-version=2022-12-01", nil)
	if err != nil {
		return fmt.Errorf("asking ARM: %w", err)
	}
	req.Header.Set("Authorization", "Bearer "+token)
	resp, err := client.Do(req)
	if err != nil {
		return fmt.Errorf("asking ARM: %w", err)
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("ARM answers %s", resp.Status)
	}
	return nil
}

// fetchKeys reads a JSON Web Key Set (RFC 7517), by key ID.
func fetchKeys(ctx context.Context, o tokenOptions) (map[string]*rsa.PublicKey, error) {
	client, err := httpsClient(o)
	if err != nil {
		return nil, err
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
