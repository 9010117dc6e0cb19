package e2e

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"strings"
	"testing"
	"time"

	"software.sslmate.com/src/go-pkcs12"

	"github.com/aad-pod-identity/aad-pod-identity/test/azure"
	"github.com/aad-pod-identity/aad-pod-identity/test/stack"
)

// secondTenant is where the tests' application has a service principal, too.
const secondTenant = "44444444-4444-4444-8444-444444444444"

// tokenAddress asks for a token as a program without an SDK does.
const tokenAddress = "http://169.254.169.254/metadata/identity/oauth2/token?api-version=2018-02-01&resource=https://management.azure.com/"

func principalManifest(namespace, name string, kind int, app azure.App, info azure.Info, auxiliary ...string) string {
	return fmt.Sprintf(`---
apiVersion: aadpodidentity.k8s.io/v1
kind: AzureIdentity
metadata: {name: %[1]s, namespace: %[2]s}
spec:
  type: %[3]d
  clientID: %[4]s
  tenantID: %[5]s
  adEndpoint: %[6]s
  auxiliaryTenantIDs: [%[7]s]
  clientPassword: {name: %[1]s, namespace: %[2]s}
`, name, namespace, kind, app.ClientID, info.TenantID, info.Endpoint, strings.Join(auxiliary, ", "))
}

func secretManifest(namespace, name string, data map[string][]byte) string {
	encoded := map[string]string{}
	for key, value := range data {
		encoded[key] = base64.StdEncoding.EncodeToString(value)
	}
	text, _ := json.Marshal(encoded) // strings
	return fmt.Sprintf(`---
apiVersion: v1
kind: Secret
metadata: {name: %s, namespace: %s}
data: %s
`, name, namespace, text)
}

// certificate returns a certificate and its PKCS#12 bundle with a password.
func certificate(t *testing.T, password string) (pemText string, bundle []byte) {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "e2e"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	if bundle, err = pkcs12.Modern2023.Encode(key, parsed, nil, password); err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})), bundle
}

// wantTokenOf is wantToken for an application.
func wantTokenOf(t *testing.T, namespace, pod string, app azure.App, args ...string) {
	t.Helper()
	wantToken(t, namespace, pod, azure.Identity{ID: "application", ClientID: app.ClientID}, args...)
}

// servicePrincipals is the scenario of the 1.8 releases, for both kinds of
// credentials, and with a Secret that is changed.
func servicePrincipals(t *testing.T) {
	ns := namespace(t)
	info, err := env.Azure.Info(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	registered, bundle := certificate(t, "e2e")
	app, err := env.Azure.PutApp(t.Context(), azure.App{
		Secrets: []string{"right"}, Certificates: []string{registered}, TenantIDs: []string{info.TenantID, secondTenant},
	})
	if err != nil {
		t.Fatal(err)
	}
	apply(t, secretManifest(ns, "by-secret", map[string][]byte{"clientSecret": []byte("right")})+
		secretManifest(ns, "by-certificate", map[string][]byte{"certificate": bundle, "password": []byte("e2e")})+
		principalManifest(ns, "by-secret", 1, app, info)+bindingManifest(ns, "by-secret", "by-secret", "by-secret")+
		principalManifest(ns, "by-certificate", 2, app, info)+bindingManifest(ns, "by-certificate", "by-certificate", "by-certificate")+
		podManifest(ns, "one", "by-secret")+podManifest(ns, "two", "by-certificate"))
	waitState(t, ns, "one", "by-secret", "Assigned")
	waitState(t, ns, "two", "by-certificate", "Assigned")
	waitReady(t, ns, "one", "two")

	wantTokenOf(t, ns, "one", app)
	wantTokenOf(t, ns, "one", app, "--client-id="+strings.ToUpper(app.ClientID))
	wantTokenOf(t, ns, "two", app)
	wantNoToken(t, ns, "one", "--client-id=99999999-9999-4999-8999-999999999999")

	// ask sends a request from a pod and returns the answer.
	ask := func(ctx context.Context, pod, query string) (string, error) {
		r, err := env.Run(ctx, stack.Command{Args: []string{"kubectl", "exec", "-n", ns, pod, "--", "/client", "get", "-H", "Metadata: true", tokenAddress + query}})
		return r.Output, err
	}
	t.Run("by object ID", func(t *testing.T) {
		if out, err := ask(t.Context(), "one", "&object_id="+app.ObjectID); err != nil || !strings.Contains(out, app.ClientID) {
			t.Errorf("answer %s, %v", out, err)
		}
	})
	t.Run("of auxiliary tenants", func(t *testing.T) {
		apply(t, principalManifest(ns, "by-certificate", 2, app, info, secondTenant))
		eventually(t, "tokens of two tenants", func(ctx context.Context) error {
			out, err := ask(ctx, "two", "")
			if n := strings.Count(out, `"access_token"`); err == nil && n != 2 {
				err = fmt.Errorf("there are %d", n)
			}
			return err
		})
	})
	t.Run("not with a changed Secret", func(t *testing.T) {
		apply(t, secretManifest(ns, "by-secret", map[string][]byte{"clientSecret": []byte("wrong")}))
		eventually(t, "Azure AD's refusal", func(ctx context.Context) error {
			out, err := ask(ctx, "one", "")
			if err == nil && !strings.Contains(out, "AADSTS7000215") {
				err = errors.New("it is not refused")
			}
			return err
		})
		apply(t, secretManifest(ns, "by-secret", map[string][]byte{"clientSecret": []byte("right")}))
		eventually(t, "a token again", func(ctx context.Context) error {
			out, err := ask(ctx, "one", "")
			if err == nil && !strings.Contains(out, "access_token") {
				err = errors.New(out)
			}
			return err
		})
	})
}
