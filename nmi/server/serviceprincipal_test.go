package server

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"software.sslmate.com/src/go-pkcs12"

	v1 "github.com/aad-pod-identity/aad-pod-identity/api/v1"
	"github.com/aad-pod-identity/aad-pod-identity/nmi/token"
	"github.com/aad-pod-identity/aad-pod-identity/test/azure"
)

const (
	applicationSecret = "s3cret-of-the-application"
	otherTenant       = "22222222-2222-4222-8222-222222222222"
)

// source is the stack of sources that NMI has, with the emulator's IMDS and Azure
// AD, and the Secrets of the world.
func (w *world) source(ctx context.Context, o Options, transport http.RoundTripper) (s token.Source, wait func()) {
	w.t.Helper()
	if err := w.azure.Start(ctx); err != nil {
		w.t.Fatal(err)
	}
	base, err := url.Parse(w.azure.Endpoint())
	if err != nil {
		w.t.Fatal(err)
	}
	authorities, err := token.NewAuthorities([]string{base.Host})
	if err != nil {
		w.t.Fatal(err)
	}
	secrets := token.NewSecrets(ctx, w.readSecret)
	client := w.azure.HTTPClient()
	w.t.Cleanup(client.CloseIdleConnections)
	cache := token.NewCache(ctx, token.ByKind{
		Managed:    token.NewIMDS(o.Metadata.String(), "nmi", transport),
		Principals: token.NewPrincipals(secrets, authorities, "nmi", client),
	}, 100, nil)
	return token.NewVersioned(secrets, cache), func() { cache.Wait(); secrets.Wait() }
}

func (w *world) readSecret(_ context.Context, secret types.NamespacedName) (map[string][]byte, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	data, ok := w.secrets[secret]
	if !ok {
		return nil, apierrors.NewNotFound(schema.GroupResource{Resource: "secrets"}, secret.Name)
	}
	return data, nil
}

func (w *world) setSecret(namespace, name string, data map[string][]byte) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.secrets == nil {
		w.secrets = map[types.NamespacedName]map[string][]byte{}
	}
	w.secrets[types.NamespacedName{Namespace: namespace, Name: name}] = data
}

// application is one in two tenants with a client secret, which the Secret
// default/app holds.
func (w *world) application() azure.App {
	w.t.Helper()
	app, err := w.azure.PutApp(azure.App{Secrets: []string{applicationSecret}, TenantIDs: []string{w.azure.TenantID(), otherTenant}})
	if err != nil {
		w.t.Fatal(err)
	}
	w.setSecret("default", "app", map[string][]byte{"clientSecret": []byte(applicationSecret)})
	return app
}

// principal is the AzureIdentity of an application.
func (w *world) principal(app azure.App, change func(*v1.AzureIdentitySpec)) v1.AzureIdentitySpec {
	spec := v1.AzureIdentitySpec{
		Type: v1.ServicePrincipal, ClientID: app.ClientID, TenantID: w.azure.TenantID(), ADEndpoint: w.azure.Endpoint() + "/",
		ClientPassword: v1.SecretReference{Namespace: "default", Name: "app"},
	}
	if change != nil {
		change(&spec)
	}
	return spec
}

// assignSpec assigns an identity of any type to a pod.
func (w *world) assignSpec(pod, name string, spec v1.AzureIdentitySpec) {
	a := assignment(name, v1.AssignedIDAssigned, func(a *v1.AzureAssignedIdentity) {
		a.Name, a.Spec.Pod = pod+"-default-"+name, pod
		a.Annotations[v1.PodUIDAnnotationKey] = "uid-" + pod
		a.Spec.AzureIdentityRef.Spec = spec
	})
	w.index.SetAssigned(a)
}

// wantPrincipal checks the members of an answer and the token's claims.
func wantPrincipal(t *testing.T, m map[string]string, app azure.App, tenant string) {
	t.Helper()
	for _, name := range []string{"access_token", "expires_in", "expires_on", "not_before"} {
		if m[name] == "" {
			t.Errorf("%s is empty", name)
		}
	}
	if _, ok := m["refresh_token"]; !ok || m["resource"] != vault || m["token_type"] != "Bearer" {
		t.Errorf("answer %v", m)
	}
	if c := claim(t, m["access_token"], "appid"); c != app.ClientID {
		t.Errorf("token of %s", c)
	}
	if c := claim(t, m["access_token"], "tid"); c != tenant {
		t.Errorf("token of tenant %s, want %s", c, tenant)
	}
	if c := claim(t, m["access_token"], "aud"); c != vault {
		t.Errorf("token for %s", c)
	}
}

