package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/pflag"

	"github.com/aad-pod-identity/aad-pod-identity/test/azure"
)

const scaleSet = "/subscriptions/11111111-2222-3333-4444-555555555555/resourceGroups/nodes/providers/Microsoft.Compute/virtualMachineScaleSets/pool"

const seedJSON = `{
  "tenantID": "aaaaaaaa-2222-3333-4444-555555555555",
  "settings": {"vmssOperation": "50ms"},
  "compute": [{"id": "` + scaleSet + `"}],
  "apps": [{"name": "mic", "clientID": "bbbbbbbb-2222-3333-4444-555555555555", "objectID": "cccccccc-2222-3333-4444-555555555555", "secrets": ["s"]}],
  "roles": [{"principalID": "cccccccc-2222-3333-4444-555555555555", "role": "Virtual Machine Contributor", "scope": "` + scaleSet + `"}],
  "azureConfig": {"clientID": "bbbbbbbb-2222-3333-4444-555555555555", "clientSecret": "s", "subscriptionID": "11111111-2222-3333-4444-555555555555", "resourceGroup": "nodes"}
}`

func parse(t *testing.T, args ...string) options {
	t.Helper()
	var o options
	flags := pflag.NewFlagSet("emulator", pflag.ContinueOnError)
	o.addFlags(flags)
	if err := flags.Parse(args); err != nil {
		t.Fatal(err)
	}
	return o
}

// start runs the program and returns what it said about each of its endpoints, its further output, and a function that stops it.
func start(t *testing.T, o options) (said map[string]string, lines <-chan string, stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	reader, writer := io.Pipe()
	ended := make(chan error, 1)
	go func() {
		err := run(ctx, o, writer)
		_ = writer.Close() // a pipe's close does not fail
		ended <- err
	}()
	// Read all the time: a program whose output nobody takes stands still.
	output := make(chan string, 1000)
	go func() {
		defer close(output)
		for scanner := bufio.NewScanner(reader); scanner.Scan(); {
			output <- scanner.Text()
		}
	}()
	said = map[string]string{}
	for line := range output {
		if name, value, ok := strings.Cut(line, ": "); ok {
			said[name] = value
		}
		if said["control"] != "" {
			break
		}
	}
	if said["control"] == "" {
		t.Fatalf("not started: %v", <-ended)
	}
	return said, output, func() {
		t.Helper()
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("run: %v", err)
		}
	}
}

func TestRun(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	seedFile := filepath.Join(dir, "seed.json")
	if err := os.WriteFile(seedFile, []byte(seedJSON), 0o600); err != nil {
		t.Fatal(err)
	}
	state := filepath.Join(dir, "state")
	o := parse(t, "--listen=127.0.0.1:0", "--http-listen=127.0.0.1:0", "--control=127.0.0.1:0", "--state-dir", state, "--seed", seedFile,
		"--host=management.azure.com", "--imds", "listen=127.0.0.1:0,resource="+scaleSet+"/virtualMachines/0")

	said, lines, stop := start(t, o)
	control := azure.NewControl(said["control"])
	if err := control.Healthy(t.Context()); err != nil {
		t.Fatal(err)
	}
	identity, err := control.PutIdentity(t.Context(), azure.Identity{ID: azure.IdentityID("s", "ids", "a")})
	if err != nil {
		t.Fatal(err)
	}

	imds, _, _ := strings.Cut(said["IMDS"], " ")
	response, err := http.Get(imds + "/metadata/identity/oauth2/token")
	if err != nil {
		t.Fatal(err)
	}
	_ = response.Body.Close() // only the status matters
	if response.StatusCode != http.StatusBadRequest {
		t.Errorf("IMDS: %s", response.Status)
	}
	if line := <-lines; !strings.Contains(line, " imds imds_token 400 GET /metadata/identity/oauth2/token ") {
		t.Errorf("access log: %q", line)
	}

	var environment, config map[string]any
	for file, into := range map[string]*map[string]any{"environment.json": &environment, "azure.json": &config} {
		data, err := os.ReadFile(filepath.Join(state, file))
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(data, into); err != nil {
			t.Fatal(err)
		}
	}
	if config["cloud"] != "AzureStackCloud" || config["tenantId"] != "aaaaaaaa-2222-3333-4444-555555555555" || config["aadClientSecret"] != "s" || config["vmType"] != "vmss" {
		t.Errorf("azure.json: %v", config)
	}
	certificate, err := os.ReadFile(filepath.Join(state, "ca.pem"))
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(certificate)
	address := strings.TrimSuffix(strings.TrimPrefix(environment["resourceManagerEndpoint"].(string), "https://"), "/")
	connection, err := tls.Dial("tcp", address, &tls.Config{RootCAs: pool, ServerName: "management.azure.com"})
	if err != nil {
		t.Fatalf("environment.json and ca.pem lead nowhere: %v", err)
	}
	_ = connection.Close() // the handshake was the test
	stop()

	said, _, stop = start(t, o)
	defer stop()
	after, err := azure.NewControl(said["control"]).State(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if len(after.Identities) != 1 || after.Identities[0].ClientID != identity.ClientID || len(after.Apps) != 1 {
		t.Errorf("after a restart: %+v", after)
	}
}

func TestRunRefuses(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := func(name, content string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	for name, test := range map[string]struct {
		args []string
		want []string
	}{
		"all bad flags at once": {
			[]string{"--listen=x", "--control=y", "--imds=z", "--public-url=http://a/"},
			[]string{"--listen: address x: missing port", "--control: address y", `--imds: "z": unknown key`, "--public-url: "},
		},
		"an IMDS without a resource":      {[]string{"--imds=listen=127.0.0.1:0"}, []string{"want listen=ADDRESS,resource=ID"}},
		"an IMDS of no machine":           {[]string{"--listen=127.0.0.1:0", "--imds=listen=127.0.0.1:0,resource=/x"}, []string{"IMDS at 127.0.0.1:0: node: "}},
		"a seed that is missing":          {[]string{"--seed=" + filepath.Join(dir, "nosuch")}, []string{"reading the seed", "no such file"}},
		"a seed with an unknown field":    {[]string{"--seed=" + file("unknown", `{"vm":[]}`)}, []string{"reading the seed", `unknown field "vm"`}},
		"a seed with a bad resource":      {[]string{"--seed=" + file("bad", `{"compute":[{"id":"x"}]}`)}, []string{`seed: "x" is not of the form`}},
		"all addresses and no public URL": {[]string{"--listen=0.0.0.0:0"}, []string{"needs a public URL"}},
		"an address that is not of here":  {[]string{"--listen=192.0.2.1:1"}, []string{"listening for ARM and AAD", "192.0.2.1:1"}},
		"a state directory that is none":  {[]string{"--state-dir=" + file("file", "")}, []string{"creating the state directory"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			err := run(t.Context(), parse(t, test.args...), io.Discard)
			if err == nil {
				t.Fatal("no error")
			}
			for _, want := range test.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%q is not in %v", want, err)
				}
			}
		})
	}
}
