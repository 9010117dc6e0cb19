package stack

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// Command is one run of kubectl or helm as a user would type it.
type Command struct {
	// Args with the program's name first.
	Args  []string
	Stdin string
	// Progress receives the output while the command runs, besides being returned.
	Progress io.Writer
}

// Result is how a command ended.
type Result struct {
	// Output is standard output and standard error as they came.
	Output string
	// Code is the exit code, 0 for success.
	Code int
}

// Run runs a command against the cluster. The error is set only if it could not
// be run at all.
func (s *Stack) Run(ctx context.Context, c Command) (Result, error) {
	name := c.Args[0]
	if name == "kubectl" || name == "helm" {
		name = filepath.Join(s.Cluster.BinDir(), name)
	}
	cmd := exec.CommandContext(ctx, name, c.Args[1:]...)
	cmd.Env = append(os.Environ(), "KUBECONFIG="+s.Cluster.Kubeconfig())
	cmd.Dir = s.source
	if c.Stdin != "" {
		cmd.Stdin = strings.NewReader(c.Stdin)
	}
	var out bytes.Buffer
	cmd.Stdout = io.Writer(&out)
	if c.Progress != nil {
		cmd.Stdout = io.MultiWriter(&out, c.Progress)
	}
	cmd.Stderr = cmd.Stdout
	err := cmd.Run()
	r := Result{Output: out.String(), Code: cmd.ProcessState.ExitCode()}
	if err != nil && cmd.ProcessState == nil {
		return r, fmt.Errorf("running %s: %w", strings.Join(c.Args, " "), err)
	}
	return r, ctx.Err()
}

// Kubectl runs kubectl and returns its output; a failure is an error that holds it.
func (s *Stack) Kubectl(ctx context.Context, stdin string, args ...string) (string, error) {
	return s.must(ctx, Command{Args: append([]string{"kubectl"}, args...), Stdin: stdin})
}

// Helm runs helm and returns its output; a failure is an error that holds it.
func (s *Stack) Helm(ctx context.Context, args ...string) (string, error) {
	return s.must(ctx, Command{Args: append([]string{"helm"}, args...)})
}

func (s *Stack) must(ctx context.Context, c Command) (string, error) {
	r, err := s.Run(ctx, c)
	if err != nil {
		return r.Output, err
	}
	if r.Code != 0 {
		return r.Output, fmt.Errorf("%s: exit code %d: %s", strings.Join(c.Args, " "), r.Code, strings.TrimSpace(r.Output))
	}
	return r.Output, nil
}

// UninstallRelease removes the release if an earlier run left one, and says so.
func (s *Stack) UninstallRelease(ctx context.Context) error {
	releases, err := s.Helm(ctx, "list", "--all", "--short", "--filter", "^"+Release+"$")
	if err != nil || strings.TrimSpace(releases) == "" {
		return err
	}
	fmt.Fprintln(s.out, "Uninstalling the release of an earlier run.")
	_, err = s.Helm(ctx, "uninstall", Release, "--wait")
	return err
}

// WaitForCA is the command by which a user waits until cert-manager has told the
// API server which certificate authority to trust. Helm does not wait for it.
func WaitForCA() []string {
	return []string{
		"kubectl", "wait", "--for=jsonpath={.webhooks[0].clientConfig.caBundle}", "--timeout=1m",
		"mutatingwebhookconfiguration/" + Release + "-webhook", "validatingwebhookconfiguration/" + Release + "-webhook",
	}
}
