package main

import (
	"crypto/tls"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const (
	goodID = "/subscriptions/0f3c5e2a-91b7-4d1e-8c57-2b1f6a9d4e30/resourcegroups/rg/providers/Microsoft.ManagedIdentity/userAssignedIdentities/demo"

	header = "apiVersion: aadpodidentity.k8s.io/v1\n"
)

func identityManifest(name string) string {
	return header + "kind: AzureIdentity\nmetadata: {name: " + name + "}\nspec: {type: 0, resourceID: " + goodID + ", clientID: 7eb6d1a0-2c4f-4b8e-9d3a-5f1e0c7ba6a9}\n"
}

func bindingManifest(name, identity, selector string) string {
	return header + "kind: AzureIdentityBinding\nmetadata: {name: " + name + "}\nspec: {azureIdentity: " + identity + ", selector: " + selector + "}\n"
}

func (s *apiServer) testWarnings(t *testing.T) {
	r := s.run(t, bindingManifest("orphan", "nobody", "orphan"), "apply", "-f", "-")
	if want := "Warning: AzureIdentity default/nobody does not exist (yet)\n"; r.failed || r.stderr != want {
		t.Errorf("kubectl says %q, want %q", r.stderr, want)
	}
}

// Several objects in one file: kubectl prints a line for each.
func (s *apiServer) testSeveralObjects(t *testing.T) {
	const file = header + "kind: AzureIdentityBinding\nmetadata: {name: one}\nspec: {azureIdentity: demo, Selector: x}\n---\n" +
		header + "kind: AzureIdentityBinding\nmetadata: {generateName: two-}\nspec: {azureidentity: demo, selector: x}\n"
	r := s.run(t, file, "create", "-f", "-")
	const want = `Error from server (Invalid): error when creating "STDIN": admission webhook "mutate.aadpodidentity.k8s.io" denied the request: AzureIdentityBinding.aadpodidentity.k8s.io "one" is invalid: spec.Selector: Forbidden: miscapitalised, use "selector"
Error from server (Invalid): error when creating "STDIN": admission webhook "mutate.aadpodidentity.k8s.io" denied the request: AzureIdentityBinding.aadpodidentity.k8s.io "two-" is invalid: spec.azureidentity: Forbidden: miscapitalised, use "azureIdentity"
`
	if diff := cmp.Diff(want, r.stderr); !r.failed || diff != "" {
		t.Errorf("output (-want +got):\n%s", diff)
	}
}

// The API server's own text about a name at the top level, which no webhook sees.
func (s *apiServer) testTopLevelName(t *testing.T) {
	r := s.run(t, header+"kind: AzureIdentityBinding\nmetadata: {name: top}\nSpec: {azureIdentity: demo, selector: x}\n", "apply", "-f", "-")
	const want = `Error from server (BadRequest): error when creating "STDIN": AzureIdentityBinding in version "v1" cannot be handled as a AzureIdentityBinding: strict decoding error: unknown field "Spec"` + "\n"
	if diff := cmp.Diff(want, r.stderr); !r.failed || diff != "" {
		t.Errorf("output (-want +got):\n%s", diff)
	}
}

// A renewed certificate is served without a restart.
func (s *apiServer) testRenewal(t *testing.T) {
	cert, key := selfSigned(t, 4711)
	before := s.servedSerial(t)
	for name, text := range map[string][]byte{"tls.crt": cert, "tls.key": key} {
		path := filepath.Join(s.options.certDir, name)
		old, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		defer func() {
			if err := os.WriteFile(path, old, 0o600); err != nil {
				t.Error(err)
			}
		}()
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	waitFor(t, "the new certificate", func() bool { return s.servedSerial(t) == "4711" })
	if before == "4711" {
		t.Error("the certificate was the new one before")
	}
	if status, body := probe(t, s.options.ProbePort, "/readyz"); status != 200 {
		t.Errorf("not ready after the renewal: %s", body)
	}
	if _, body := probe(t, s.options.PrometheusPort, "/metrics"); !strings.Contains(body, "\naadpodidentity_webhook_certificate_expiry_timestamp_seconds ") || !strings.Contains(body, "\ncontroller_runtime_webhook_latency_seconds_count") {
		t.Error("the metrics of certificate and calls are missing")
	}
}

func (s *apiServer) servedSerial(t *testing.T) string {
	t.Helper()
	dialer := tls.Dialer{Config: &tls.Config{InsecureSkipVerify: true}} //nolint:gosec // the certificate is what is looked at
	conn, err := dialer.DialContext(t.Context(), "tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(s.options.port)))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	state := conn.(*tls.Conn).ConnectionState()
	return fmt.Sprint(state.PeerCertificates[0].SerialNumber)
}
