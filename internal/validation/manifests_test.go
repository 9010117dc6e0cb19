package validation

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/yaml"
)

const manifestDir = "../../test/manifests"

func newValidator(t testing.TB) *Validator {
	t.Helper()
	v, err := New()
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// manifest is a file of test/manifests.
type manifest struct {
	// dir is valid or invalid, name that of the file without its extension.
	dir, name string
	text      string
	kind      string
	object    []byte
	// findings and warnings that the file says are to be expected.
	findings, warnings []string
}

func readManifests(t testing.TB) []manifest {
	t.Helper()
	files, err := filepath.Glob(manifestDir + "/*/*.yaml")
	if err != nil || len(files) < 100 {
		t.Fatalf("%d manifests in %s, %v", len(files), manifestDir, err)
	}
	var manifests []manifest
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		m := manifest{dir: filepath.Base(filepath.Dir(file)), name: strings.TrimSuffix(filepath.Base(file), ".yaml"), text: string(text)}
		for line := range strings.Lines(m.text) {
			line = strings.TrimSuffix(line, "\n")
			if finding, ok := strings.CutPrefix(line, "# want: "); ok {
				m.findings = append(m.findings, finding)
			}
			if warning, ok := strings.CutPrefix(line, "# warn: "); ok {
				m.warnings = append(m.warnings, warning)
			}
		}
		if m.object, err = yaml.YAMLToJSON(text); err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		var meta struct{ Kind string }
		if err := yaml.Unmarshal(text, &meta); err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		m.kind = meta.Kind
		manifests = append(manifests, m)
	}
	return manifests
}

func TestManifests(t *testing.T) {
	v := newValidator(t)
	for _, m := range readManifests(t) {
		t.Run(m.dir+"/"+m.name, func(t *testing.T) {
			if (m.dir == "invalid") != (len(m.findings) > 0) {
				t.Fatalf("%d lines with '# want: '", len(m.findings))
			}
			verdict, err := v.Judge(m.kind, m.object, AllParts, RejectCase)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(m.findings, messages(verdict.Findings)); diff != "" {
				t.Errorf("findings (-want +got):\n%s", diff)
			}
			var warnings []string
			for _, w := range verdict.Warnings {
				warnings = append(warnings, w.String())
			}
			if diff := cmp.Diff(m.warnings, warnings); diff != "" {
				t.Errorf("warnings (-want +got):\n%s", diff)
			}
		})
	}
}
