package e2e

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/aad-pod-identity/aad-pod-identity/test/stack"
)

// env is the environment that TestMain starts for all tests.
var env *stack.Stack

func TestMain(m *testing.M) {
	code, err := testMain(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		code = 1
	}
	os.Exit(code)
}

func testMain(m *testing.M) (int, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Minute)
	defer cancel()
	var err error
	if env, err = stack.New(os.Stderr); err != nil {
		return 1, err
	}
	if err := env.Up(ctx); err != nil {
		return 1, err
	}
	if err := reinstall(ctx); err != nil {
		return 1, err
	}
	code := m.Run()
	if code != 0 {
		dump(ctx)
	}
	return code, namespacesGone(ctx)
}

// namespacesGone waits until the tests' namespaces are gone: a finalizer that
// nobody removes would hold one for ever.
func namespacesGone(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	return stack.Poll(ctx, func(ctx context.Context) error {
		out, err := env.Kubectl(ctx, "", "get", "namespaces", "-o", "name")
		if err == nil && strings.Contains(out, "namespace/e2e-") {
			err = fmt.Errorf("namespaces of tests do not go away: %s", strings.Join(strings.Fields(out), " "))
		}
		return err
	})
}

// reinstall gives the tests a fresh release, whatever an earlier run left.
func reinstall(ctx context.Context) error {
	if err := env.UninstallRelease(ctx); err != nil {
		return err
	}
	if err := env.Azure.Reset(ctx); err != nil {
		return err
	}
	fmt.Fprintln(os.Stderr, "e2e: helm install")
	return install(ctx)
}

func install(ctx context.Context) error {
	info, err := env.Azure.Info(ctx)
	if err != nil {
		return err
	}
	// Short intervals, so that drift and repair show within a test's patience.
	args := append([]string{
		"install", stack.Release, env.Chart(), "--wait", "--timeout=3m",
		"--set", "nmi.ipTableUpdateTimeIntervalInSeconds=2",
		"--set", "nmi.retryAttemptsForCreated=2", "--set", "nmi.retryAttemptsForAssigned=20", "--set", "nmi.findIdentityRetryIntervalInSeconds=1",
		"--set", "readinessGate.enabled=true", "--set", "mic.identityAssignmentReconcileInterval=5s", "--set", "mic.syncRetryDuration=5s",
		"--set", "mic.immutableUserMSIs={" + immutableClientID + "}",
		"--set", "allowedAuthorityHosts={" + strings.TrimPrefix(info.Endpoint, "https://") + "}",
	}, env.HelmArgs()...)
	if out, err := env.Helm(ctx, args...); err != nil {
		dump(ctx)
		return fmt.Errorf("%w\n%s", err, out)
	}
	_, err = env.Kubectl(ctx, "", stack.WaitForCA()[1:]...)
	return err
}

// dump prints what helps to understand a failure.
func dump(ctx context.Context) {
	for _, args := range [][]string{
		{"get", "pods", "-A", "-o", "wide"},
		{"get", "azureassignedidentities,azureidentities,azureidentitybindings", "-A"},
		{"get", "events", "-A", "--sort-by=.lastTimestamp"},
		{"logs", "-l", "component=mic", "--tail=60", "--prefix"},
		{"logs", "-l", "component=nmi", "--tail=60", "--prefix"},
		{"logs", "-l", "app.kubernetes.io/component=webhook", "--tail=30", "--prefix"},
	} {
		out, err := env.Kubectl(ctx, "", args...)
		if err != nil {
			out = err.Error()
		}
		fmt.Fprintf(os.Stderr, "── kubectl %s\n%s\n", strings.Join(args, " "), out)
	}
}
