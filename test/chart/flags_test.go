package chart_test

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/aad-pod-identity/aad-pod-identity/test/helmtest"
)

// TestPrograms runs the programs, which are built once, as the chart does.
func TestPrograms(t *testing.T) {
	helmtest.Require(t)
	dir := t.TempDir()
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-ldflags=-s -w", "-o", dir+"/", "../../webhook", "../../mic", "../../nmi").CombinedOutput(); err != nil {
		t.Fatalf("building the programs: %v\n%s", err, out)
	}
	t.Run("flags", func(t *testing.T) { testArgumentsAreFlags(t, dir) })
	t.Run("API server", func(t *testing.T) { testAgainstAPIServer(t, filepath.Join(dir, "webhook")) })
}

// The programs know every flag that the chart gives them: with --version they
// read their command line and do nothing.
func testArgumentsAreFlags(t *testing.T, dir string) {
	files, err := filepath.Glob("testdata/values/*.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		all := mustRender(t, "--values", file)
		for key, program := range map[string]string{
			"Deployment/aad-pod-identity-webhook": "webhook",
			"Deployment/aad-pod-identity-mic":     "mic",
			"DaemonSet/aad-pod-identity-nmi":      "nmi",
		} {
			o := all[key]
			if o == nil {
				continue // MIC in managed mode
			}
			args := append(arguments(t, o), "--version")
			out, err := exec.CommandContext(t.Context(), filepath.Join(dir, program), args...).CombinedOutput()
			if err != nil {
				t.Errorf("%s: %s %s: %v\n%s", file, program, strings.Join(args, " "), err, out)
			}
		}
	}
}
