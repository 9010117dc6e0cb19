package e2e

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/aad-pod-identity/aad-pod-identity/test/soak"
	"github.com/aad-pod-identity/aad-pod-identity/test/stack"
)

// TestSelfSignedCertificates upgrades the release from cert-manager to certificates
// of its own, and rotates certificate and authority, while objects are applied. The
// release stays so: in a soak TestUninstall then finds out what this mode leaves. Every
// day test/chart has the mode's programs and charts do the same on an API server.
func TestSelfSignedCertificates(t *testing.T) {
	soak.Only(t)
	ns := namespace(t)
	l := startApplying(t, ns, azureIdentity(t, "selfsigned"))
	if err := helmUpgrade(t.Context(), "--set", "webhook.certificates.mode=self"); err != nil {
		t.Fatal(err)
	}
	t.Logf("upgraded after %d applies", l.applies.Load())
	const secret = stack.Release + "-webhook-self-signed"
	for what, key := range map[string]string{"certificate": "tls.crt", "authority": "ca.key"} {
		read := func(ctx context.Context) (string, error) {
			return env.Kubectl(ctx, "", "get", "secret", secret, "-o", `jsonpath={.data.tls\.crt}`)
		}
		before, err := read(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		kubectl(t, "patch", "secret", secret, "--type=merge", "-p", fmt.Sprintf(`{"data":{%q:null}}`, key))
		eventually(t, "a new "+what, func(ctx context.Context) error {
			after, err := read(ctx)
			if err == nil && (after == "" || after == before) {
				err = errors.New("there is none")
			}
			return err
		})
		waitServesSecret(t, secret)
		t.Logf("new %s after %d applies", what, l.applies.Load())
	}
	l.stop()
	for name := range strings.Lines(kubectl(t, "get", "certificates,issuers", "-A", "-o", "name")) {
		if strings.Contains(name, stack.Release) {
			t.Errorf("%s is left of the other mode", strings.TrimSpace(name))
		}
	}
}
