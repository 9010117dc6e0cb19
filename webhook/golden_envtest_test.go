package main

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write the golden file anew")

// goldenFile holds what kubectl prints for every object that is refused.
const goldenFile = "testdata/apply.golden"

// testInvalid applies every manifest that is refused. Each must be with exactly its
// findings, and what a user sees for all of them is compared with the golden file, so
// that a change of the texts is seen where it is reviewed.
func (s *apiServer) testInvalid(t *testing.T) {
	var got strings.Builder
	refused := func(t *testing.T, args ...string) string {
		r := s.run(t, "", args...)
		if !r.failed || r.stdout != "" {
			t.Errorf("kubectl %s was not refused: %s", strings.Join(args, " "), r.stdout)
		}
		got.WriteString("$ kubectl " + strings.Join(args, " ") + "\n" + r.stderr + "\n")
		return r.stderr
	}
	compare := func(t *testing.T, want, got string) {
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("output of kubectl (-want +got):\n%s", diff)
		}
	}
	for _, file := range glob(t, "../test/manifests/invalid/*.yaml") {
		t.Run(filepath.Base(file), func(t *testing.T) {
			want, serverSide := wantOutput(t, file)
			compare(t, want, refused(t, "apply", "-f", file))
			if serverSide != "" {
				compare(t, serverSide, refused(t, "apply", "--server-side", "-f", file))
			}
		})
	}
	for _, file := range glob(t, "testdata/golden/*.yaml") {
		refused(t, "apply", "-f", file)
	}
	t.Run("golden file of what kubectl prints", func(t *testing.T) { wantGolden(t, got.String()) })
}

func wantGolden(t *testing.T, got string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(goldenFile, []byte(got), 0o644); err != nil { //nolint:gosec // not secret
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(goldenFile)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(strings.Split(string(want), "\n"), strings.Split(got, "\n")); diff != "" {
		t.Errorf("kubectl prints something else than %s; if that is meant: go test ./webhook -run TestAdmission -update\n(-want +got):\n%s", goldenFile, diff)
	}
}
