package token_test

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"math/big"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"software.sslmate.com/src/go-pkcs12"

	"github.com/aad-pod-identity/aad-pod-identity/nmi/token"
	"github.com/aad-pod-identity/aad-pod-identity/test/azure"
)

const (
	password    = "p4ssw0rd-of-the-application"
	otherTenant = "22222222-2222-4222-8222-222222222222"
)

// directory is an emulated Azure AD with one application, and the Secrets of a
// cluster.
type directory struct {
	t       *testing.T
	azure   *azure.Emulator
	app     azure.App
	secrets map[types.NamespacedName]map[string][]byte
	source  token.Source
}

// newDirectory allows the emulator's host, and further ones.
func newDirectory(t *testing.T, app azure.App, further ...string) *directory {
	t.Helper()
	d := &directory{t: t, secrets: map[types.NamespacedName]map[string][]byte{}}
	var err error
	if d.azure, err = azure.New(azure.Options{}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	if err := d.azure.Start(ctx); err != nil {
		t.Fatal(err)
	}
	app.TenantIDs = []string{d.azure.TenantID(), otherTenant}
	if d.app, err = d.azure.PutApp(app); err != nil {
		t.Fatal(err)
	}
	base, err := url.Parse(d.azure.Endpoint())
	if err != nil {
		t.Fatal(err)
	}
	allowed, err := token.NewAuthorities(append(further, base.Host))
	if err != nil {
		t.Fatal(err)
	}
	secrets := token.NewSecrets(ctx, d.read)
	client := d.azure.HTTPClient()
	d.source = token.NewPrincipals(secrets, allowed, "agent/1", client)
	t.Cleanup(func() { cancel(); secrets.Wait(); client.CloseIdleConnections(); d.azure.Close() })
	return d
}

func (d *directory) read(_ context.Context, secret types.NamespacedName) (map[string][]byte, error) {
	data, ok := d.secrets[secret]
	if !ok {
		return nil, apierrors.NewNotFound(schema.GroupResource{Resource: "secrets"}, secret.Name)
	}
	return data, nil
}

// secret stores a Secret and returns its name.
func (d *directory) secret(data map[string][]byte) types.NamespacedName {
	name := types.NamespacedName{Namespace: "ns", Name: "credential"}
	d.secrets[name] = data
	return name
}

// request is for a token of the application; change may alter it.
func (d *directory) request(kind token.Credential, secret types.NamespacedName, change func(*token.Request)) token.Request {
	r := token.Request{
		ClientID: d.app.ClientID, Resource: audience, TenantID: d.azure.TenantID(),
		Principal: token.Principal{Credential: kind, Secret: secret, Authority: d.azure.Endpoint() + "/"},
	}
	if change != nil {
		change(&r)
	}
	return r
}

// wantToken checks a token's claims, and that it says of itself what IMDS would.
func (d *directory) wantToken(r token.Request) {
	d.t.Helper()
	tok, err := d.source.Token(d.t.Context(), r)
	if err != nil {
		d.t.Errorf("no token: %v", err)
		return
	}
	claims := jwt.MapClaims{}
	if _, _, err := jwt.NewParser().ParseUnverified(tok.AccessToken, claims); err != nil {
		d.t.Fatal(err)
	}
	if claims["appid"] != d.app.ClientID || claims["aud"] != r.Resource || claims["tid"] != r.TenantID {
		d.t.Errorf("token of %v for %v in %v", claims["appid"], claims["aud"], claims["tid"])
	}
	if tok.ClientID != d.app.ClientID || tok.ObjectID != d.app.ObjectID || tok.Resource != r.Resource || tok.TokenType != "Bearer" ||
		tok.RequestID == "" || tok.NotBefore == "" || tok.NotBefore == "0" || time.Until(tok.ExpiresOn) < 50*time.Minute {
		d.t.Errorf("token %+v", struct{ client, object, resource, kind, from, to any }{tok.ClientID, tok.ObjectID, tok.Resource, tok.TokenType, tok.NotBefore, tok.ExpiresOn})
	}
}

func TestClientSecret(t *testing.T) {
	d := newDirectory(t, azure.App{Secrets: []string{password}})
	for name, data := range map[string]map[string][]byte{
		"the only key, of any name":         {"whatever": []byte(password)},
		"the key clientSecret among others": {"clientSecret": []byte(password), "a": []byte("x")},
		"with the line break of an editor":  {"clientSecret": []byte(password + "\n")},
	} {
		t.Run(name, func(t *testing.T) {
			d.t = t
			d.wantToken(d.request(token.CredentialSecret, d.secret(data), nil))
		})
	}
	for name, change := range map[string]func(*token.Request){
		"a resource with a slash at its end": func(r *token.Request) { r.Resource = "https://management.core.windows.net/" },
		"another tenant":                     func(r *token.Request) { r.TenantID = otherTenant },
		"an authority without a slash":       func(r *token.Request) { r.Principal.Authority = d.azure.Endpoint() },
	} {
		t.Run(name, func(t *testing.T) {
			d.t = t
			d.wantToken(d.request(token.CredentialSecret, d.secret(map[string][]byte{"a": []byte(password)}), change))
		})
	}
	for _, c := range d.azure.Calls(azure.CallFilter{Service: azure.ServiceAAD}) {
		if c.UserAgent != "agent/1" {
			t.Errorf("%s with user agent %q", c.Operation, c.UserAgent)
		}
	}
}

// identity of a test: a key with a certificate.
type identity struct {
	key         crypto.Signer
	certificate *x509.Certificate
}

func issue(t *testing.T, key crypto.Signer, parent *identity) identity {
	t.Helper()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: "app"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true,
	}
	by := identity{key, template}
	if parent != nil {
		by = *parent
	}
	der, err := x509.CreateCertificate(rand.Reader, template, by.certificate, key.Public(), by.key)
	if err != nil {
		t.Fatal(err)
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return identity{key, certificate}
}

func newRSA(t *testing.T) crypto.Signer {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func bundle(t *testing.T, e *pkcs12.Encoder, id identity, chain []*x509.Certificate, password string) []byte {
	t.Helper()
	data, err := e.Encode(id.key, id.certificate, chain, password)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestClientCertificate(t *testing.T) {
	ca := issue(t, newRSA(t), nil)
	app := issue(t, newRSA(t), &ca)
	d := newDirectory(t, azure.App{Certificates: []string{
		string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: app.certificate.Raw})),
	}})
	chain := []*x509.Certificate{ca.certificate}
	for name, data := range map[string]map[string][]byte{
		"as OpenSSL 3 writes it":        {"certificate": bundle(t, pkcs12.Modern2023, app, nil, "pw"), "password": []byte("pw")},
		"as Windows writes it":          {"certificate": bundle(t, pkcs12.LegacyDES, app, nil, "pw"), "password": []byte("pw")},
		"with older ciphers":            {"certificate": bundle(t, pkcs12.LegacyRC2, app, nil, "pw"), "password": []byte("pw")},
		"with its chain":                {"certificate": bundle(t, pkcs12.Modern2023, app, chain, "pw"), "password": []byte("pw")},
		"with an empty password":        {"certificate": bundle(t, pkcs12.Modern2023, app, nil, ""), "password": {}},
		"without a password":            {"certificate": bundle(t, pkcs12.Modern2023, app, nil, "")},
		"with a line break after it":    {"certificate": bundle(t, pkcs12.Modern2023, app, nil, "pw"), "password": []byte("pw\n")},
		"in plain, by no password":      {"certificate": bundle(t, pkcs12.Passwordless, app, nil, "")},
		"with further keys beside it":   {"certificate": bundle(t, pkcs12.LegacyDES, app, nil, "pw"), "password": []byte("pw"), "tls.crt": []byte("x")},
		"with letters outside of ASCII": {"certificate": bundle(t, pkcs12.Modern2023, app, nil, "pässword"), "password": []byte("pässword")},
	} {
		t.Run(name, func(t *testing.T) {
			d.t = t
			d.wantToken(d.request(token.CredentialCertificate, d.secret(data), nil))
		})
	}

	elliptic, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		data map[string][]byte
		text string
	}{
		"another password":             {map[string][]byte{"certificate": bundle(t, pkcs12.Modern2023, app, nil, "pw"), "password": []byte("no")}, `the password in key "password"`},
		"no bundle":                    {map[string][]byte{"password": []byte("no")}, `no key "certificate"`},
		"something else":               {map[string][]byte{"certificate": []byte("-----BEGIN CERTIFICATE-----")}, "is not a PKCS#12 bundle"},
		"a key that Azure AD does not": {map[string][]byte{"certificate": bundle(t, pkcs12.Modern2023, issue(t, elliptic, nil), nil, "")}, "not an RSA key"},
	} {
		t.Run(name, func(t *testing.T) {
			before := len(d.azure.Calls(azure.CallFilter{}))
			_, err := d.source.Token(t.Context(), d.request(token.CredentialCertificate, d.secret(tc.data), nil))
			var e *token.Error
			if !errors.As(err, &e) || e.Refused || e.Code != token.CodeSecret || !strings.Contains(e.Description, tc.text) || !strings.Contains(e.Description, "ns/credential") {
				t.Errorf("error %v", err)
			}
			if n := len(d.azure.Calls(azure.CallFilter{})); n != before {
				t.Error("Azure AD was asked")
			}
		})
	}
	t.Run("a certificate that is not registered", func(t *testing.T) {
		stranger := issue(t, newRSA(t), nil)
		_, err := d.source.Token(t.Context(), d.request(token.CredentialCertificate, d.secret(map[string][]byte{"certificate": bundle(t, pkcs12.Modern2023, stranger, nil, "")}), nil))
		var e *token.Error
		if !errors.As(err, &e) || !e.Refused || e.Code != "invalid_client" || !strings.Contains(e.Description, "AADSTS700027") || strings.Contains(err.Error(), d.app.ClientID) {
			t.Errorf("error %v", err)
		}
	})
}

