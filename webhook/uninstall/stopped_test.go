package uninstall

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/aad-pod-identity/aad-pod-identity/webhook/hookjob"
)

// A pod that is evicted must not tell its Job, and so Helm, that all was undone.
func TestAStoppedJobHasNotSucceeded(t *testing.T) {
	kubeconfig := filepath.Join(t.TempDir(), "kubeconfig")
	err := os.WriteFile(kubeconfig, []byte(`{"apiVersion":"v1","kind":"Config","current-context":"c",
		"clusters":[{"name":"c","cluster":{"server":"https://127.0.0.1:1"}}],"contexts":[{"name":"c","context":{"cluster":"c","user":""}}]}`), 0o600)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for name, run := range map[string]func() error{
		"uninstall": func() error {
			return Command(ctx, []string{"--kubeconfig=" + kubeconfig, "--namespace=" + ns, "--nmi-daemonset=nmi"})
		},
		"cleanup": func() error {
			return CleanupCommand(ctx, []string{"--kubeconfig=" + kubeconfig, "--namespace=" + ns, "--release=rel"})
		},
	} {
		t.Run(name, func(t *testing.T) {
			if err := run(); !errors.Is(err, hookjob.ErrStopped) || errors.Is(err, context.Canceled) {
				t.Errorf("error %v, which ends the process with 0", err)
			}
		})
	}
}
