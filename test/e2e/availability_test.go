package e2e

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aad-pod-identity/aad-pod-identity/test/azure"
	"github.com/aad-pod-identity/aad-pod-identity/test/soak"
	"github.com/aad-pod-identity/aad-pod-identity/test/stack"
)

const webhookDeployment = "deployment/" + stack.Release + "-webhook"

// TestAppliesDuringRotationAndRestart applies objects without a pause while
// cert-manager issues new serving certificates and the webhook is restarted. Every
// good object is accepted, and every bad one is refused for what is wrong with it.
// Every day test/chart does so with the programs and an API server.
func TestAppliesDuringRotationAndRestart(t *testing.T) {
	soak.Only(t)
	ns := namespace(t)
	// At least so many; it goes on as long as rotations and restart take.
	const applies, rotations = int64(2000), 3
	l := startApplying(t, ns, azureIdentity(t, "applies"))
	pods := webhookPods(t, "metadata.uid")
	for i := range rotations {
		l.wait(t, int64(i+1)*applies/5)
		rotate(t)
		t.Logf("rotation %d: after %d applies both replicas serve the new certificate", i+1, l.applies.Load())
	}
	if now := webhookPods(t, "metadata.uid"); now != pods {
		t.Errorf("the webhook's pods changed from %s to %s", pods, now)
	}
	l.wait(t, 4*applies/5)
	kubectl(t, "rollout", "restart", webhookDeployment)
	kubectl(t, "rollout", "status", webhookDeployment, "--timeout=80s")
	eventually(t, "the old pods are gone", func(ctx context.Context) error {
		out, err := env.Kubectl(ctx, "", "get", "pods", "-l", "component=webhook", "-o", "name")
		if err == nil && len(strings.Fields(out)) != 2 {
			err = fmt.Errorf("there are %s", strings.Join(strings.Fields(out), ", "))
		}
		return err
	})
	t.Logf("rolling restart: done after %d applies", l.applies.Load())
	l.wait(t, applies)
	l.stop()
}

// applying is a load of kubectl runs.
type applying struct {
	applies, refused atomic.Int64
	stop             func()
}

// startApplying has several kubectl apply manifests again and again. A manifest
// holds many objects, since to start kubectl takes longer than an apply, and one
// in ten of them is bad.
func startApplying(t *testing.T, ns string, id azure.Identity) *applying {
	t.Helper()
	const batch, workers = 50, 3
	ctx, cancel := context.WithCancel(t.Context())
	l := &applying{}
	var group sync.WaitGroup
	for w := range workers {
		group.Go(func() {
			for round := 0; ctx.Err() == nil; round++ {
				var manifest strings.Builder
				for i := range batch {
					one := identityManifest(ns, fmt.Sprintf("w%d-%d", w, i), id)
					// Another annotation makes it a change, which has to be judged.
					one = strings.Replace(one, "metadata: {", fmt.Sprintf("metadata: {annotations: {round: \"%d\"}, ", round), 1)
					if i%10 == 9 {
						one = strings.Replace(one, "resourceID:", "ResourceID:", 1)
					}
					manifest.WriteString(one)
				}
				r, err := env.Run(ctx, stack.Command{Args: []string{"kubectl", "apply", "-f", "-"}, Stdin: manifest.String()})
				if ctx.Err() != nil {
					return
				}
				if err != nil {
					t.Errorf("running kubectl: %v", err)
					return
				}
				l.judge(t, r.Output, batch)
			}
		})
	}
	l.stop = func() {
		cancel()
		group.Wait()
		t.Logf("%d applies, %d of them refused for the object's own mistake, none for another reason", l.applies.Load(), l.refused.Load())
	}
	t.Cleanup(cancel)
	return l
}

// wait waits for a number of applies, however long they take.
func (l *applying) wait(t *testing.T, n int64) {
	t.Helper()
	if err := stack.Poll(t.Context(), func(context.Context) error {
		if l.applies.Load() < n && !t.Failed() {
			return errors.New("not yet")
		}
		return nil
	}); err != nil {
		t.Fatalf("there were %d applies, not %d: %v", l.applies.Load(), n, err)
	}
}

