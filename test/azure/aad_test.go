package azure_test

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"io"
	"math/big"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"
	"github.com/golang-jwt/jwt/v5"

	"github.com/aad-pod-identity/aad-pod-identity/test/azure"
)

// verify checks a token as any resource would: by discovery document and key set.
func (w *world) verify(t *testing.T, token, audience string) jwt.MapClaims {
	t.Helper()
	var discovery struct {
		Issuer  string `json:"issuer"`
		JWKSURI string `json:"jwks_uri"`
	}
	w.getJSON(t, "/"+w.TenantID()+"/.well-known/openid-configuration", &discovery)
	var set struct{ Keys []struct{ Kid, N, E string } }
	w.getJSON(t, strings.TrimPrefix(discovery.JWKSURI, w.Endpoint()), &set)
	claims := jwt.MapClaims{}
	_, err := jwt.ParseWithClaims(token, claims, func(token *jwt.Token) (any, error) {
		if token.Header["kid"] != set.Keys[0].Kid {
			t.Errorf("kid %v is not in the key set", token.Header["kid"])
		}
		n := must(base64.RawURLEncoding.DecodeString(set.Keys[0].N))(t)
		return &rsa.PublicKey{N: new(big.Int).SetBytes(n), E: 65537}, nil
	}, jwt.WithIssuer(discovery.Issuer), jwt.WithAudience(audience), jwt.WithValidMethods([]string{"RS256"}), jwt.WithExpirationRequired())
	if err != nil {
		t.Fatal(err)
	}
	return claims
}

func (w *world) getJSON(t *testing.T, path string, into any) {
	t.Helper()
	response, err := w.HTTPClient().Get(w.Endpoint() + path)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		t.Fatalf("GET %s: %s", path, response.Status)
	}
	if err := json.NewDecoder(response.Body).Decode(into); err != nil {
		t.Fatal(err)
	}
}

// certificate makes a self-signed certificate and its key.
func certificate(t *testing.T) (*x509.Certificate, *rsa.PrivateKey, string) {
	t.Helper()
	private := must(rsa.GenerateKey(rand.Reader, 2048))(t)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "sp"}, NotAfter: time.Now().Add(time.Hour)}
	der := must(x509.CreateCertificate(rand.Reader, template, template, private.Public(), private))(t)
	return must(x509.ParseCertificate(der))(t), private, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

// issuer is a Kubernetes API server as far as AAD sees it.
type issuer struct {
	url     string
	private *rsa.PrivateKey
}

func newIssuer(t *testing.T) issuer {
	t.Helper()
	return issuer{"https://issuer.example/cluster", must(rsa.GenerateKey(rand.Reader, 2048))(t)}
}

func (i issuer) jwks() json.RawMessage {
	return json.RawMessage(`{"keys":[{"kty":"RSA","kid":"k1","e":"AQAB","n":"` + base64.RawURLEncoding.EncodeToString(i.private.N.Bytes()) + `"}]}`)
}

func (i issuer) token(t *testing.T, subject, audience string, expires time.Time) string {
	t.Helper()
	token := jwt.NewWithClaims(jwt.SigningMethodRS256, jwt.MapClaims{"iss": i.url, "sub": subject, "aud": []string{audience}, "exp": expires.Unix()})
	token.Header["kid"] = "k1"
	return must(token.SignedString(i.private))(t)
}

