package e2e

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aad-pod-identity/aad-pod-identity/test/azure"
	"github.com/aad-pod-identity/aad-pod-identity/test/soak"
	"github.com/aad-pod-identity/aad-pod-identity/test/stack"
)

// TestChurn has pods come and go, one a second, with different identities, through
// the kubelet: each asks for tokens without naming an identity from the moment it
// runs, and must never get another one's.
func TestChurn(t *testing.T) {
	soak.Only(t)
	const (
		batch   = 5 // pods at a time, or kubectl would take more than the pods do
		each    = batch * time.Second
		kinds   = 3
		batches = 60 // five minutes
	)
	ns := namespace(t)
	var ids []azure.Identity
	var manifests strings.Builder
	for i := range kinds {
		name := fmt.Sprintf("churn-%d", i)
		ids = append(ids, azureIdentity(t, name))
		manifests.WriteString(identityManifest(ns, name, ids[i]) + bindingManifest(ns, name, name, name))
	}
	apply(t, manifests.String())

	var settled float64 // once caches and pools are filled
	come := time.NewTicker(each)
	defer come.Stop()
	var living sync.WaitGroup
	for b := range batches {
		living.Go(func() {
			if err := churnBatch(t, ns, b, batch, ids); err != nil {
				t.Error(err)
			}
		})
		<-come.C
		if b == batches/5 {
			settled = nmiMemory(t)
		}
	}
	living.Wait()
	after := nmiMemory(t)
	t.Logf("%d pods; memory of NMI %.1f MiB after a fifth of them, %.1f MiB after all", batches*batch, settled, after)
	if after > 1.1*settled {
		t.Errorf("NMI's memory grew from %.1f to %.1f MiB", settled, after)
	}
}

// churnBatch is the life of some pods: they come, get their tokens, end and are
// deleted.
func churnBatch(t *testing.T, ns string, number, pods int, ids []azure.Identity) error {
	var manifests strings.Builder
	for p := range pods {
		kind := (number*pods + p) % len(ids)
		fmt.Fprintf(&manifests, `---
apiVersion: v1
kind: Pod
metadata: {name: churn-%d-%d, namespace: %s, labels: {aadpodidbinding: churn-%d, batch: b%d}}
spec:
  restartPolicy: Never
  terminationGracePeriodSeconds: 1
  automountServiceAccountToken: false
  securityContext: {runAsNonRoot: true, seccompProfile: {type: RuntimeDefault}}
  containers:
    - name: client
      image: %s
      args: [expect, --client-id=%s]
      securityContext: {allowPrivilegeEscalation: false, readOnlyRootFilesystem: true, capabilities: {drop: [ALL]}}
`, number, p, ns, kind, number, stack.ClientImage, ids[kind].ClientID)
	}
	ctx := t.Context()
	if _, err := env.Kubectl(ctx, manifests.String(), "apply", "-f", "-"); err != nil {
		return err
	}
	selector := fmt.Sprintf("-lbatch=b%d", number)
	// A pod that succeeds got tokens, and only its own. This kubelet starts and ends fewer
	// than one a second, so the last ones wait for minutes.
	_, ended := env.Kubectl(ctx, "", "wait", "-n", ns, selector, "pod", "--for=jsonpath={.status.phase}=Succeeded", "--timeout=10m")
	if ended != nil {
		logs, err := env.Kubectl(ctx, "", "logs", "-n", ns, selector, "--prefix")
		ended = fmt.Errorf("batch %d: %w\n%s", number, errors.Join(ended, err), logs)
	}
	_, err := env.Kubectl(ctx, "", "delete", "pod", "-n", ns, selector, "--wait=false")
	return errors.Join(ended, err)
}

// nmiMemory is NMI's resident memory in MiB, as its metrics say.
func nmiMemory(t *testing.T) float64 {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+net.JoinHostPort(env.Cluster.NodeIP(), "9090")+"/metrics", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(body)) {
		if value, ok := strings.CutPrefix(line, "process_resident_memory_bytes "); ok {
			bytes, err := strconv.ParseFloat(strings.TrimSpace(value), 64)
			if err != nil {
				t.Fatal(err)
			}
			return bytes / (1 << 20)
		}
	}
	t.Fatal("NMI's metrics do not say how much memory it has")
	return 0
}