// judge counts the lines of a kubectl run.
func (l *applying) judge(t *testing.T, output string, batch int) {
	t.Helper()
	accepted, refused := 0, 0
	var other []string
	for line := range strings.Lines(output) {
		switch {
		case strings.HasSuffix(line, " created\n"), strings.HasSuffix(line, " configured\n"), strings.HasSuffix(line, " unchanged\n"):
			accepted++
		case strings.Contains(line, `spec.ResourceID: Forbidden: miscapitalised, use "resourceID"`):
			refused++
		case strings.TrimSpace(line) != "":
			other = append(other, line)
		}
	}
	l.applies.Add(int64(accepted + refused))
	l.refused.Add(int64(refused))
	if accepted != batch-batch/10 || refused != batch/10 || len(other) > 0 {
		t.Errorf("%d accepted, %d refused, and:\n%s", accepted, refused, strings.Join(other, ""))
	}
}

// rotate has cert-manager issue a new serving certificate and waits until both
// replicas serve it.
func rotate(t *testing.T) {
	t.Helper()
	certificate := kubectl(t, "get", "mutatingwebhookconfiguration", stack.Release+"-webhook", "-o",
		`jsonpath={.metadata.annotations.cert-manager\.io/inject-ca-from}`)
	_, name, ok := strings.Cut(certificate, "/")
	if !ok {
		t.Fatalf("no certificate is injected into the webhook configuration: %q", certificate)
	}
	secret := kubectl(t, "get", "certificate", name, "-o", "jsonpath={.spec.secretName}")
	before := kubectl(t, "get", "secret", secret, "-o", `jsonpath={.data.tls\.crt}`)
	kubectl(t, "delete", "secret", secret)
	eventually(t, "a new certificate", func(ctx context.Context) error {
		after, err := env.Kubectl(ctx, "", "get", "secret", secret, "--ignore-not-found", "-o", `jsonpath={.data.tls\.crt}`)
		if err == nil && (after == "" || after == before) {
			err = errors.New("the certificate is the old one")
		}
		return err
	})
	// The kubelet looks at a pod's Secrets each minute or so, and when the pod changes.
	kubectl(t, "annotate", "pods", "-l", "component=webhook", "--overwrite", "e2e/rotation="+strconv.FormatInt(time.Now().UnixNano(), 36))
	waitServesSecret(t, secret)
}

// waitServesSecret waits until every replica serves the certificate of a Secret.
func waitServesSecret(t *testing.T, secret string) {
	t.Helper()
	text, err := base64.StdEncoding.DecodeString(kubectl(t, "get", "secret", secret, "-o", `jsonpath={.data.tls\.crt}`))
	if err != nil {
		t.Fatal(err)
	}
	issued, _ := pem.Decode(text)
	if issued == nil {
		t.Fatalf("Secret %s holds no certificate", secret)
	}
	eventually(t, "every replica serves the new certificate", func(ctx context.Context) error {
		// Asked each time: a replica of before may be about to end.
		ips, err := env.Kubectl(ctx, "", "get", "pods", "-l", "component=webhook", "-o", "jsonpath={.items[*].status.podIP}")
		if err == nil && strings.TrimSpace(ips) == "" {
			err = errors.New("there is none")
		}
		if err != nil {
			return err
		}
		for ip := range strings.FieldsSeq(ips) {
			served, err := servedCertificate(ctx, net.JoinHostPort(ip, "9443"))
			if err == nil && !bytes.Equal(served, issued.Bytes) {
				err = errors.New("it serves the old one")
			}
			if err != nil {
				return fmt.Errorf("replica %s: %w", ip, err)
			}
		}
		return nil
	})
}

// webhookPods returns a field of all pods of the webhook.
func webhookPods(t *testing.T, field string) string {
	t.Helper()
	return kubectl(t, "get", "pods", "-l", "component=webhook", "-o", "jsonpath={.items[*]."+field+"}")
}

// servedCertificate returns the certificate, DER encoded, that a server presents.
func servedCertificate(ctx context.Context, address string) ([]byte, error) {
	// The address of a pod that has ended answers nothing at all.
	d := tls.Dialer{NetDialer: &net.Dialer{Timeout: 5 * time.Second}, Config: &tls.Config{InsecureSkipVerify: true}} //nolint:gosec // the certificate itself is compared
	conn, err := d.DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	return conn.(*tls.Conn).ConnectionState().PeerCertificates[0].Raw, nil
}