func TestCredentialsOfTheSDK(t *testing.T) {
	t.Parallel()
	w := newWorld(t, azure.Options{})
	cert, private, certPEM := certificate(t)
	cluster := newIssuer(t)
	federated := []azure.FederatedCredential{{Issuer: cluster.url, Subject: "system:serviceaccount:ns:sa", JWKS: cluster.jwks()}}
	app := must(w.PutApp(azure.App{Secrets: []string{"other", secret}, Certificates: []string{certPEM}, Federated: federated}))(t)
	managed := must(w.PutIdentity(azure.Identity{ID: azure.IdentityID(subscription, "ids", "federated"), Federated: federated}))(t)
	assertion := func(context.Context) (string, error) {
		return cluster.token(t, "system:serviceaccount:ns:sa", "api://AzureADTokenExchange", time.Now().Add(time.Hour)), nil
	}
	for name, test := range map[string]struct {
		credential      func() (azcore.TokenCredential, error)
		clientID, objID string
		mirid           any
	}{
		"a secret": {func() (azcore.TokenCredential, error) {
			return azidentity.NewClientSecretCredential(w.TenantID(), app.ClientID, secret, &azidentity.ClientSecretCredentialOptions{ClientOptions: w.clientOptions(), DisableInstanceDiscovery: true})
		}, app.ClientID, app.ObjectID, nil},
		"a certificate": {func() (azcore.TokenCredential, error) {
			return azidentity.NewClientCertificateCredential(w.TenantID(), app.ClientID, []*x509.Certificate{cert}, private, &azidentity.ClientCertificateCredentialOptions{ClientOptions: w.clientOptions(), DisableInstanceDiscovery: true})
		}, app.ClientID, app.ObjectID, nil},
		"a federated assertion of an app": {func() (azcore.TokenCredential, error) {
			return azidentity.NewClientAssertionCredential(w.TenantID(), app.ClientID, assertion, &azidentity.ClientAssertionCredentialOptions{ClientOptions: w.clientOptions(), DisableInstanceDiscovery: true})
		}, app.ClientID, app.ObjectID, nil},
		"a federated assertion of a managed identity": {func() (azcore.TokenCredential, error) {
			return azidentity.NewClientAssertionCredential(w.TenantID(), managed.ClientID, assertion, &azidentity.ClientAssertionCredentialOptions{ClientOptions: w.clientOptions(), DisableInstanceDiscovery: true})
		}, managed.ClientID, managed.PrincipalID, managed.ID},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			credential := must(test.credential())(t)
			for scope, audience := range map[string]string{
				"https://vault.azure.net/.default":              "https://vault.azure.net",
				"https://management.core.windows.net//.default": "https://management.core.windows.net/",
			} {
				token := must(credential.GetToken(t.Context(), policy.TokenRequestOptions{Scopes: []string{scope}}))(t)
				claims := w.verify(t, token.Token, audience)
				if claims["appid"] != test.clientID || claims["oid"] != test.objID || claims["tid"] != w.TenantID() || claims["xms_mirid"] != test.mirid {
					t.Errorf("claims %v", claims)
				}
			}
		})
	}
}

// post sends a form to the token endpoint of a protocol version.
func (w *world) post(t *testing.T, path string, form url.Values) (int, map[string]any) {
	t.Helper()
	response, err := w.HTTPClient().PostForm(w.Endpoint()+"/"+path, form)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	var body map[string]any
	if err := json.Unmarshal(must(io.ReadAll(response.Body))(t), &body); err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, body
}