func TestServicePrincipalErrors(t *testing.T) {
	d := newDirectory(t, azure.App{Secrets: []string{password}})
	good := map[string][]byte{"clientSecret": []byte(password)}
	const unknown = "99999999-9999-4999-8999-999999999999"
	tests := map[string]struct {
		data       map[string][]byte // nil: no Secret
		change     func(*token.Request)
		fault      azure.Fault
		refused    bool
		code, text string
		retryAfter time.Duration
	}{
		"a wrong secret":          {data: map[string][]byte{"a": []byte("wrong-secret-value")}, refused: true, code: "invalid_client", text: "AADSTS7000215"},
		"an unknown tenant":       {data: good, change: func(r *token.Request) { r.TenantID = unknown }, refused: true, code: "invalid_request", text: "AADSTS90002"},
		"an unknown application":  {data: good, change: func(r *token.Request) { r.ClientID = unknown }, refused: true, code: "unauthorized_client", text: "AADSTS700016"},
		"a tenant that is none":   {data: good, change: func(r *token.Request) { r.TenantID = "a/b" }, refused: true, code: "invalid_client", text: "tenant"},
		"no tenant":               {data: good, change: func(r *token.Request) { r.TenantID = "" }, refused: true, code: "invalid_request", text: "no tenantID"},
		"no client ID":            {data: good, change: func(r *token.Request) { r.ClientID = "" }, refused: true, code: "invalid_request", text: "no clientID"},
		"no Secret named":         {data: good, change: func(r *token.Request) { r.Principal.Secret.Name = "" }, refused: true, code: "invalid_request", text: "clientPassword"},
		"two resources in one":    {data: good, change: func(r *token.Request) { r.Resource = "https://a/.default https://b" }, refused: true, code: "invalid_resource", text: "white space"},
		"an unknown credential":   {data: good, change: func(r *token.Request) { r.Principal.Credential = "x" }, refused: true, code: "unsupported_identity_type"},
		"a foreign authority":     {data: good, change: func(r *token.Request) { r.Principal.Authority = "https://login.example.com/" }, refused: true, code: "invalid_authority", text: "allowedAuthorityHosts"},
		"an authority in plain":   {data: good, change: func(r *token.Request) { r.Principal.Authority = "http://login.microsoftonline.com/" }, refused: true, code: "invalid_authority", text: "adEndpoint"},
		"an authority that fools": {data: good, change: func(r *token.Request) { r.Principal.Authority = "https://login.microsoftonline.com@evil.example/" }, refused: true, code: "invalid_authority", text: "adEndpoint"},
		"an authority with path":  {data: good, change: func(r *token.Request) { r.Principal.Authority += "x/y" }, refused: true, code: "invalid_authority", text: "path"},
		"there is no Secret":      {code: token.CodeSecret, text: "Secret ns/other of the AzureIdentity cannot be used: it does not exist", change: func(r *token.Request) { r.Principal.Secret.Name = "other" }},
		"an empty Secret":         {data: map[string][]byte{}, code: token.CodeSecret, text: "it has no data"},
		"an empty value":          {data: map[string][]byte{"a": []byte("\n")}, code: token.CodeSecret, text: "is empty"},
		"several keys":            {data: map[string][]byte{"a": []byte("1"), "b": []byte("2")}, code: token.CodeSecret, text: `keys ["a" "b"]: name the one with the client secret "clientSecret"`},
		"Azure AD throttles":      {data: good, fault: azure.Fault{Operation: azure.OpToken, Status: 429, Code: "too_many", RetryAfter: 120, Message: "later"}, code: "too_many", text: "later", retryAfter: 2 * time.Minute},
		"Azure AD is broken":      {data: good, fault: azure.Fault{Operation: azure.OpToken, Status: 503}, code: "server_error"},
		"no Azure AD":             {data: good, fault: azure.Fault{Service: azure.ServiceAAD, Drop: true}, code: "unavailable", text: "Azure AD cannot be reached"},
		"a captive portal":        {data: good, fault: azure.Fault{Service: azure.ServiceAAD, Status: 200, RawBody: "<html>"}, code: "unavailable"},
		"a redirect":              {data: good, fault: azure.Fault{Operation: azure.OpToken, Status: 302, RawBody: "x"}, code: "unavailable"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			if tc.fault != (azure.Fault{}) {
				f, err := d.azure.AddFault(tc.fault)
				if err != nil {
					t.Fatal(err)
				}
				defer d.azure.RemoveFault(f.ID)
			}
			_, err := d.source.Token(t.Context(), d.request(token.CredentialSecret, d.secret(tc.data), tc.change))
			var e *token.Error
			if !errors.As(err, &e) {
				t.Fatalf("error %v", err)
			}
			if e.Refused != tc.refused || e.Code != tc.code || !strings.Contains(e.Description, tc.text) || e.RetryAfter != tc.retryAfter {
				t.Errorf("refused %v, code %q, description %q, retry after %v", e.Refused, e.Code, e.Description, e.RetryAfter)
			}
			for _, secret := range []string{password, "wrong-secret-value", d.app.ClientID, unknown} {
				if secret != unknown && strings.Contains(err.Error(), secret) || e.Code == "unauthorized_client" && strings.Contains(err.Error(), unknown) {
					t.Errorf("the error shows %q: %v", secret, err)
				}
			}
		})
	}
}

