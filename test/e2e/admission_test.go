package e2e

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// manifestFiles reads the files of a folder of test/manifests, by name.
func manifestFiles(t *testing.T, folder string) map[string]string {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join("..", "manifests", folder, "*.yaml"))
	if err != nil || len(paths) == 0 {
		t.Fatalf("no manifests in %s: %v", folder, err)
	}
	files := make(map[string]string, len(paths))
	for _, p := range paths {
		data, err := os.ReadFile(p)
		if err != nil {
			t.Fatal(err)
		}
		files[strings.TrimSuffix(filepath.Base(p), ".yaml")] = string(data)
	}
	return files
}

// badManifests applies the files of test/manifests/invalid with one kubectl: each is
// refused with all its findings.
func badManifests(t *testing.T) {
	ns := namespace(t)
	files := manifestFiles(t, "invalid")
	names := slices.Sorted(maps.Keys(files))
	var all strings.Builder
	for _, name := range names {
		all.WriteString("---\n" + files[name])
	}
	const begin = "Error from server"
	before, rest, _ := strings.Cut(refused(t, all.String(), "apply", "-n", ns, "-f", "-"), begin)
	refusals := strings.Split(rest, begin)
	if before != "" || len(refusals) != len(names) {
		t.Fatalf("%d objects were refused of %d; kubectl says first %q", len(refusals), len(names), before)
	}
	for i, name := range names {
		t.Run(name, func(t *testing.T) {
			var want []string
			for line := range strings.Lines(files[name]) {
				if text, ok := strings.CutPrefix(line, "# want: "); ok {
					want = append(want, strings.TrimSpace(text))
				}
			}
			if len(want) == 0 {
				t.Fatal("the file says nothing of the expected message")
			}
			flat := strings.Join(strings.Fields(refusals[i]), " ")
			for _, w := range want {
				if !strings.Contains(flat, strings.Join(strings.Fields(w), " ")) {
					t.Errorf("kubectl does not print\n%s\nbut\n%s", w, refusals[i])
				}
			}
		})
	}
}

func goodManifests(t *testing.T) {
	ns := namespace(t)
	for name, data := range manifestFiles(t, "valid") {
		t.Run(name, func(t *testing.T) {
			if _, err := env.Kubectl(t.Context(), data, "apply", "-n", ns, "--dry-run=server", "-f", "-"); err != nil {
				t.Error(err)
			}
		})
	}
}

// forgedTags holds that tags say what is, not what somebody wrote.
func forgedTags(t *testing.T) {
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
		// MIC writes them if the webhook did not know the binding yet, or was not waited for.
		eventually(t, "tags of pod "+name, func(ctx context.Context) error {
			got, err := env.Kubectl(ctx, "", "get", "pod", "-n", ns, name, "-o",
				`jsonpath={.metadata.labels.aadpodidentity\.k8s\.io/binding}/{.metadata.labels.aadpodidentity\.k8s\.io/identity}`)
			if err == nil && got != tc.want {
				err = fmt.Errorf("it carries %q, want %q", got, tc.want)
			}
			return err
		})
	}
}