func TestTokenEndpointErrors(t *testing.T) {
	t.Parallel()
	w := newWorld(t, azure.Options{})
	cert, private, certPEM := certificate(t)
	_, otherKey, _ := certificate(t)
	cluster, stranger := newIssuer(t), newIssuer(t)
	app := must(w.PutApp(azure.App{
		Secrets: []string{secret}, Certificates: []string{certPEM},
		Federated: []azure.FederatedCredential{{Issuer: cluster.url, Subject: "sub", JWKS: cluster.jwks()}},
	}))(t)
	self := func(method jwt.SigningMethod, key crypto.PrivateKey, header, thumbprint string, change map[string]any) string {
		claims := jwt.MapClaims{"iss": app.ClientID, "sub": app.ClientID, "exp": time.Now().Add(time.Hour).Unix(), "aud": w.Endpoint() + "/" + w.TenantID() + "/oauth2/token"}
		for name, value := range change {
			claims[name] = value
		}
		token := jwt.NewWithClaims(method, claims)
		token.Header[header] = thumbprint
		return must(token.SignedString(key))(t)
	}
	short, long := sha1.Sum(cert.Raw), sha256.Sum256(cert.Raw)
	x5t, x5t256 := base64.RawURLEncoding.EncodeToString(short[:]), base64.RawURLEncoding.EncodeToString(long[:])
	rs, ps := jwt.SigningMethodRS256, jwt.SigningMethodPS256
	const audience = "api://AzureADTokenExchange"
	soon := time.Now().Add(time.Hour)

	for name, test := range map[string]struct {
		tenant string
		form   map[string]string // changes to a good request; empty removes
		status int
		code   string
		kind   string
	}{
		"a good secret":                     {status: 200},
		"a secret that is wrong":            {form: map[string]string{"client_secret": "x"}, status: 401, code: "AADSTS7000215", kind: "invalid_client"},
		"no credential":                     {form: map[string]string{"client_secret": ""}, status: 401, code: "AADSTS7000216", kind: "invalid_client"},
		"an unknown tenant":                 {tenant: "99999999-0000-0000-0000-000000000000", status: 400, code: "AADSTS90002", kind: "invalid_request"},
		"an unknown app":                    {form: map[string]string{"client_id": "99999999-0000-0000-0000-000000000000"}, status: 400, code: "AADSTS700016", kind: "unauthorized_client"},
		"no scope":                          {form: map[string]string{"scope": ""}, status: 400, code: "AADSTS900144", kind: "invalid_request"},
		"a scope without .default":          {form: map[string]string{"scope": "https://vault.azure.net"}, status: 400, code: "AADSTS1002012", kind: "invalid_scope"},
		"two resources":                     {form: map[string]string{"scope": "https://a/.default https://b/.default"}, status: 400, code: "AADSTS1002012", kind: "invalid_scope"},
		"another grant":                     {form: map[string]string{"grant_type": "password"}, status: 400, code: "AADSTS70003", kind: "unsupported_grant_type"},
		"an assertion that is no JWT":       {form: map[string]string{"client_assertion": "x"}, status: 401, code: "AADSTS50027", kind: "invalid_client"},
		"a certificate by x5t":              {form: map[string]string{"client_assertion": self(rs, private, "x5t", x5t, nil)}, status: 200},
		"a certificate by x5t#S256":         {form: map[string]string{"client_assertion": self(ps, private, "x5t#S256", x5t256, nil)}, status: 200},
		"a certificate that is unknown":     {form: map[string]string{"client_assertion": self(rs, private, "x5t", "AAAA", nil)}, status: 401, code: "AADSTS700027", kind: "invalid_client"},
		"a certificate and another key":     {form: map[string]string{"client_assertion": self(rs, otherKey, "x5t", x5t, nil)}, status: 401, code: "AADSTS700027", kind: "invalid_client"},
		"a certificate's expired assertion": {form: map[string]string{"client_assertion": self(rs, private, "x5t", x5t, map[string]any{"exp": 1})}, status: 401, code: "AADSTS700024", kind: "invalid_client"},
		"a certificate's assertion for another tenant": {
			form:   map[string]string{"client_assertion": self(rs, private, "x5t", x5t, map[string]any{"aud": w.Endpoint() + "/other/oauth2/token"})},
			status: 401, code: "AADSTS700023", kind: "invalid_client",
		},
		"a certificate's assertion about another app": {
			form:   map[string]string{"client_assertion": self(rs, private, "x5t", x5t, map[string]any{"sub": "x"})},
			status: 401, code: "AADSTS700021", kind: "invalid_client",
		},
		"a federated assertion":             {form: map[string]string{"client_assertion": cluster.token(t, "sub", audience, soon)}, status: 200},
		"a federated subject in upper case": {form: map[string]string{"client_assertion": cluster.token(t, "SUB", audience, soon)}, status: 401, code: "AADSTS70021", kind: "invalid_client"},
		"another federated audience":        {form: map[string]string{"client_assertion": cluster.token(t, "sub", "api://x", soon)}, status: 401, code: "AADSTS70021", kind: "invalid_client"},
		"another federated key":             {form: map[string]string{"client_assertion": stranger.token(t, "sub", audience, soon)}, status: 401, code: "AADSTS5000819", kind: "invalid_client"},
		"an expired federated assertion":    {form: map[string]string{"client_assertion": cluster.token(t, "sub", audience, time.Unix(1, 0))}, status: 401, code: "AADSTS700024", kind: "invalid_client"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			form := url.Values{"grant_type": {"client_credentials"}, "client_id": {app.ClientID}, "client_secret": {secret}, "scope": {"https://vault.azure.net/.default"}}
			for key, value := range test.form {
				if value == "" {
					form.Del(key)
				} else {
					form.Set(key, value)
				}
				if key == "client_assertion" {
					form.Set("client_assertion_type", "urn:ietf:params:oauth:client-assertion-type:jwt-bearer")
				}
			}
			tenant := test.tenant
			if tenant == "" {
				tenant = w.TenantID()
			}
			status, body := w.post(t, tenant+"/oauth2/v2.0/token", form)
			description, _ := body["error_description"].(string)
			if status != test.status {
				t.Fatalf("status %d, want %d: %v", status, test.status, body)
			}
			if test.code != "" && (!strings.HasPrefix(description, test.code+": ") || body["error"] != test.kind || len(body["error_codes"].([]any)) != 1 || body["trace_id"] == "") {
				t.Errorf("got %v, want %s %s", body, test.kind, test.code)
			}
		})
	}
}

