package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"io"
	"math/big"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/envtest"
)

func probe(t *testing.T, port, path string) (status int, body string) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://127.0.0.1:"+port+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(request)
	if err != nil {
		return 0, err.Error()
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return 0, err.Error()
	}
	return resp.StatusCode, string(text)
}

// TestAdmission asks a real API server, through kubectl, as a user does.
func TestAdmission(t *testing.T) {
	s := startEnvironment(t, &envtest.Environment{
		CRDDirectoryPaths:     []string{"../charts/aad-pod-identity/crds"},
		ErrorIfCRDPathMissing: true,
		WebhookInstallOptions: ourWebhooks(),
	})
	t.Run("default", func(t *testing.T) {
		s.startWebhook(t, func(*options, *rest.Config) {})
		t.Run("valid manifests are accepted", s.testValid)
		t.Run("invalid manifests are refused with every finding", s.testInvalid)
		t.Run("kubectl's other ways to write are refused alike", s.testOtherCommands)
		t.Run("a binding without its identity gets a warning", s.testWarnings)
		t.Run("several objects in one file", s.testSeveralObjects)
		t.Run("a capitalised spec", s.testTopLevelName)
		t.Run("a renewed certificate is served at once", s.testRenewal)
	})
	t.Run("resource IDs", s.testResourceIDCase)
	t.Run("pods", s.testPods)
}

func (s *apiServer) testValid(t *testing.T) {
	var files []string
	for _, file := range glob(t, "../test/manifests/valid/*.yaml") {
		files = append(files, "-f", file)
	}
	for _, step := range []struct{ command, done string }{{"apply", "created"}, {"apply", "unchanged"}, {"delete", ""}} {
		out := s.must(t, "", append([]string{step.command}, files...)...)
		if got, want := strings.Count(out, " "+step.done), len(files)/2; step.done != "" && got != want {
			t.Errorf("%d objects are %s, want %d:\n%s", got, step.done, want, out)
		}
	}
}

func (s *apiServer) testOtherCommands(t *testing.T) {
	const one = "../test/manifests/invalid/miscapitalised-field.yaml"
	want, _ := wantOutput(t, one)
	for _, args := range [][]string{
		{"create", "-f", one},
		{"apply", "--server-side", "-f", one},
		{"apply", "--dry-run=server", "-f", one},
		{"apply", "--validate=false", "-f", one},
	} {
		t.Run(strings.Join(args, " "), func(t *testing.T) { s.refused(t, want, args...) })
	}
}

// refused runs kubectl, which must fail with exactly the output.
func (s *apiServer) refused(t *testing.T, want string, args ...string) {
	t.Helper()
	r := s.run(t, "", args...)
	if !r.failed || r.stdout != "" {
		t.Errorf("kubectl %s was not refused: %s", args, r.stdout)
	}
	if diff := cmp.Diff(want, r.stderr); diff != "" {
		t.Errorf("output of kubectl %s (-want +got):\n%s", args, diff)
	}
}

// wantOutput is the complete output of kubectl for a manifest that is refused
// with the findings in its "# want:" lines; serverSide is that of a server-side
// apply, and empty if that is the same.
func wantOutput(t *testing.T, file string) (apply, serverSide string) {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var findings []string
	var kind, name string
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSuffix(line, "\n")
		if f, ok := strings.CutPrefix(line, "# want: "); ok {
			findings = append(findings, f)
		}
		if o, ok := strings.CutPrefix(line, "# server-side: "); ok {
			serverSide = o + "\n"
		}
		if k, ok := strings.CutPrefix(line, "kind: "); ok {
			kind = k
		}
		if n, ok := strings.CutPrefix(line, "  name: "); ok && name == "" {
			name = n
		}
	}
	apply = "The " + kind + ` "` + name + `" is invalid: `
	if len(findings) == 1 {
		apply += findings[0] + "\n"
	} else {
		apply += "\n* " + strings.Join(findings, "\n* ") + "\n"
	}
	return apply, serverSide
}

func glob(t *testing.T, pattern string) []string {
	t.Helper()
	files, err := filepath.Glob(pattern)
	if err != nil || len(files) == 0 {
		t.Fatalf("no files match %s, %v", pattern, err)
	}
	return files
}

// selfSigned makes a certificate and its key, in PEM.
func selfSigned(t *testing.T, serial int64) (cert, key []byte) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(serial), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	certDER, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certDER}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})
}
