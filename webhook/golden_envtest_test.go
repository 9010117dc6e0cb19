package main

import (
	"flag"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write the golden file anew")

// goldenFile holds what kubectl prints for every object that is refused.
const goldenFile = "testdata/apply.golden"

// testGolden compares what a user sees for each mistake with the golden file, so
// that a change of the texts is seen where it is reviewed.
func (s *apiServer) testGolden(t *testing.T) {
	files := append(glob(t, "../test/manifests/invalid/*.yaml"), glob(t, "testdata/golden/*.yaml")...)
	var got strings.Builder
	record := func(args ...string) {
		r := s.run(t, "", args...)
		if !r.failed || r.stdout != "" {
			t.Errorf("kubectl %s was not refused: %s", strings.Join(args, " "), r.stdout)
		}
		got.WriteString("$ kubectl " + strings.Join(args, " ") + "\n" + r.stderr + "\n")
	}
	for _, file := range files {
		record("apply", "-f", file)
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(text), "\n# server-side: ") {
			record("apply", "--server-side", "-f", file)
		}
	}
	if *update {
		if err := os.WriteFile(goldenFile, []byte(got.String()), 0o644); err != nil { //nolint:gosec // not secret
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(goldenFile)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(strings.Split(string(want), "\n"), strings.Split(got.String(), "\n")); diff != "" {
		t.Errorf("kubectl prints something else than %s; if that is meant: go test ./webhook -run TestAdmission/golden -update\n(-want +got):\n%s", goldenFile, diff)
	}
}
