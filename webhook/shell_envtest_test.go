package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// beWebhook in the environment makes the test binary be the webhook, so that
// commands of the documentation can be run as they are printed.
const beWebhook = "TEST_BINARY_IS_WEBHOOK"

func TestMain(m *testing.M) {
	if os.Getenv(beWebhook) != "" {
		main()
	}
	os.Exit(m.Run())
}

// shell runs a script in bash as a user would, with kubectl and webhook in PATH.
// Variables are added to the environment.
func (s *apiServer) shell(t *testing.T, script string, variables ...string) kubectlResult {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	bin := t.TempDir()
	if err := os.WriteFile(filepath.Join(bin, "webhook"), []byte("#!/bin/sh\n"+beWebhook+"=1 exec '"+self+"' \"$@\"\n"), 0o755); err != nil { //nolint:gosec // a program
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "bash", "-c", script)
	home := t.TempDir()
	cmd.Env = append(os.Environ(), "KUBECONFIG="+s.kubeconfig, "HOME="+home, "TMPDIR="+home,
		"PATH="+strings.Join([]string{bin, filepath.Dir(s.kubectl), os.Getenv("PATH")}, string(os.PathListSeparator)))
	cmd.Env = append(cmd.Env, variables...)
	var stdout, stderr strings.Builder
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err = cmd.Run()
	return kubectlResult{stdout.String(), stderr.String(), err != nil}
}
