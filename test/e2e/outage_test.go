package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/aad-pod-identity/aad-pod-identity/test/cluster"
	"github.com/aad-pod-identity/aad-pod-identity/test/soak"
	"github.com/aad-pod-identity/aad-pod-identity/test/stack"
)

// leader is who holds MIC's lease, and the UID of its pod.
type leader struct{ holder, uid string }

func micLeader(ctx context.Context) (leader, error) {
	holder, err := leaseField(ctx, "holderIdentity")
	if err != nil {
		return leader{}, err
	}
	pod, _, _ := strings.Cut(holder, "_")
	uid, err := env.Kubectl(ctx, "", "get", "pod", pod, "-o", "jsonpath={.metadata.uid}")
	return leader{holder, uid}, err
}

// leaseField returns a field of MIC's lease.
func leaseField(ctx context.Context, field string) (string, error) {
	return env.Kubectl(ctx, "", "get", "lease", "-n", "default", stack.Release+"-mic", "-o", "jsonpath={.spec."+field+"}")
}

// waitLease waits until a field of MIC's lease has another value.
func waitLease(t *testing.T, field, than string) {
	t.Helper()
	eventually(t, "another "+field+" of MIC's lease", func(ctx context.Context) error {
		now, err := leaseField(ctx, field)
		if err == nil && (now == "" || now == than) {
			err = fmt.Errorf("it is %q", now)
		}
		return err
	})
}

// TestFrozenLeader freezes MIC's leader until another leads, and lets it go on: what
// the new leader took off the scale set stays off.
func TestFrozenLeader(t *testing.T) {
	soak.Only(t)
	ns := namespace(t)
	id, other := azureIdentity(t, "frozen"), azureIdentity(t, "thawed")
	apply(t, identityManifest(ns, "frozen", id)+bindingManifest(ns, "frozen", "frozen", "frozen")+podManifest(ns, "a", "frozen")+
		identityManifest(ns, "thawed", other)+bindingManifest(ns, "thawed", "thawed", "thawed"))
	waitState(t, ns, "a", "frozen", "Assigned")
	old, err := micLeader(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := env.Cluster.SignalPod(old.uid, "mic", syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	// It has work that it cannot do: a pod goes, another comes.
	kubectl(t, "delete", "pod", "-n", ns, "a", "--now", "--wait=false")
	apply(t, podManifest(ns, "b", "thawed"))
	waitLease(t, "holderIdentity", old.holder)
	// The kubelet may have killed it meanwhile, since it does not answer its probe.
	if _, err := env.Cluster.SignalPod(old.uid, "mic", syscall.SIGCONT); err != nil {
		t.Logf("letting the old leader go on: %v", err)
	}
	waitState(t, ns, "b", "thawed", "Assigned")
	waitUnassigned(t, ns, "a", "frozen")
	waitOnScaleSet(t, id.ID, false)
	kubectl(t, "rollout", "status", "deployment/"+stack.Release+"-mic", "--timeout=80s")
	kubectl(t, "delete", "pod", "-n", ns, "b", "--now", "--wait=false")
	waitUnassigned(t, ns, "b", "thawed")
	waitOnScaleSet(t, other.ID, false)
}

// TestOutageOfAPIServerAndARM lets calls of the API server and of ARM hang, until MIC
// has given up its lease, and then those of ARM alone. All that happened before and
// meanwhile is put right afterwards.
func TestOutageOfAPIServerAndARM(t *testing.T) {
	soak.Only(t)
	ns := namespace(t)
	goes, comes := azureIdentity(t, "outage-goes"), azureIdentity(t, "outage-comes")
	apply(t, identityManifest(ns, "goes", goes)+bindingManifest(ns, "goes", "goes", "outage-goes")+podManifest(ns, "a", "outage-goes")+
		identityManifest(ns, "comes", comes)+bindingManifest(ns, "comes", "comes", "outage-comes"))
	waitState(t, ns, "a", "goes", "Assigned")
	old, err := micLeader(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	// SIGCONT does nothing to a process that runs.
	pids, err := env.Cluster.SignalPod(old.uid, "mic", syscall.SIGCONT)
	if err != nil {
		t.Fatal(err)
	}
	signal := func(program string, s os.Signal) {
		t.Helper()
		if err := env.Cluster.Signal(program, s); err != nil {
			t.Errorf("signalling %s: %v", program, err)
		}
	}
	// Whatever happens, nothing stays frozen.
	t.Cleanup(func() { signal(stack.EmulatorName, syscall.SIGCONT); signal(cluster.APIServer, syscall.SIGCONT) })

	signal(stack.EmulatorName, syscall.SIGSTOP)
	kubectl(t, "delete", "pod", "-n", ns, "a", "--now", "--wait=false")
	apply(t, podManifest(ns, "b", "outage-comes"))
	waitState(t, ns, "b", "comes", "Created")
	signal(cluster.APIServer, syscall.SIGSTOP)
	eventually(t, "MIC gives up without its lease", func(context.Context) error {
		if slices.ContainsFunc(pids, env.Cluster.Runs) {
			return errors.New("its leader runs on")
		}
		return nil
	})
	signal(cluster.APIServer, syscall.SIGCONT)
	// Whoever renews it now is a new process.
	renewed, err := leaseField(t.Context(), "renewTime")
	if err != nil {
		t.Fatal(err)
	}
	waitLease(t, "renewTime", renewed)
	if has, err := states(t.Context(), ns, "b"); err != nil || has["comes"] != "Created" {
		t.Errorf("with ARM away the assignment is %q (%v)", has["comes"], err)
	}
	signal(stack.EmulatorName, syscall.SIGCONT)
	waitState(t, ns, "b", "comes", "Assigned")
	waitUnassigned(t, ns, "a", "goes")
	waitOnScaleSet(t, goes.ID, false)
	waitReady(t, ns, "b")
	wantToken(t, ns, "b", comes)
	kubectl(t, "rollout", "status", "deployment/"+stack.Release+"-mic", "--timeout=80s")
}
