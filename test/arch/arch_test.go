package arch

import (
	"bytes"
	"encoding/json"
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/aad-pod-identity/aad-pod-identity"

type pkg struct {
	ImportPath string
	Dir        string
	Name       string
	GoFiles    []string
	Deps       []string
	Module     *struct{ Path string }
}

// load lists packages with their transitive dependencies.
func load(t *testing.T, patterns ...string) []pkg {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", append([]string{"list", "-json=ImportPath,Dir,Name,GoFiles,Deps,Module"}, patterns...)...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, stderr.String())
	}
	var pkgs []pkg
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		var p pkg
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return pkgs
		} else if err != nil {
			t.Fatalf("reading go list: %v", err)
		}
		pkgs = append(pkgs, p)
	}
}

// TestLinks holds what each part may not link, directly or not.
func TestLinks(t *testing.T) {
	const (
		armcompute = "github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/compute/"
		azidentity = "github.com/Azure/azure-sdk-for-go/sdk/azidentity"
		azcore     = "github.com/Azure/azure-sdk-for-go/sdk/azcore"
		goIPTables = "github.com/coreos/go-iptables"
		clientGo   = "k8s.io/client-go"
		runtime    = "sigs.k8s.io/controller-runtime"
		klog       = "k8s.io/klog"
		tests      = module + "/test"
	)
	pure := []string{clientGo, runtime, azcore, klog, tests}
	cases := map[string]struct {
		forbidden []string
		why       string
	}{
		"webhook":             {[]string{azidentity, armcompute, goIPTables, module + "/mic", module + "/nmi", tests}, "the webhook needs neither Azure nor the node"},
		"mic":                 {[]string{goIPTables, module + "/webhook", module + "/nmi", tests}, "MIC runs without privileges on the node"},
		"nmi":                 {[]string{armcompute, module + "/webhook", module + "/mic", tests}, "NMI runs as root on every node and must not be able to talk to ARM"},
		"api/v1":              {append([]string{module + "/internal"}, clientGo, runtime, azcore, tests), "API types are imported by others"},
		"internal/resourceid": {pure, "pure"},
		"internal/validation": {append([]string{module + "/internal/binding"}, clientGo, runtime, azcore, tests), "pure"},
		"internal/binding":    {append([]string{module + "/internal/validation"}, clientGo, runtime, azcore, tests), "pure"},
		"internal/access":     {[]string{clientGo, runtime, azcore, tests}, "its callers bring the client"},
		"mic/assign":          {[]string{clientGo, runtime, azcore, tests}, "pure"},
		"test/azure":          {[]string{module + "/api", module + "/internal", module + "/webhook", module + "/mic", module + "/nmi"}, "an oracle that shares our code shares our bugs"},
		"test/azure/emulator": {[]string{module + "/api", module + "/internal", module + "/webhook", module + "/mic", module + "/nmi"}, "an oracle that shares our code shares our bugs"},
	}
	for dir, tc := range cases {
		t.Run(dir, func(t *testing.T) {
			for _, p := range load(t, module+"/"+dir) {
				for _, d := range p.Deps {
					for _, f := range tc.forbidden {
						if d == strings.TrimSuffix(f, "/") || strings.HasPrefix(d, strings.TrimSuffix(f, "/")+"/") {
							t.Errorf("%s links %s: %s", dir, d, tc.why)
						}
					}
				}
			}
		})
	}
}

// TestPackageComments holds that every package says once what it is for, so that
// a reader can start anywhere.
func TestPackageComments(t *testing.T) {
	for _, p := range load(t, module+"/...") {
		var comments []string
		for _, f := range p.GoFiles {
			file, err := parser.ParseFile(token.NewFileSet(), filepath.Join(p.Dir, f), nil, parser.PackageClauseOnly|parser.ParseComments)
			if err != nil {
				t.Fatal(err)
			}
			if text := docText(file); text != "" {
				comments = append(comments, f)
				want := "Package " + p.Name + " "
				if p.Name == "main" {
					want = "Command "
				}
				if !strings.HasPrefix(text, want) {
					t.Errorf("%s: the package comment in %s does not begin with %q", p.ImportPath, f, want)
				}
			}
		}
		if len(p.GoFiles) > 0 && len(comments) != 1 {
			t.Errorf("%s has package comments in %q, want exactly one", p.ImportPath, comments)
		}
	}
}

func docText(f *ast.File) string {
	if f.Doc == nil {
		return ""
	}
	return f.Doc.Text()
}

// TestPackageNames keeps packages named for what they do.
func TestPackageNames(t *testing.T) {
	for _, p := range load(t, module+"/...") {
		if slices.Contains([]string{"util", "utils", "common", "helper", "helpers", "misc", "shared"}, filepath.Base(p.ImportPath)) {
			t.Errorf("%s: name the package for what it provides", p.ImportPath)
		}
	}
}