func TestServicePrincipalWithSecret(t *testing.T) {
	w := newWorld(t, nil)
	app := w.application()
	w.assignSpec("web", "app", w.principal(app, nil))
	for range 3 {
		wantPrincipal(t, w.get(webIP, tokenURL, nil).tokenOf(t), app, w.azure.TenantID())
	}
	wantPrincipal(t, w.get(webIP, tokenURL+"&client_id="+strings.ToUpper(app.ClientID), nil).tokenOf(t), app, w.azure.TenantID())
	if n := len(w.azure.Calls(azure.CallFilter{Operation: azure.OpToken})); n != 1 {
		t.Errorf("Azure AD was asked %d times", n)
	}
	if n := w.tokenCalls(); n != 0 {
		t.Errorf("IMDS was asked %d times", n)
	}
}

// TestSecretOfTheIdentitysNamespace: as the policy reads a reference without one.
func TestSecretOfTheIdentitysNamespace(t *testing.T) {
	w := newWorld(t, nil)
	app := w.application()
	w.assignSpec("web", "app", w.principal(app, func(s *v1.AzureIdentitySpec) { s.ClientPassword.Namespace = "" }))
	wantPrincipal(t, w.get(webIP, tokenURL, nil).tokenOf(t), app, w.azure.TenantID())
}

func TestServicePrincipalWithCertificate(t *testing.T) {
	w := newWorld(t, nil)
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "app"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	bundle, err := pkcs12.Modern2023.Encode(key, certificate, nil, "pw")
	if err != nil {
		t.Fatal(err)
	}
	app, err := w.azure.PutApp(azure.App{
		Certificates: []string{string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))},
		TenantIDs:    []string{w.azure.TenantID(), otherTenant},
	})
	if err != nil {
		t.Fatal(err)
	}
	w.setSecret("default", "app", map[string][]byte{"certificate": bundle, "password": []byte("pw")})
	w.assignSpec("web", "app", w.principal(app, func(s *v1.AzureIdentitySpec) { s.Type = v1.ServicePrincipalCertificate }))
	wantPrincipal(t, w.get(webIP, tokenURL, nil).tokenOf(t), app, w.azure.TenantID())

	// Unlike in 1.8, which had auxiliary tenants for type 1 only.
	w.assignSpec("web", "app", w.principal(app, func(s *v1.AzureIdentitySpec) {
		s.Type, s.AuxiliaryTenantIDs = v1.ServicePrincipalCertificate, []string{otherTenant}
	}))
	wantPrincipals(t, w.get(webIP, tokenURL, nil), app, w.azure.TenantID(), otherTenant)
}

// wantPrincipals checks an answer with tokens of several tenants.
func wantPrincipals(t *testing.T, r reply, app azure.App, tenants ...string) {
	t.Helper()
	var all []map[string]string
	if err := json.Unmarshal([]byte(r.body), &all); err != nil || r.status != http.StatusOK || len(all) != len(tenants) {
		t.Fatalf("status %d, %v: %s", r.status, err, r.body)
	}
	for i, tenant := range tenants {
		wantPrincipal(t, all[i], app, tenant)
	}
}

// TestAuxiliaryTenants: an array, that of the own tenant first; for processes of the
// node, that one alone.
func TestAuxiliaryTenants(t *testing.T) {
	w := newWorld(t, nil)
	app := w.application()
	w.assignSpec("web", "app", w.principal(app, func(s *v1.AzureIdentitySpec) { s.AuxiliaryTenantIDs = []string{otherTenant} }))
	wantPrincipals(t, w.get(webIP, tokenURL, nil), app, w.azure.TenantID(), otherTenant)

	r := w.get(hostIP, "/host/token?resource="+vault, map[string]string{"podns": "default", "podname": "web"})
	var host struct {
		Token    map[string]string `json:"token"`
		ClientID string            `json:"clientid"`
	}
	if err := json.Unmarshal([]byte(r.body), &host); err != nil || r.status != http.StatusOK || host.ClientID != app.ClientID {
		t.Fatalf("status %d, %v: %s", r.status, err, r.body)
	}
	wantPrincipal(t, host.Token, app, w.azure.TenantID())

	w.assignSpec("web", "app", w.principal(app, func(s *v1.AzureIdentitySpec) {
		s.AuxiliaryTenantIDs = []string{otherTenant, "99999999-9999-4999-8999-999999999999"}
	}))
	if r := w.get(webIP, tokenURL, nil); r.status != http.StatusForbidden || !strings.Contains(r.oauth.Description, "AADSTS90002") {
		t.Errorf("one tenant does not know the application: status %d, %s", r.status, r.body)
	}
}

