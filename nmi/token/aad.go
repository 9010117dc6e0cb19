package token

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	azcloud "github.com/Azure/azure-sdk-for-go/sdk/azcore/cloud"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/runtime"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"
	"k8s.io/apimachinery/pkg/types"
)

// Principals gets tokens of service principals from Azure AD, with the credential
// in a Secret.
type Principals struct {
	secrets     *Secrets
	authorities Authorities
	client      policy.ClientOptions
	bundles     bundles
}

// NewPrincipals makes a source that signs in through client, which must not follow
// redirects: they would carry the credential elsewhere.
func NewPrincipals(secrets *Secrets, authorities Authorities, userAgent string, client *http.Client) *Principals {
	return &Principals{
		secrets: secrets, authorities: authorities, bundles: newBundles(),
		client: policy.ClientOptions{
			Transport:       guarded{authorities, client},
			Retry:           policy.RetryOptions{MaxRetries: 2, RetryDelay: time.Second, MaxRetryDelay: 10 * time.Second},
			Telemetry:       policy.TelemetryOptions{Disabled: true}, // ours below
			PerCallPolicies: []policy.Policy{agent(userAgent)},
		},
	}
}

// Token implements Source.
func (p *Principals) Token(ctx context.Context, req Request) (Token, error) {
	if err := complete(req); err != nil {
		return Token{}, err
	}
	authority, no := p.authorities.resolve(req.Principal.Authority)
	if no != nil {
		return Token{}, no
	}
	data, err := p.secrets.Data(ctx, req.Principal.Secret)
	if err != nil {
		return Token{}, err
	}
	last := &lastRequest{}
	credential, err := p.credential(ctx, req, authority, data, last)
	if err != nil {
		return Token{}, err
	}
	asked := time.Now()
	got, err := credential.GetToken(ctx, policy.TokenRequestOptions{Scopes: []string{req.Resource + "/.default"}})
	if err != nil {
		return Token{}, signInError(ctx, req, err)
	}
	read := readClaims(got.Token)
	if read.NotBefore == 0 {
		read.NotBefore = asked.Unix()
	}
	t := Token{
		AccessToken: got.Token, Resource: req.Resource, TokenType: "Bearer", ClientID: req.ClientID,
		NotBefore: strconv.FormatInt(read.NotBefore, 10), ObjectID: read.ObjectID, ExpiresOn: got.ExpiresOn, RequestID: last.id,
	}
	if !got.RefreshOn.IsZero() {
		t.RefreshIn = max(0, got.RefreshOn.Sub(asked))
	}
	return t, nil
}

// complete says what the AzureIdentity or the request lacks. Stored objects can be
// older than the rules by which admission judges them.
func complete(req Request) error {
	switch {
	case req.ClientID == "":
		return refused("invalid_request", "the AzureIdentity has no clientID")
	case req.TenantID == "":
		return refused("invalid_request", "the AzureIdentity has no tenantID")
	case req.Principal.Secret.Name == "":
		return refused("invalid_request", "the AzureIdentity has no clientPassword with the name of a Secret")
	case strings.ContainsFunc(req.Resource, func(r rune) bool { return unicode.IsSpace(r) || unicode.IsControl(r) }):
		// Scopes are separated by white space: the pod would ask for several.
		return refused("invalid_resource", "the resource has white space in it")
	}
	return nil
}

func refused(code, description string) *Error {
	return &Error{Refused: true, Code: code, Description: description}
}

