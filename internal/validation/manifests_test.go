package validation

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/yaml"
)

const manifests = "../../test/manifests"

func newValidator(t testing.TB) *Validator {
	t.Helper()
	v, err := New()
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func TestManifests(t *testing.T) {
	v := newValidator(t)
	files, err := filepath.Glob(manifests + "/*/*.yaml")
	if err != nil || len(files) < 40 {
		t.Fatalf("%d manifests in %s, %v", len(files), manifests, err)
	}
	for _, file := range files {
		dir := filepath.Base(filepath.Dir(file))
		t.Run(dir+"/"+filepath.Base(file), func(t *testing.T) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			var want []string
			for line := range strings.Lines(string(text)) {
				if finding, ok := strings.CutPrefix(line, "# want: "); ok {
					want = append(want, strings.TrimSuffix(finding, "\n"))
				}
			}
			if (dir == "invalid") != (len(want) > 0) {
				t.Fatalf("%d lines with '# want: '", len(want))
			}
			object, err := yaml.YAMLToJSON(text)
			if err != nil {
				t.Fatal(err)
			}
			var meta struct{ Kind string }
			if err := yaml.Unmarshal(text, &meta); err != nil {
				t.Fatal(err)
			}
			findings, err := v.Raw(meta.Kind, object)
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, f := range findings {
				got = append(got, f.Error())
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("findings (-want +got):\n%s", diff)
			}
		})
	}
}
