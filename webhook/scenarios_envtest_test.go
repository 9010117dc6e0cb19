package main

import (
	"crypto/tls"
	"encoding/json"
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

// Objects stored before the webhook was there keep their labels, finalizers and
// deletion, but a new spec must be valid.
func (s *apiServer) testStoredObjects(t *testing.T) {
	const stored = header + "kind: AzureIdentity\nmetadata: {name: stored, finalizers: [example.com/hold]}\nspec: {type: 0, ResourceID: " + goodID + "}\n"
	s.withoutWebhooks(t, func() {
		waitFor(t, "the API server to forget the webhooks", func() bool { return !s.run(t, stored, "create", "-f", "-").failed })
	})
	waitFor(t, "the API server to ask the webhooks again", func() bool {
		return s.run(t, strings.Replace(stored, "stored", "trial", 1), "create", "--dry-run=server", "-f", "-").failed
	})
	s.must(t, "", "label", "azureidentity", "stored", "a=b")
	s.must(t, "", "annotate", "azureidentity", "stored", "a=b")
	s.must(t, "", "patch", "azureidentity", "stored", "--subresource=status", "--type=merge", "-p", `{"status":{"availableReplicas":1}}`)
	r := s.run(t, "", "patch", "azureidentity", "stored", "--type=merge", "-p", `{"spec":{"clientID":"7eb6d1a0-2c4f-4b8e-9d3a-5f1e0c7ba6a9"}}`)
	if want := `The AzureIdentity "stored" is invalid: spec.ResourceID: Forbidden: miscapitalised, use "resourceID"` + "\n"; !r.failed || r.stderr != want {
		t.Errorf("kubectl patch says %q, want %q", r.stderr, want)
	}
	s.must(t, "", "delete", "azureidentity", "stored", "--wait=false")
	s.must(t, "", "patch", "azureidentity", "stored", "--type=merge", "-p", `{"metadata":{"finalizers":null}}`)
	if out := s.must(t, "", "get", "azureidentity", "stored", "--ignore-not-found", "-o", "name"); out != "" {
		t.Errorf("%s is still there", out)
	}
}

// withoutWebhooks runs f while our webhook configurations are gone.
func (s *apiServer) withoutWebhooks(t *testing.T, f func()) {
	t.Helper()
	const kinds = "mutatingwebhookconfigurations,validatingwebhookconfigurations"
	saved := s.must(t, "", "get", kinds, "-o", "json")
	s.must(t, "", "delete", kinds, "aad-pod-identity")
	f()
	var list struct {
		APIVersion string           `json:"apiVersion"`
		Kind       string           `json:"kind"`
		Items      []map[string]any `json:"items"`
	}
	if err := json.Unmarshal([]byte(saved), &list); err != nil {
		t.Fatal(err)
	}
	for _, item := range list.Items {
		item["metadata"] = map[string]any{"name": "aad-pod-identity"}
	}
	again, err := json.Marshal(list)
	if err != nil {
		t.Fatal(err)
	}
	s.must(t, string(again), "create", "-f", "-")
}

// The two commands of the troubleshooting guide that clear finalizers. What MIC
// wrote long ago may break today's rules.
func (s *apiServer) testGuideCommands(t *testing.T) {
	for _, name := range []string{"assigned-1", "assigned-2"} {
		s.must(t, header+"kind: AzureAssignedIdentity\nmetadata: {name: "+name+", finalizers: [azureassignedidentity.finalizers.aadpodidentity.k8s.io]}\n"+
			"spec: {pod: p, podNamespace: default, nodename: node-0, azureIdentityRef: {apiVersion: aadpodidentity.k8s.io/v1, kind: AzureIdentity, metadata: {name: demo}, spec: {type: 0, ResourceID: "+goodID+"}}}\n",
			"create", "--as="+micUser, "--as-group=system:masters", "-f", "-")
	}
	var list map[string]any
	if err := json.Unmarshal([]byte(s.must(t, "", "get", "azureassignedidentity", "-A", "-o=json")), &list); err != nil {
		t.Fatal(err)
	}
	for _, item := range list["items"].([]any) { // jq '.items[].metadata.finalizers=null'
		item.(map[string]any)["metadata"].(map[string]any)["finalizers"] = nil
	}
	cleared, err := json.Marshal(list)
	if err != nil {
		t.Fatal(err)
	}
	s.must(t, string(cleared), "apply", "-f", "-")
	s.must(t, "", "delete", "azureassignedidentity", "--all")
	if out := s.must(t, "", "get", "azureassignedidentity", "-o", "name"); out != "" {
		t.Errorf("left: %s", out)
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