// credential signs in anew each time: azidentity's own cache would keep the secret
// in memory and give out its tokens when a new one is wanted.
func (p *Principals) credential(ctx context.Context, req Request, authority string, data map[string][]byte, last *lastRequest) (azcore.TokenCredential, error) {
	client := p.client
	client.PerCallPolicies = append(slices.Clone(p.client.PerCallPolicies), last)
	client.Cloud = azcloud.Configuration{ActiveDirectoryAuthorityHost: authority, Services: map[azcloud.ServiceName]azcloud.ServiceConfiguration{}}
	var c azcore.TokenCredential
	switch kind := req.Principal.Credential; kind {
	case CredentialSecret:
		secret, err := clientSecret(data)
		if err != nil {
			return nil, contentError(req.Principal.Secret, err)
		}
		c, err = azidentity.NewClientSecretCredential(req.TenantID, req.ClientID, secret, &azidentity.ClientSecretCredentialOptions{
			ClientOptions: client, DisableInstanceDiscovery: true,
		})
		if err != nil {
			return nil, unusable(req.Principal.Secret, err)
		}
	case CredentialCertificate:
		certificates, key, err := p.bundles.clientCertificate(ctx, data)
		if ctx.Err() != nil {
			return nil, ended(ctx, "reading the certificate")
		}
		if err != nil {
			return nil, contentError(req.Principal.Secret, err)
		}
		c, err = azidentity.NewClientCertificateCredential(req.TenantID, req.ClientID, certificates, key, &azidentity.ClientCertificateCredentialOptions{
			ClientOptions: client, DisableInstanceDiscovery: true,
			// For applications that trust a subject name and issuer; the 1.8 releases sent it.
			SendCertificateChain: true,
		})
		if err != nil {
			return nil, unusable(req.Principal.Secret, err)
		}
	default:
		return nil, refused("unsupported_identity_type", fmt.Sprintf("the AzureIdentity has the credential %q, which is unknown", kind))
	}
	return c, nil
}

// unusable is the error of a credential that azidentity does not take.
func unusable(secret types.NamespacedName, err error) *Error {
	return &Error{Refused: true, Code: "invalid_client", Description: fmt.Sprintf("no credential can be made of the AzureIdentity and Secret %s: %v", secret, err), err: err}
}

// signInError turns an error of azidentity, whose text has the whole answer in it,
// into ours.
func signInError(ctx context.Context, req Request, err error) error {
	var failed *azidentity.AuthenticationFailedError
	switch {
	case ctx.Err() != nil && !errors.Is(ctx.Err(), context.DeadlineExceeded):
		return ctx.Err()
	case !errors.As(err, &failed) || failed.RawResponse == nil:
		return &Error{Code: codeUnavailable, Description: "Azure AD cannot be reached: " + hide(oneLine(err.Error()), req.ClientID)}
	}
	resp := failed.RawResponse
	body, readErr := runtime.Payload(resp)
	if readErr != nil || resp.StatusCode == http.StatusOK {
		return &Error{Status: resp.StatusCode, Code: codeUnavailable, Description: "Azure AD answered with something that is not a token"}
	}
	e := answered(resp, body, "Azure AD")
	e.Description = hide(oneLine(e.Description), req.ClientID)
	return e
}

// oneLine puts a text of others into one line, and shortens it.
func oneLine(text string) string {
	const longest = 1024
	text = strings.Join(strings.Fields(text), " ")
	if len(text) > longest {
		text = strings.ToValidUTF8(text[:longest], "") + "..."
	}
	return text
}

// agent sets the user agent.
type agent string

// Do implements policy.Policy.
func (a agent) Do(req *policy.Request) (*http.Response, error) {
	req.Raw().Header.Set("User-Agent", string(a))
	return req.Next()
}

// lastRequest notes what Azure AD called the last request.
type lastRequest struct{ id string }

// Do implements policy.Policy.
func (l *lastRequest) Do(req *policy.Request) (*http.Response, error) {
	resp, err := req.Next()
	if resp != nil {
		l.id = resp.Header.Get(requestIDHeader)
	}
	return resp, err
}

// guarded sends requests to the allowed authorities only: an authority says itself
// in a document where tokens are to be asked for.
type guarded struct {
	authorities Authorities
	client      *http.Client
}

// Do implements policy.Transporter.
func (g guarded) Do(r *http.Request) (*http.Response, error) {
	if !g.authorities.Allows(r.URL) {
		return nil, foreignHost(r.URL.Host)
	}
	resp, err := g.client.Do(r)
	if resp != nil && resp.Body != nil {
		resp.Body = bounded(resp.Body)
	}
	return resp, err
}

// foreignHost is the error of a request to a host that is not allowed.
type foreignHost string

// Error implements error.
func (h foreignHost) Error() string {
	return fmt.Sprintf("the authority refers to host %q, which is not allowed", string(h))
}

// NonRetriable keeps azcore from trying again.
func (foreignHost) NonRetriable() {}

// oauthError is the body of an error of IMDS and Azure AD.
type oauthError struct {
	Code        string `json:"error"`
	Description string `json:"error_description"`
}

func readOAuthError(body []byte) (oauthError, bool) {
	var e oauthError
	err := json.Unmarshal(body, &e)
	return e, err == nil && e.Code != ""
}