func TestTokenEndpointV1(t *testing.T) {
	t.Parallel()
	w := newWorld(t, azure.Options{})
	form := url.Values{"grant_type": {"client_credentials"}, "client_id": {w.app.ClientID}, "client_secret": {secret}, "resource": {"https://vault.azure.net"}}
	status, body := w.post(t, w.TenantID()+"/oauth2/token?api-version=1.0", form)
	if status != http.StatusOK {
		t.Fatalf("%d %v", status, body)
	}
	for _, name := range []string{"access_token", "expires_in", "ext_expires_in", "expires_on", "not_before", "resource", "token_type"} {
		if _, ok := body[name].(string); !ok {
			t.Errorf("%s is no string: %v", name, body[name])
		}
	}
	w.verify(t, body["access_token"].(string), "https://vault.azure.net")
	calls := w.Calls(azure.CallFilter{Service: azure.ServiceAAD, Operation: azure.OpToken})
	if len(calls) != 1 || calls[0].Query != "" || calls[0].Body != "" || calls[0].AppID != w.app.ClientID {
		t.Errorf("recorded %+v", calls)
	}
}

func TestARMRefusesAnExpiredToken(t *testing.T) {
	t.Parallel()
	w := newWorld(t, azure.Options{Settings: azure.Settings{TokenLifetime: azure.Duration(time.Nanosecond)}})
	_, body := w.post(t, w.TenantID()+"/oauth2/token", url.Values{
		"grant_type": {"client_credentials"}, "client_id": {w.app.ClientID}, "client_secret": {secret}, "resource": {azure.DefaultAudience},
	})
	r := must(http.NewRequestWithContext(t.Context(), http.MethodGet, w.Endpoint()+w.vm.ID+apiVersion, nil))(t)
	r.Header.Set("Authorization", "Bearer "+body["access_token"].(string))
	response, err := w.HTTPClient().Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	var said map[string]any
	if err := json.NewDecoder(response.Body).Decode(&said); err != nil {
		t.Fatal(err)
	}
	if code, _ := errorOf(said); response.StatusCode != http.StatusUnauthorized || code != "ExpiredAuthenticationToken" {
		t.Errorf("got %d %v", response.StatusCode, said)
	}
}

func TestDiscoveryNamesTheHostThatWasAsked(t *testing.T) {
	t.Parallel()
	w := newWorld(t, azure.Options{})
	base := strings.Replace(w.Endpoint(), "127.0.0.1", "localhost", 1)
	response, err := w.HTTPClient().Get(base + "/" + w.TenantID() + "/v2.0/.well-known/openid-configuration")
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	var document map[string]any
	if err := json.NewDecoder(response.Body).Decode(&document); err != nil {
		t.Fatal(err)
	}
	if document["issuer"] != base+"/"+w.TenantID()+"/v2.0" || document["token_endpoint"] != base+"/"+w.TenantID()+"/oauth2/v2.0/token" {
		t.Errorf("%v", document)
	}
	var instance map[string]any
	w.getJSON(t, "/common/discovery/instance?api-version=1.1&authorization_endpoint="+url.QueryEscape(w.Endpoint()+"/"+w.TenantID()+"/oauth2/v2.0/authorize"), &instance)
	if instance["tenant_discovery_endpoint"] != w.Endpoint()+"/"+w.TenantID()+"/v2.0/.well-known/openid-configuration" {
		t.Errorf("%v", instance)
	}
}