func TestServicePrincipalEndsWithItsCaller(t *testing.T) {
	d := newDirectory(t, azure.App{Secrets: []string{password}})
	if _, err := d.azure.AddFault(azure.Fault{Service: azure.ServiceAAD, Hang: true}); err != nil {
		t.Fatal(err)
	}
	r := d.request(token.CredentialSecret, d.secret(map[string][]byte{"a": []byte(password)}), nil)
	ctx, leave := context.WithCancel(t.Context())
	got := make(chan error, 1)
	go func() { _, err := d.source.Token(ctx, r); got <- err }()
	leave()
	if err := <-got; !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
	short, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err := d.source.Token(short, r)
	var e *token.Error
	if !errors.As(err, &e) || e.Refused {
		t.Errorf("when time is up: %v", err)
	}
}

// TestCredentialStaysWithTheAuthority: an authority says itself where tokens are to
// be asked for, and that must not be elsewhere.
func TestCredentialStaysWithTheAuthority(t *testing.T) {
	thief := httptest.NewTLSServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("the credential went elsewhere") }))
	defer thief.Close()
	var authority *httptest.Server
	authority = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_ = json.NewEncoder(w).Encode(map[string]string{
			"issuer": authority.URL + "/t/v2.0", "authorization_endpoint": authority.URL + "/t/authorize", "token_endpoint": thief.URL + "/t/oauth2/v2.0/token",
		})
	}))
	defer authority.Close()
	host := strings.TrimPrefix(authority.URL, "https://")
	allowed, err := token.NewAuthorities([]string{host})
	if err != nil {
		t.Fatal(err)
	}
	secrets := token.NewSecrets(t.Context(), func(context.Context, types.NamespacedName) (map[string][]byte, error) {
		return map[string][]byte{"a": []byte(password)}, nil
	})
	defer secrets.Wait()
	_, err = token.NewPrincipals(secrets, allowed, "agent/1", authority.Client()).Token(t.Context(), token.Request{
		ClientID: "55555555-5555-4555-8555-555555555555", Resource: audience, TenantID: "t",
		Principal: token.Principal{Credential: token.CredentialSecret, Authority: authority.URL, Secret: types.NamespacedName{Namespace: "a", Name: "b"}},
	})
	if err == nil || !strings.Contains(err.Error(), "is not allowed") {
		t.Errorf("error %v", err)
	}
}

