package arch

import (
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"unicode"
)

const root = "../.."

var (
	link    = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	heading = regexp.MustCompile(`(?m)^#{1,6} (.+)$`)
	fence   = regexp.MustCompile("(?ms)^```.*?^```$")
)

// TestDocumentation holds that every document is in the index, and that links
// between documents lead somewhere.
func TestDocumentation(t *testing.T) {
	documents, err := filepath.Glob(root + "/docs/*.md")
	if err != nil || len(documents) < 2 {
		t.Fatalf("documents %v, %v", documents, err)
	}
	index, err := os.ReadFile(root + "/docs/README.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, document := range documents {
		if name := filepath.Base(document); name != "README.md" && !strings.Contains(string(index), "]("+name+")") {
			t.Errorf("docs/README.md does not list %s", name)
		}
	}
	for _, document := range append(documents, root+"/README.md", root+"/CONTRIBUTING.md", root+"/charts/aad-pod-identity/README.md") {
		text, err := os.ReadFile(document)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range link.FindAllStringSubmatch(string(fence.ReplaceAll(text, nil)), -1) {
			if !strings.Contains(m[1], "://") {
				checkLink(t, document, m[1])
			}
		}
	}
}

func checkLink(t *testing.T, document, target string) {
	t.Helper()
	path, fragment, _ := strings.Cut(target, "#")
	file := document
	if path != "" {
		file = filepath.Join(filepath.Dir(document), path)
	}
	info, err := os.Stat(file)
	if err != nil {
		t.Errorf("%s links to %s, which does not exist", document, target)
		return
	}
	if fragment == "" || info.IsDir() {
		return
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if fragment, err = url.PathUnescape(fragment); err != nil {
		t.Errorf("%s links to %s: %v", document, target, err)
	}
	for _, m := range heading.FindAllStringSubmatch(string(fence.ReplaceAll(text, nil)), -1) {
		if anchor(m[1]) == fragment {
			return
		}
	}
	t.Errorf("%s links to %s, which has no such heading", document, target)
}

// anchor is what GitHub makes of a heading.
func anchor(text string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == ' ' || r == '-':
			return '-'
		case r == '_' || unicode.IsLetter(r) || unicode.IsDigit(r):
			return unicode.ToLower(r)
		}
		return -1
	}, text)
}
