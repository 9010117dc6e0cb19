package lint

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"sigs.k8s.io/yaml"
)

// FuzzFile: whatever a file holds, it is judged without a crash, each finding has
// a line of the file, and an object that stands alone gets the findings of
// admission, none less.
func FuzzFile(f *testing.F) {
	files, err := filepath.Glob(manifests + "/*/*.yaml")
	if err != nil {
		f.Fatal(err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
		if object, err := yaml.YAMLToJSON(text); err == nil {
			f.Add(object)
			f.Add([]byte("kind: List\nitems: [" + string(object) + "]\n---\n" + string(text)))
		}
	}
	f.Add([]byte("a: &a [*b]\nb: &b {<<: *a}\n"))
	rules := newLinter(f).rules
	f.Fuzz(func(t *testing.T, text []byte) {
		l := newLinter(t)
		l.file("f", text)
		lines := 1 + bytes.Count(text, []byte("\n")) + bytes.Count(text, []byte("\r"))
		for _, found := range l.report.findings {
			if found.Line < 1 || found.Line > lines+1 || found.Message == "" {
				t.Errorf("%+v in a file of %d lines", found, lines)
			}
		}
		if bytes.Contains(text, []byte("---")) || bytes.HasPrefix(bytes.TrimSpace(text), []byte("{")) {
			return
		}
		object, err := yaml.YAMLToJSON(text)
		var meta struct{ APIVersion, Kind string }
		if err != nil || json.Unmarshal(object, &meta) != nil || meta.APIVersion != "aadpodidentity.k8s.io/v1" || !rules.Knows(meta.Kind) {
			return
		}
		if want, err := rules.Raw(meta.Kind, object); err == nil && l.report.errors < len(want) {
			t.Errorf("%d findings of the rules, %d here", len(want), l.report.errors)
		}
	})
}
