package e2e

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"syscall"
	"testing"

	"github.com/aad-pod-identity/aad-pod-identity/test/azure"
	"github.com/aad-pod-identity/aad-pod-identity/test/soak"
	"github.com/aad-pod-identity/aad-pod-identity/test/stack"
)

const nmiDaemonSet = "daemonset/" + stack.Release + "-nmi"

// loadInPod runs the client's load in a pod until stop is called, which returns
// what it printed: a line for each failed request, and a last one with the counts.
func loadInPod(t *testing.T, namespace, pod string) (stop func() string) {
	t.Helper()
	type result struct {
		stack.Result
		err error
	}
	ended := make(chan result, 1)
	go func() {
		r, err := env.Run(t.Context(), stack.Command{Args: []string{"kubectl", "exec", "-n", namespace, pod, "--", "/client", "load", "--until=/tmp/stop"}})
		ended <- result{r, err}
	}()
	return func() string {
		t.Helper()
		kubectl(t, "exec", "-n", namespace, pod, "--", "/client", "touch", "/tmp/stop")
		r := <-ended
		if r.err != nil || r.Code != 0 {
			t.Fatalf("the load ended with %d, %v:\n%s", r.Code, r.err, r.Output)
		}
		return r.Output
	}
}

// TestRollingUpdateOfNMI replaces NMI while a pod asks for tokens without a pause:
// no request fails.
func TestRollingUpdateOfNMI(t *testing.T) {
	ns := namespace(t)
	id := azureIdentity(t, "nmiupdate")
	apply(t, identityManifest(ns, "nmiupdate", id)+bindingManifest(ns, "nmiupdate", "nmiupdate", "nmiupdate")+loadManifest(ns, "web", "nmiupdate"))
	waitState(t, ns, "web", "nmiupdate", "Assigned")
	waitReady(t, ns, "web")
	wantToken(t, ns, "web", id)
	updates := soak.Size(t, "updates", 1, 3)
	stop := loadInPod(t, ns, "web")
	for range updates {
		old := nmiPod(t)
		kubectl(t, "rollout", "restart", nmiDaemonSet)
		kubectl(t, "rollout", "status", nmiDaemonSet, "--timeout=170s")
		eventually(t, "the old NMI ends", func(ctx context.Context) error {
			if names := nmiPodOrNone(ctx); names == "" || strings.Contains(names, old) {
				return fmt.Errorf("NMIs are %q", names)
			}
			return nil
		})
	}
	out := stop()
	t.Log(out)
	if !strings.Contains(out, ", 0 failed") || strings.Contains(out, " 0 answered") {
		t.Errorf("requests failed in a rolling update:\n%s", out)
	}
}

// TestKilledNMIFailsClosed kills NMI's process while a pod asks: what is not
// answered by an NMI fails, and nothing reaches IMDS around it.
func TestKilledNMIFailsClosed(t *testing.T) {
	ns := namespace(t)
	id := azureIdentity(t, "nmikilled")
	apply(t, identityManifest(ns, "nmikilled", id)+bindingManifest(ns, "nmikilled", "nmikilled", "nmikilled")+loadManifest(ns, "web", "nmikilled"))
	waitState(t, ns, "web", "nmikilled", "Assigned")
	waitReady(t, ns, "web")
	wantToken(t, ns, "web", id)
	podIP := kubectl(t, "get", "pod", "-n", ns, "web", "-o", "jsonpath={.status.podIP}")
	if err := env.Azure.ClearCalls(t.Context()); err != nil {
		t.Fatal(err)
	}
	stop := loadInPod(t, ns, "web")
	killed := kill(t, nmiPod(t))
	eventually(t, "NMI runs again", func(ctx context.Context) error {
		r, err := env.Run(ctx, stack.Command{Args: []string{"kubectl", "get", "pod", nmiPodOrNone(ctx), "-o",
			"jsonpath={.status.containerStatuses[0].ready} {.status.containerStatuses[0].restartCount}"}})
		if err == nil && (!strings.HasPrefix(r.Output, "true ") || strings.HasSuffix(r.Output, " 0")) {
			err = fmt.Errorf("ready and restarts: %s; killed %d", r.Output, killed)
		}
		return err
	})
	wantToken(t, ns, "web", id)
	out := stop()
	t.Log(out)
	calls, err := env.Azure.Calls(t.Context(), azure.CallFilter{Service: azure.ServiceIMDS})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range calls {
		if strings.HasPrefix(c.Source, podIP+":") || c.Source == podIP {
			t.Errorf("a request reached IMDS around NMI: %+v", c)
		}
	}
}

// kill kills the process of a pod's container, as the kernel does when memory is
// short, and returns its ID.
func kill(t *testing.T, pod string) int {
	t.Helper()
	// The oldest: a child that NMI is just starting has its command line as well.
	r, err := host(t.Context(), "pgrep", "-o", "-f", "^/nmi --node=")
	if err != nil {
		t.Fatal(err)
	}
	var pids []int
	for field := range strings.FieldsSeq(r.Output) {
		var pid int
		if _, err := fmt.Sscan(field, &pid); err == nil {
			pids = append(pids, pid)
		}
	}
	if len(pids) != 1 {
		t.Fatalf("the processes of %s are %q", pod, r.Output)
	}
	if err := syscall.Kill(pids[0], syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	return pids[0]
}

// TestRepairsAreCounted flushes the chain and looks for the repair in the metrics.
func TestRepairsAreCounted(t *testing.T) {
	before := repairs(t)
	if r, err := host(t.Context(), "iptables", "-t", "nat", "-F", "aad-metadata"); err != nil || r.Code != 0 {
		t.Fatal(err, r.Output)
	}
	eventually(t, "repair", func(ctx context.Context) error {
		r, err := host(ctx, "iptables", "-t", "nat", "-S", "aad-metadata")
		if err == nil && withoutWarnings(r.Output) != chain() {
			err = errors.New("the redirect is incomplete")
		}
		return err
	})
	eventually(t, "the repair is counted", func(context.Context) error {
		if now := repairs(t); now == before {
			return fmt.Errorf("%s repairs", now)
		}
		return nil
	})
}

func repairs(t *testing.T) string {
	t.Helper()
	out := kubectl(t, "get", "--raw", "/api/v1/nodes/"+env.Cluster.NodeName()+":9090/proxy/metrics")
	_, rest, _ := strings.Cut(out, "\naadpodidentity_nmi_redirect_repairs_count ")
	count, _, _ := strings.Cut(rest, "\n")
	return count
}

// loadManifest is podManifest with a place for the file that ends the load.
func loadManifest(namespace, name, selector string) string {
	return podManifest(namespace, name, selector) + `      volumeMounts: [{name: tmp, mountPath: /tmp}]
  volumes: [{name: tmp, emptyDir: {}}]
`
}
