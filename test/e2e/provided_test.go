package e2e

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/aad-pod-identity/aad-pod-identity/test/soak"
	"github.com/aad-pod-identity/aad-pod-identity/test/stack"
)

// TestProvidedCertificates upgrades the release to a certificate that its owner
// brings, renews it and changes the authority as docs/certificates.md says, while
// objects are applied, and goes back.
func TestProvidedCertificates(t *testing.T) {
	soak.Only(t)
	const secret = "e2e-provided"
	ns := namespace(t)
	first, second := newAuthority(t, "first"), newAuthority(t, "second")
	first.issue(t, secret)
	t.Cleanup(func() {
		if err := helmUpgrade(context.Background(), "--set", "webhook.certificates.mode=cert-manager", "--set", "webhook.certificates.secretName=", "--set", "webhook.certificates.caBundle="); err != nil {
			t.Errorf("going back to cert-manager: %v", err)
		}
		for _, args := range [][]string{stack.WaitForCA()[1:], {"delete", "secret", secret}} {
			if _, err := env.Kubectl(context.Background(), "", args...); err != nil {
				t.Error(err)
			}
		}
	})
	if err := helmUpgrade(t.Context(), "--set", "webhook.certificates.mode=provided", "--set", "webhook.certificates.secretName="+secret,
		"--set-file", "webhook.certificates.caBundle="+first.file); err != nil {
		t.Fatal(err)
	}
	waitServesSecret(t, secret)

	l := startApplying(t, ns, azureIdentity(t, "provided"))
	renewed := func(a *authority) {
		a.issue(t, secret)
		// The kubelet looks at a pod's Secrets each minute or so, and when the pod changes.
		kubectl(t, "annotate", "pods", "-l", "component=webhook", "--overwrite", "e2e/provided="+a.name+a.serial.String())
		waitServesSecret(t, secret)
		t.Logf("%s certificate %s is served after %d applies", a.name, a.serial, l.applies.Load())
	}
	renewed(first)
	both := filepath.Join(t.TempDir(), "both.pem")
	if err := os.WriteFile(both, bytes.Join([][]byte{first.pem, second.pem}, nil), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := helmUpgrade(t.Context(), "--set-file", "webhook.certificates.caBundle="+both); err != nil {
		t.Fatal(err)
	}
	renewed(second)
	if err := helmUpgrade(t.Context(), "--set-file", "webhook.certificates.caBundle="+second.file); err != nil {
		t.Fatal(err)
	}
	l.wait(t, l.applies.Load()+50)
	l.stop()
}

// authority signs certificates for the webhook's Service.
type authority struct {
	name, file string
	pem        []byte
	key        *ecdsa.PrivateKey
	cert       *x509.Certificate
	serial     *big.Int
}

func newAuthority(t *testing.T, name string) *authority {
	t.Helper()
	a := &authority{name: name, file: filepath.Join(t.TempDir(), "ca.crt"), serial: big.NewInt(1)}
	template := &x509.Certificate{
		SerialNumber: a.serial, Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	var der []byte
	der, a.key = sign(t, template, nil)
	var err error
	if a.cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	a.pem = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	if err := os.WriteFile(a.file, a.pem, 0o600); err != nil {
		t.Fatal(err)
	}
	return a
}

// sign makes a key and a certificate of it, signed by an authority or by itself.
func sign(t *testing.T, template *x509.Certificate, by *authority) ([]byte, *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	parent, signer := template, key
	if by != nil {
		parent, signer = by.cert, by.key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signer)
	if err != nil {
		t.Fatal(err)
	}
	return der, key
}

// issue puts a new certificate into a Secret, as its owner would with kubectl.
func (a *authority) issue(t *testing.T, secret string) {
	t.Helper()
	a.serial = new(big.Int).Add(a.serial, big.NewInt(1))
	der, key := sign(t, &x509.Certificate{
		SerialNumber: a.serial, Subject: pkix.Name{CommonName: "webhook"}, NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(12 * time.Hour),
		DNSNames: []string{stack.Release + "-webhook.default.svc"}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}, a)
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for name, block := range map[string]*pem.Block{"tls.crt": {Type: "CERTIFICATE", Bytes: der}, "tls.key": {Type: "PRIVATE KEY", Bytes: private}} {
		if err := os.WriteFile(filepath.Join(dir, name), pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	manifest := kubectl(t, "create", "secret", "tls", secret, "--cert="+filepath.Join(dir, "tls.crt"), "--key="+filepath.Join(dir, "tls.key"), "--dry-run=client", "-o", "yaml")
	if out := apply(t, manifest); !strings.Contains(out, secret) {
		t.Fatal(out)
	}
}
