package e2e

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"
)

// TestConvergesWhenTheLeaderDies kills MIC's leader while objects are created.
func TestConvergesWhenTheLeaderDies(t *testing.T) {
	ns := namespace(t)
	id := azureIdentity(t, "leader")
	apply(t, identityManifest(ns, "leader", id)+bindingManifest(ns, "leader", "leader", "leader")+podManifest(ns, "a", "leader"))
	holder := kubectl(t, "get", "lease", "-n", "default", "aad-pod-identity-mic", "-o", "jsonpath={.spec.holderIdentity}")
	pod, _, _ := strings.Cut(holder, "_")
	kubectl(t, "delete", "pod", pod, "--grace-period=0", "--force")
	apply(t, podManifest(ns, "b", "leader"))
	waitState(t, ns, "a", "leader", "Assigned")
	waitState(t, ns, "b", "leader", "Assigned")
	kubectl(t, "rollout", "status", "deployment/aad-pod-identity-mic", "--timeout=80s")
}

// TestCertificateRotation lets cert-manager issue a new serving certificate: the
// webhook serves it without a restart, and no apply fails meanwhile.
func TestCertificateRotation(t *testing.T) {
	ns := namespace(t)
	id := azureIdentity(t, "rotation")
	pods := kubectl(t, "get", "pods", "-l", "component=webhook", "-o", "jsonpath={.items[*].metadata.uid}")
	certificate := kubectl(t, "get", "mutatingwebhookconfiguration", "-l", "app.kubernetes.io/name=aad-pod-identity", "-o",
		`jsonpath={.items[0].metadata.annotations.cert-manager\.io/inject-ca-from}`)
	_, name, ok := strings.Cut(certificate, "/")
	if !ok {
		t.Fatalf("no certificate is injected into the webhook configuration: %q", certificate)
	}
	secret := kubectl(t, "get", "certificate", name, "-o", "jsonpath={.spec.secretName}")
	before := kubectl(t, "get", "secret", secret, "-o", `jsonpath={.data.tls\.crt}`)
	kubectl(t, "delete", "secret", secret)

	n := 0
	eventually(t, "a new certificate", func(ctx context.Context) error {
		// An object that must be judged: a webhook whose certificate is not trusted fails the call.
		n++
		manifest := identityManifest(ns, fmt.Sprintf("during-%d", n), id)
		if _, err := env.Kubectl(ctx, manifest, "apply", "-f", "-"); err != nil {
			t.Errorf("an apply failed during the rotation: %v", err)
		}
		after, err := env.Kubectl(ctx, "", "get", "secret", secret, "--ignore-not-found", "-o", `jsonpath={.data.tls\.crt}`)
		if err == nil && (after == "" || after == before) {
			err = errors.New("the certificate is the old one")
		}
		return err
	})
	issued, err := base64.StdEncoding.DecodeString(kubectl(t, "get", "secret", secret, "-o", `jsonpath={.data.tls\.crt}`))
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(issued)
	if block == nil {
		t.Fatal("the secret holds no certificate")
	}
	for ip := range strings.FieldsSeq(kubectl(t, "get", "pods", "-l", "component=webhook", "-o", "jsonpath={.items[*].status.podIP}")) {
		eventually(t, "replica "+ip+" serves the new certificate", func(ctx context.Context) error {
			n++
			if _, err := env.Kubectl(ctx, identityManifest(ns, fmt.Sprintf("during-%d", n), id), "apply", "-f", "-"); err != nil {
				t.Errorf("an apply failed during the rotation: %v", err)
			}
			served, err := servedCertificate(ctx, net.JoinHostPort(ip, "9443"))
			if err == nil && !bytes.Equal(served, block.Bytes) {
				err = errors.New("it serves the old one")
			}
			return err
		})
	}
	t.Logf("%d applies during the rotation", n)
	if now := kubectl(t, "get", "pods", "-l", "component=webhook", "-o", "jsonpath={.items[*].metadata.uid}"); now != pods {
		t.Errorf("the webhook's pods changed from %s to %s", pods, now)
	}
}

// servedCertificate returns the certificate, DER encoded, that a server presents.
func servedCertificate(ctx context.Context, address string) ([]byte, error) {
	d := tls.Dialer{Config: &tls.Config{InsecureSkipVerify: true}} //nolint:gosec // the certificate itself is compared
	conn, err := d.DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	return conn.(*tls.Conn).ConnectionState().PeerCertificates[0].Raw, nil
}