func TestServicePrincipalAnswers(t *testing.T) {
	tests := map[string]struct {
		change     func(*v1.AzureIdentitySpec)
		data       map[string][]byte
		fault      azure.Fault
		status     int
		code, text string
		retryAfter string
	}{
		"a wrong secret":       {data: map[string][]byte{"a": []byte("wrong")}, status: 403, code: "invalid_client", text: "AADSTS7000215"},
		"no Secret":            {change: func(s *v1.AzureIdentitySpec) { s.ClientPassword.Name = "none" }, status: 503, code: "credential_unavailable", text: "Secret default/none of the AzureIdentity cannot be used: it does not exist"},
		"no certificate in it": {change: func(s *v1.AzureIdentitySpec) { s.Type = v1.ServicePrincipalCertificate }, status: 503, code: "credential_unavailable", text: `no key "certificate"`},
		"a foreign authority":  {change: func(s *v1.AzureIdentitySpec) { s.ADEndpoint = "https://login.example.com/" }, status: 403, code: "invalid_authority", text: "adEndpoint"},
		"an unknown type":      {change: func(s *v1.AzureIdentitySpec) { s.Type = 7 }, status: 403, code: "unsupported_identity_type", text: "type 7"},
		"no Azure AD":          {fault: azure.Fault{Service: azure.ServiceAAD, Drop: true}, status: 503, code: "temporarily_unavailable", text: "try again"},
		"a busy Azure AD":      {fault: azure.Fault{Service: azure.ServiceAAD, Status: 429, RetryAfter: 60}, status: 503, code: "temporarily_unavailable", text: "try again", retryAfter: "60"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, nil)
			app := w.application()
			if tc.data != nil {
				w.setSecret("default", "app", tc.data)
			}
			if tc.fault != (azure.Fault{}) {
				if _, err := w.azure.AddFault(tc.fault); err != nil {
					t.Fatal(err)
				}
			}
			w.assignSpec("web", "app", w.principal(app, tc.change))
			for _, when := range []string{"at first", "from what is kept of it"} {
				r := w.get(webIP, tokenURL, nil)
				after := r.header.Get("Retry-After")
				right := after == tc.retryAfter || when != "at first" && after != "" && tc.retryAfter != "" // of which less is left
				if r.status != tc.status || r.oauth.Code != tc.code || !strings.Contains(r.oauth.Description, tc.text) || !right {
					t.Errorf("%s: status %d, retry after %q, %s", when, r.status, after, r.body)
				}
				if strings.Contains(r.body, app.ClientID) || strings.Contains(r.body, applicationSecret) {
					t.Errorf("%s: %s shows too much", when, r.body)
				}
			}
		})
	}
}

// TestNobodySharesACredential: whoever writes an AzureIdentity of somebody else's
// application with another Secret gets no token that was got with the right one.
func TestNobodySharesACredential(t *testing.T) {
	w := newWorld(t, nil)
	app := w.application()
	w.assignSpec("web", "app", w.principal(app, nil))
	w.get(webIP, tokenURL, nil).tokenOf(t)
	w.setSecret("evil", "app", map[string][]byte{"a": []byte("guess")})
	for name, change := range map[string]func(*v1.AzureIdentitySpec){
		"another Secret": func(s *v1.AzureIdentitySpec) { s.ClientPassword.Namespace = "evil" },
		"no Secret":      func(s *v1.AzureIdentitySpec) { s.ClientPassword.Name = "none" },
		"no credential":  func(s *v1.AzureIdentitySpec) { s.Type = v1.UserAssignedMSI },
		"a certificate":  func(s *v1.AzureIdentitySpec) { s.Type = v1.ServicePrincipalCertificate },
	} {
		w.assignSpec("other", "stolen", w.principal(app, change))
		if r := w.get(otherIP, tokenURL, nil); r.status == http.StatusOK || strings.Contains(r.body, "access_token") {
			t.Errorf("%s: status %d, %s", name, r.status, r.body)
		}
	}
}