func TestAuthorities(t *testing.T) {
	a, err := token.NewAuthorities([]string{"ADFS.example.com", "10.0.0.4:8443", "plain.example.com:443", "[fd00::1]:8443"})
	if err != nil {
		t.Fatal(err)
	}
	for endpoint, want := range map[string]bool{
		"https://login.microsoftonline.com/":         true,
		"https://LOGIN.microsoftonline.com":          true,
		"https://login.microsoftonline.com:443/":     true,
		"https://login.microsoftonline.us/":          true,
		"https://login.chinacloudapi.cn/":            true,
		"https://login.partner.microsoftonline.cn/x": true,
		"https://adfs.example.com/":                  true,
		"https://10.0.0.4:8443/":                     true,
		"https://plain.example.com/":                 true,
		"https://[fd00::1]:8443/":                    true,
		"https://10.0.0.4/":                          false,
		"https://adfs.example.com:8443/":             false,
		"https://login.microsoftonline.com:8443/":    false,
		"https://login.microsoftonline.com.evil/":    false,
		"https://evil.login.microsoftonline.com/":    false,
		"https://u@login.microsoftonline.com/":       false,
		"http://login.microsoftonline.com/":          false,
		"login.microsoftonline.com":                  false,
		"":                                           false,
	} {
		u, err := url.Parse(endpoint)
		if err != nil {
			t.Fatal(err)
		}
		if got := a.Allows(u); got != want {
			t.Errorf("%q: %v", endpoint, got)
		}
	}
	for _, bad := range []string{"", "https://adfs.example.com", "adfs.example.com/", "a b", ":8443", "u@h", "h?q"} {
		if _, err := token.NewAuthorities([]string{bad}); err == nil {
			t.Errorf("%q is taken for a host", bad)
		}
	}
}