// TestWebhookAway takes the webhook away: the cluster goes on, pods are created,
// and only our own objects are refused, by an error that names the webhook. Where
// that is passed over, CRDs and policies still refuse.
func TestWebhookAway(t *testing.T) {
	ns := namespace(t)
	id := azureIdentity(t, "away")
	apply(t, identityManifest(ns, "away", id)+bindingManifest(ns, "away", "away", "away"))
	kubectl(t, "scale", webhookDeployment, "--replicas=0")
	t.Cleanup(func() { scaleUp(t) })
	kubectl(t, "wait", "pods", "-l", "component=webhook", "--for=delete", "--timeout=80s")

	out := refused(t, identityManifest(ns, "refused", id), "apply", "-f", "-")
	t.Log(out)
	for _, want := range []string{"mutate.aadpodidentity.k8s.io", stack.Release + "-webhook.default.svc", "failed calling webhook"} {
		if !strings.Contains(out, want) {
			t.Errorf("the error does not say %q", want)
		}
	}
	apply(t, podManifest(ns, "bound", "away")+podManifest(ns, "plain", ""))
	apply(t, podManifest("kube-system", "e2e-away", "away"))
	kubectl(t, "delete", "pod", "-n", "kube-system", "e2e-away", "--wait=false")
	// MIC goes on: the pod has its identity, and gets its tags.
	waitState(t, ns, "bound", "away", "Assigned")
	// What leaves the spec alone asks nobody, and what is there can be taken away.
	kubectl(t, "label", "azureidentity", "-n", ns, "away", "team=a")
	kubectl(t, "patch", "azureidentity", "-n", ns, "away", "--type=merge", "-p", `{"metadata":{"finalizers":["example.com/hold"]}}`)
	kubectl(t, "patch", "azureidentity", "-n", ns, "away", "--type=merge", "-p", `{"metadata":{"finalizers":null}}`)
	kubectl(t, "delete", "azureidentitybinding", "-n", ns, "away")
	waitUnassigned(t, ns, "bound", "away")

	t.Run("the policy holds without the webhook", func(t *testing.T) {
		ignoreWebhook(t)
		if out := refused(t, forged(ns), "create", "-f", "-"); !strings.Contains(out, "ValidatingAdmissionPolicy") {
			t.Errorf("it was not the policy that refused:\n%s", out)
		}
	})

	scaleUp(t)
	eventually(t, "the webhook answers", func(ctx context.Context) error {
		_, err := env.Kubectl(ctx, identityManifest(ns, "accepted", id), "apply", "-f", "-")
		return err
	})
}

func scaleUp(t *testing.T) {
	t.Helper()
	for _, args := range [][]string{
		{"scale", webhookDeployment, "--replicas=2"},
		{"rollout", "status", webhookDeployment, "--timeout=80s"},
	} {
		if _, err := env.Kubectl(context.Background(), "", args...); err != nil {
			t.Error(err)
		}
	}
}

// TestClusterRestart stops everything at once and starts it again: nothing that the
// webhook needs to start may need the webhook.
func TestClusterRestart(t *testing.T) {
	soak.Only(t)
	ns := namespace(t)
	id := azureIdentity(t, "restart")
	apply(t, identityManifest(ns, "restart", id))
	if err := env.Cluster.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := env.Up(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, workload := range []string{webhookDeployment, "deployment/" + stack.Release + "-mic", "daemonset/" + stack.Release + "-nmi"} {
		kubectl(t, "rollout", "status", workload, "--timeout=80s")
	}
	eventually(t, "the webhook answers", func(ctx context.Context) error {
		_, err := env.Kubectl(ctx, identityManifest(ns, "after", id), "apply", "-f", "-")
		return err
	})
	bad := strings.Replace(identityManifest(ns, "bad", id), "resourceID:", "ResourceID:", 1)
	if out := refused(t, bad, "apply", "-f", "-"); !strings.Contains(out, `use "resourceID"`) {
		t.Errorf("a bad object is refused by somebody else:\n%s", out)
	}
}
