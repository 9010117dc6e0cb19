package e2e

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/aad-pod-identity/aad-pod-identity/test/soak"
	"github.com/aad-pod-identity/aad-pod-identity/test/stack"
)

const startupTaint = "aadpodidentity.k8s.io/nmi-not-ready"

// upgrade changes values of the release, and changes them back at the test's end.
func upgrade(t *testing.T, values ...string) {
	t.Helper()
	t.Cleanup(func() {
		if err := helmUpgrade(context.WithoutCancel(t.Context()), "--set", "nmi.selfTest.enabled=false,nmi.startupTaint.enabled=false"); err != nil {
			t.Errorf("changing the release back: %v", err)
		}
	})
	if err := helmUpgrade(t.Context(), values...); err != nil {
		t.Fatal(err)
	}
}

// nmiSays waits for what NMI's own readiness says.
func nmiSays(t *testing.T, want string) {
	t.Helper()
	eventually(t, "NMI says "+want, func(ctx context.Context) error {
		r, err := env.Run(ctx, stack.Command{Args: []string{"kubectl", "exec", nmiPodOrNone(ctx), "--", "/nmi", "probe", "--probe-socket=/run/nmi/probe.sock"}})
		if err == nil && !strings.Contains(r.Output, want) {
			err = fmt.Errorf("it says %q", r.Output)
		}
		return err
	})
}

// TestSelfTestAndStartupTaint: NMI takes the taint off a node where it is ready, and
// is not ready where the rules are in place and pods' requests go around them, as
// they do in networks that leave iptables out.
func TestSelfTestAndStartupTaint(t *testing.T) {
	soak.Only(t)
	node := env.Cluster.NodeName()
	upgrade(t, "--set", "nmi.selfTest.enabled=true,nmi.startupTaint.enabled=true")
	kubectl(t, "taint", "node", node, startupTaint+"=:NoSchedule", "--overwrite")
	t.Cleanup(func() { // if NMI has not
		_, _ = env.Run(context.WithoutCancel(t.Context()), stack.Command{Args: []string{"kubectl", "taint", "node", node, startupTaint + "-"}})
	})
	kubectl(t, "rollout", "restart", nmiDaemonSet)
	tainted := func(ctx context.Context) (bool, error) {
		out, err := env.Kubectl(ctx, "", "get", "node", node, "-o", "jsonpath={.spec.taints}")
		return strings.Contains(out, startupTaint), err
	}
	takesTheTaintOff := func() {
		eventually(t, "NMI takes the taint off", func(ctx context.Context) error {
			still, err := tainted(ctx)
			if err == nil && still {
				err = errors.New("it is there")
			}
			return err
		})
	}
	takesTheTaintOff()
	kubectl(t, "rollout", "status", nmiDaemonSet, "--timeout=170s")
	kubectl(t, "rollout", "status", nmiDaemonSet+"-selftest", "--timeout=80s")
	nmiSays(t, "ok")

	// Untracked packets are not translated: the rules are in place and do nothing.
	bypass := []string{"PREROUTING", "-d", "169.254.169.254/32", "-p", "tcp", "--dport", "80", "-j", "NOTRACK"}
	rule := func(ctx context.Context, action string) error {
		r, err := host(ctx, append([]string{"iptables", "-w", "-t", "raw", action}, bypass...)...)
		if err == nil && r.Code != 0 {
			err = fmt.Errorf("iptables %s: %s", action, r.Output)
		}
		return err
	}
	if err := rule(t.Context(), "-I"); err != nil {
		t.Skipf("the kernel cannot send packets around the rules: %v", err)
	}
	removed := false
	t.Cleanup(func() {
		if !removed {
			if err := rule(context.WithoutCancel(t.Context()), "-D"); err != nil {
				t.Error(err)
			}
		}
	})
	nmiSays(t, "self-test: the self-test pod of this node is not heard")
	logs := kubectl(t, "logs", "-l", "component=nmi-selftest", "--tail=5")
	if !strings.Contains(logs, "Requests for the instance metadata service do not come to NMI") || !strings.Contains(logs, "IMDS") {
		t.Errorf("the self-test pod's log does not say who answers:\n%s", logs)
	}

	// Until the self-test was heard, the node takes no pods.
	kubectl(t, "taint", "node", node, startupTaint+"=:NoSchedule")
	kubectl(t, "delete", "pod", "-l", "component=nmi")
	nmiSays(t, "self-test: the self-test pod of this node is not heard")
	if still, err := tainted(t.Context()); err != nil || !still {
		t.Errorf("the taint is off, though no request has come to NMI: %v", err)
	}
	if err := rule(t.Context(), "-D"); err != nil {
		t.Fatal(err)
	}
	removed = true
	takesTheTaintOff()
	nmiSays(t, "ok")
}
