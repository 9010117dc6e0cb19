package chart_test

import (
	"encoding/base64"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// Each mode renders what it needs, and nothing of the others.
func TestCertificateModes(t *testing.T) {
	ca := newForeignCA(t)
	tests := map[string]struct {
		args []string
		// Kinds of the certificate's objects.
		certManager, secret bool
		secretName          string
		annotation, bundle  bool
		arguments           []string
	}{
		"cert-manager": {
			certManager: true, secretName: webhookName + "-tls", annotation: true,
			arguments: []string{"--webhook-configuration=" + webhookName, "--service=" + webhookName, "--namespace=" + namespace},
		},
		"self": {
			args:   []string{"--set", "webhook.certificates.mode=self"},
			secret: true,
			arguments: []string{
				"--cert-mode=self", "--cert-secret=" + selfSecret, "--webhook-configuration=" + webhookName, "--service=" + webhookName, "--namespace=" + namespace,
			},
		},
		"provided": {args: ca.values(t), secretName: "ours", bundle: true},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			all := mustRender(t, tt.args...)
			for _, kind := range []string{"Certificate", "Issuer"} {
				if got := slices.ContainsFunc(kinds(all), func(k string) bool { return k == kind }); got != tt.certManager {
					t.Errorf("renders a %s: %v", kind, got)
				}
			}
			if got := all["Secret/"+selfSecret] != nil; got != tt.secret {
				t.Errorf("renders the Secret: %v", got)
			}
			deployment := all.get(t, "Deployment/"+webhookName)
			volumes, _, err := unstructured.NestedSlice(deployment.Object, "spec", "template", "spec", "volumes")
			if err != nil || len(volumes) != 1 {
				t.Fatalf("volumes %v (%v)", volumes, err)
			}
			mounted, _, err := unstructured.NestedString(volumes[0].(map[string]any), "secret", "secretName")
			if err != nil || mounted != tt.secretName {
				t.Errorf("mounts the Secret %q (%v), want %q", mounted, err, tt.secretName)
			}
			args := arguments(t, deployment)
			for _, want := range tt.arguments {
				if !slices.Contains(args, want) {
					t.Errorf("%s is not among the arguments %q", want, args)
				}
			}
			for _, kind := range []string{"MutatingWebhookConfiguration", "ValidatingWebhookConfiguration"} {
				c := all.get(t, kind+"/"+webhookName)
				if got := c.GetAnnotations()["cert-manager.io/inject-ca-from"] != ""; got != tt.annotation {
					t.Errorf("%s asks cert-manager for a bundle: %v", kind, got)
				}
				hooks, _, err := unstructured.NestedSlice(c.Object, "webhooks")
				if err != nil {
					t.Fatal(err)
				}
				want := ""
				if tt.bundle {
					want = base64.StdEncoding.EncodeToString(ca.pem())
				}
				for _, h := range hooks {
					if got, _, _ := unstructured.NestedString(h.(map[string]any), "clientConfig", "caBundle"); got != want {
						t.Errorf("%s has the caBundle %q, want %q", kind, got, want)
					}
				}
			}
		})
	}
}

func kinds(all objects) []string {
	var found []string
	for _, o := range all {
		found = append(found, o.GetKind())
	}
	return found
}

func TestCertificateValuesAreRefused(t *testing.T) {
	file := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(file, newForeignCA(t).pem(), 0o600); err != nil {
		t.Fatal(err)
	}
	bundle := []string{"--set-file", "webhook.certificates.caBundle=" + file}
	mode := func(m string) []string { return []string{"--set", "webhook.certificates.mode=" + m} }
	tests := map[string]struct {
		args []string
		want string
	}{
		"an unknown mode":                      {mode("manual"), "/webhook/certificates/mode"},
		"a bundle that is no certificate":      {append(mode("provided"), "--set", "webhook.certificates.caBundle=MIIB"), "/webhook/certificates/caBundle"},
		"a provided certificate without a CA":  {append(mode("provided"), "--set", "webhook.certificates.secretName=ours"), "with tls.crt and tls.key for " + webhookHost + ", and webhook.certificates.caBundle"},
		"a provided certificate in no Secret":  {append(mode("provided"), bundle...), "needs webhook.certificates.secretName"},
		"a bundle that cert-manager overrides": {bundle, "in mode cert-manager the CA is put into the webhook configurations without you"},
		"a Secret that would be written over":  {[]string{"--set", "webhook.certificates.secretName=ours"}, "in mode cert-manager the Secret would be written over"},
		"a bundle that the webhook overrides":  {append(mode("self"), bundle...), "in mode self the CA is put"},
		"a warning without a unit":             {[]string{"--set-string", "webhook.certificates.expiryWarning=7"}, "/webhook/certificates/expiryWarning"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			if _, err := render(t, tt.args...); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %s", err, tt.want)
			}
		})
	}
}

// Only the default needs cert-manager.
func TestOtherModesNeedNoCertManager(t *testing.T) {
	ours := []string{"--api-versions", "aadpodidentity.k8s.io/v1"}
	for _, args := range [][]string{{"--set", "webhook.certificates.mode=self"}, newForeignCA(t).values(t)} {
		if _, err := render(t, append(slices.Clone(ours), args...)...); err != nil {
			t.Errorf("%v: %v", args, err)
		}
	}
	if _, err := render(t, ours...); err == nil || !strings.Contains(err.Error(), "webhook.certificates.mode=self") {
		t.Errorf("error %v, want one that names the other way", err)
	}
}

// The uninstallation deletes the Secrets of all modes, which the release may have
// had before, and never one of the user's. The authority's it deletes only if the
// release's own issuer signed it.
func TestCleanupDeletesOurSecretsOnly(t *testing.T) {
	const tls, selfSigned, ca = webhookName + "-tls", webhookName + "-self-signed", webhookName + "-ca"
	provided := func(secret string) []string {
		return append(newForeignCA(t).values(t), "--set", "webhook.certificates.secretName="+secret)
	}
	tests := map[string]struct {
		args []string
		want []string
		ca   string
	}{
		"cert-manager":                  {nil, []string{tls, selfSigned}, ca},
		"an issuer of the user's":       {[]string{"--set", "webhook.certManager.issuerRef.name=" + ca}, []string{tls, selfSigned}, ca},
		"self":                          {[]string{"--set", "webhook.certificates.mode=self"}, []string{tls, selfSigned}, ca},
		"provided":                      {newForeignCA(t).values(t), []string{tls, selfSigned}, ca},
		"provided, by a name like ours": {provided(tls), []string{selfSigned}, ca},
		"provided, by a name like the authority's": {provided(ca), []string{tls, selfSigned}, ""},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			args := arguments(t, mustRender(t, tt.args...).get(t, "Job/aad-pod-identity-cleanup"))
			for _, want := range []string{"--secrets=" + strings.Join(tt.want, ","), "--ca-secret=" + tt.ca, "--ca-issuer=" + webhookName + "-selfsigned"} {
				if !slices.Contains(args, want) {
					t.Errorf("the arguments are %q, want %s", args, want)
				}
			}
		})
	}
}
