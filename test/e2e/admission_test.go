package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const manifests = "../manifests"

// TestBadManifests applies every file of test/manifests/invalid with kubectl:
// each is refused with all its findings.
func TestBadManifests(t *testing.T) {
	ns := namespace(t)
	files, err := filepath.Glob(filepath.Join(manifests, "invalid", "*.yaml"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no manifests: %v", err)
	}
	for _, f := range files {
		t.Run(strings.TrimSuffix(filepath.Base(f), ".yaml"), func(t *testing.T) {
			data, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			var want []string
			for line := range strings.Lines(string(data)) {
				if text, ok := strings.CutPrefix(line, "# want: "); ok {
					want = append(want, strings.TrimSpace(text))
				}
			}
			if len(want) == 0 {
				t.Fatal("the file says nothing of the expected message")
			}
			out := refused(t, string(data), "apply", "-n", ns, "-f", "-")
			flat := strings.Join(strings.Fields(out), " ")
			for _, w := range want {
				if !strings.Contains(flat, strings.Join(strings.Fields(w), " ")) {
					t.Errorf("kubectl does not print\n%s\nbut\n%s", w, out)
				}
			}
		})
	}
}

func TestGoodManifests(t *testing.T) {
	ns := namespace(t)
	files, err := filepath.Glob(filepath.Join(manifests, "valid", "*.yaml"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no manifests: %v", err)
	}
	for _, f := range files {
		t.Run(strings.TrimSuffix(filepath.Base(f), ".yaml"), func(t *testing.T) {
			data, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := env.Kubectl(t.Context(), string(data), "apply", "-n", ns, "--dry-run=server", "-f", "-"); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestForgedTags holds that tags say what is, not what somebody wrote.
func TestForgedTags(t *testing.T) {
	ns := namespace(t)
	id := azureIdentity(t, "tags")
	apply(t, identityManifest(ns, "tags", id)+bindingManifest(ns, "tags", "tags", "tags"))
	for name, tc := range map[string]struct{ selector, want string }{
		"labelled": {"tags", "tags/tags"},
		"plain":    {"", "/"},
	} {
		manifest := strings.Replace(podManifest(ns, name, tc.selector), "labels: {",
			"labels: {aadpodidentity.k8s.io/binding: forged, aadpodidentity.k8s.io/identity: forged, ", 1)
		apply(t, strings.Replace(manifest, ", }", "}", 1))
		got := kubectl(t, "get", "pod", "-n", ns, name, "-o",
			`jsonpath={.metadata.labels.aadpodidentity\.k8s\.io/binding}/{.metadata.labels.aadpodidentity\.k8s\.io/identity}`)
		if got != tc.want {
			t.Errorf("pod %s carries %q, want %q", name, got, tc.want)
		}
	}
}
