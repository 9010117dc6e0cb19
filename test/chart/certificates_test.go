package chart_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
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

	admissionv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

const (
	webhookName = "aad-pod-identity-webhook"
	webhookHost = webhookName + "." + namespace + ".svc"
	selfSecret  = webhookName + "-self-signed"
)

// testServingCertificates runs replicas of the webhook, each a process with the
// chart's arguments and roles, behind a real API server that calls them.
func (s *server) testServingCertificates(t *testing.T) {
	w := &webhookRun{server: s, balancer: startBalancer(t)}
	w.create(t, &corev1.Service{
		// The API server follows the name and dials the balancer, as no cluster network is there.
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: webhookName},
		Spec:       corev1.ServiceSpec{Type: corev1.ServiceTypeExternalName, ExternalName: "localhost"},
	})
	t.Run("a certificate that nobody renews is reported", w.testExpiry)
	t.Run("self-signed certificates take over from others and rotate without a failed call", w.testSelfSigned)
}

type webhookRun struct {
	*server
	balancer *balancer
}

// install makes or replaces what the chart has for the webhook's certificates, as
// Helm does: what was put into the configurations by others stays.
func (w *webhookRun) install(t *testing.T, all objects) {
	t.Helper()
	for key, o := range all {
		kind, name := o.GetKind(), o.GetName()
		switch {
		case kind == "Secret", kind == "ServiceAccount", strings.Contains(kind, "Role"), strings.HasSuffix(kind, "WebhookConfiguration"):
		default:
			continue
		}
		if !strings.HasPrefix(name, webhookName) {
			continue
		}
		o := o.DeepCopy()
		if strings.HasSuffix(kind, "WebhookConfiguration") {
			w.toBalancer(t, o)
		}
		if err := w.c.Apply(t.Context(), client.ApplyConfigurationFromUnstructured(o), client.FieldOwner("helm"), client.ForceOwnership); err != nil {
			t.Fatalf("applying %s: %v", key, err)
		}
	}
}

// toBalancer changes nothing but the Service's port, and how long a call may take: a
// busy machine is no failed call.
func (w *webhookRun) toBalancer(t *testing.T, o *unstructured.Unstructured) {
	t.Helper()
	port, err := strconv.ParseInt(w.balancer.port, 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	webhooks, _, err := unstructured.NestedSlice(o.Object, "webhooks")
	if err != nil {
		t.Fatal(err)
	}
	for _, h := range webhooks {
		hook := h.(map[string]any)
		hook["timeoutSeconds"] = int64(30)
		if err := unstructured.SetNestedField(hook, port, "clientConfig", "service", "port"); err != nil {
			t.Fatal(err)
		}
	}
	if err := unstructured.SetNestedSlice(o.Object, webhooks, "webhooks"); err != nil {
		t.Fatal(err)
	}
}

func (w *webhookRun) start(t *testing.T, all objects, name, certDir string) *replica {
	t.Helper()
	args := arguments(t, all.get(t, "Deployment/"+webhookName))
	return startReplica(t, w.webhook, w.kubeconfigAs(t, webhookName), name, certDir, args)
}

// serviceAccount is a client with the rights of a service account, and no others.
func (w *webhookRun) serviceAccount(t *testing.T, name string) client.Client {
	t.Helper()
	cfg := rest.CopyConfig(w.cfg)
	cfg.Impersonate = rest.ImpersonationConfig{UserName: "system:serviceaccount:" + namespace + ":" + name}
	c, err := client.New(cfg, client.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// inject writes the caBundle of every webhook, as cert-manager's cainjector does.
func (w *webhookRun) inject(t *testing.T, bundle []byte) {
	t.Helper()
	owner := client.FieldOwner("cainjector")
	var m admissionv1.MutatingWebhookConfiguration
	if err := w.c.Get(t.Context(), client.ObjectKey{Name: webhookName}, &m); err != nil {
		t.Fatal(err)
	}
	for i := range m.Webhooks {
		m.Webhooks[i].ClientConfig.CABundle = bundle
	}
	var v admissionv1.ValidatingWebhookConfiguration
	if err := w.c.Get(t.Context(), client.ObjectKey{Name: webhookName}, &v); err != nil {
		t.Fatal(err)
	}
	for i := range v.Webhooks {
		v.Webhooks[i].ClientConfig.CABundle = bundle
	}
	if err := errors.Join(w.c.Update(t.Context(), &m, owner), w.c.Update(t.Context(), &v, owner)); err != nil {
		t.Fatal(err)
	}
}

// bundles returns the caBundle of every webhook.
func (w *webhookRun) bundles(ctx context.Context) ([][]byte, error) {
	var m admissionv1.MutatingWebhookConfiguration
	if err := w.c.Get(ctx, client.ObjectKey{Name: webhookName}, &m); err != nil {
		return nil, err
	}
	var v admissionv1.ValidatingWebhookConfiguration
	if err := w.c.Get(ctx, client.ObjectKey{Name: webhookName}, &v); err != nil {
		return nil, err
	}
	var all [][]byte
	for _, h := range m.Webhooks {
		all = append(all, h.ClientConfig.CABundle)
	}
	for _, h := range v.Webhooks {
		all = append(all, h.ClientConfig.CABundle)
	}
	return all, nil
}

// pace leaves the processors to what happens under load.
const pace = 50 * time.Millisecond

// load applies objects and makes new connections until it is stopped, and fails
// the test for each that does not get through.
type load struct {
	applies, handshakes atomic.Int64
	stop                func()
}

func (w *webhookRun) startLoad(t *testing.T) *load {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	l := &load{}
	var group sync.WaitGroup
	fail := func(what string, err error) {
		if ctx.Err() == nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	for i := range 4 {
		group.Go(func() {
			wait.UntilWithContext(ctx, func(ctx context.Context) {
				o := identity(fmt.Sprintf("load-%d", i))
				if err := w.c.Create(ctx, o, client.DryRunAll); err != nil {
					fail("an apply", err)
				}
				l.applies.Add(1)
			}, pace)
		})
	}
	// The API server keeps connections open; another one might not have any.
	group.Go(func() {
		wait.UntilWithContext(ctx, func(ctx context.Context) {
			if err := w.handshake(ctx); err != nil {
				fail("a new connection", err)
			}
			l.handshakes.Add(1)
		}, pace)
	})
	l.stop = func() {
		cancel()
		group.Wait()
		t.Logf("%d applies and %d new connections", l.applies.Load(), l.handshakes.Load())
		if l.applies.Load() == 0 || l.handshakes.Load() == 0 {
			t.Error("there was no load")
		}
	}
	return l
}

// handshake connects as an API server does: by the caBundle of each webhook.
func (w *webhookRun) handshake(ctx context.Context) error {
	bundles, err := w.bundles(ctx)
	if err != nil {
		return err
	}
	for i, bundle := range bundles {
		if i > 0 && bytes.Equal(bundle, bundles[i-1]) {
			continue
		}
		roots := x509.NewCertPool()
		roots.AppendCertsFromPEM(bundle)
		d := tls.Dialer{Config: &tls.Config{RootCAs: roots, ServerName: webhookHost, MinVersion: tls.VersionTLS12}}
		conn, err := d.DialContext(ctx, "tcp", net.JoinHostPort("127.0.0.1", w.balancer.port))
		if err != nil {
			return err
		}
		if err := conn.Close(); err != nil {
			return err
		}
	}
	return nil
}

func identity(name string) *unstructured.Unstructured {
	return &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "aadpodidentity.k8s.io/v1", "kind": "AzureIdentity",
		"metadata": map[string]any{"namespace": "team-a", "name": name},
		"spec": map[string]any{
			"type":       int64(0),
			"resourceID": "/subscriptions/11111111-1111-1111-1111-111111111111/resourcegroups/rg/providers/Microsoft.ManagedIdentity/userAssignedIdentities/demo",
			"clientID":   "22222222-2222-2222-2222-222222222222",
		},
	}}
}

func (w *webhookRun) testSelfSigned(t *testing.T) {
	// What is there before: an install with cert-manager, of which this test plays the
	// part.
	foreign := newForeignCA(t)
	before := mustRender(t)
	dir := foreign.serve(t, time.Now().Add(-time.Hour), time.Now().Add(90*24*time.Hour))
	w.install(t, before)
	w.inject(t, foreign.pem())
	old := w.start(t, before, "webhook-old", dir)
	old.waitReady(t)
	w.balancer.set(t.Context(), old)
	eventually(t, "the API server calls the webhook", func(ctx context.Context) error {
		return w.c.Create(ctx, identity("first"), client.DryRunAll)
	})
	if err := w.c.Create(t.Context(), misspelt(), client.DryRunAll); err == nil || !strings.Contains(err.Error(), `use "resourceID"`) {
		t.Fatalf("the webhook is not asked: %v", err)
	}

	l := w.startLoad(t)
	all := mustRender(t, "--set", "webhook.certificates.mode=self")
	w.install(t, all)
	one, two := w.start(t, all, "webhook-1", ""), w.start(t, all, "webhook-2", "")
	one.waitReady(t)
	two.waitReady(t)
	w.balancer.set(t.Context(), one, two)
	if err := old.stop(); err != nil {
		t.Errorf("the old replica ended with %v", err)
	}
	if n := w.authorities(t); n != 2 {
		t.Errorf("the configurations have %d authorities after the take-over, want the new and the old one", n)
	}

	change := func(what string, edit func(data map[string][]byte)) {
		t.Helper()
		before := w.secret(t)
		after := before.DeepCopy()
		edit(after.Data)
		if err := w.c.Update(t.Context(), after); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		w.waitServed(t, what, before.Data["tls.crt"], one, two)
	}
	change("a renewed certificate", func(data map[string][]byte) { delete(data, "tls.crt") })
	change("a new authority", func(data map[string][]byte) { delete(data, "ca.key") })
	if n := w.authorities(t); n < 2 {
		t.Errorf("the configurations have %d authorities during the overlap, want the old one, too", n)
	}
	change("a Secret that was emptied", func(data map[string][]byte) { clear(data) })

	// A Secret that was deleted is missed by nobody until Helm makes it again.
	deleted := w.secret(t)
	if err := w.c.Delete(t.Context(), deleted); err != nil {
		t.Fatal(err)
	}
	w.install(t, all)
	w.waitServed(t, "the certificate of a new Secret", deleted.Data["tls.crt"], one, two)

	// A rolling restart.
	three := w.start(t, all, "webhook-3", "")
	three.waitReady(t)
	w.balancer.set(t.Context(), two, three)
	if err := one.stop(); err != nil {
		t.Errorf("%s ended with %v", one.name, err)
	}
	four := w.start(t, all, "webhook-4", "")
	four.waitReady(t)
	w.balancer.set(t.Context(), three, four)
	if err := two.stop(); err != nil {
		t.Errorf("%s ended with %v", two.name, err)
	}
	l.stop()

	t.Run("a bundle that somebody took away comes back", func(t *testing.T) {
		w.inject(t, nil)
		eventually(t, "the bundle is there", w.handshake)
	})

	t.Run("the webhook reads no other Secret", func(t *testing.T) {
		w.create(t, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "other"}})
		c := w.serviceAccount(t, webhookName)
		if err := c.Get(t.Context(), client.ObjectKey{Namespace: namespace, Name: selfSecret}, &corev1.Secret{}); err != nil {
			t.Errorf("its own: %v", err)
		}
		if err := c.Get(t.Context(), client.ObjectKey{Namespace: namespace, Name: "other"}, &corev1.Secret{}); !apierrors.IsForbidden(err) {
			t.Errorf("another one: %v", err)
		}
		if err := c.List(t.Context(), &corev1.SecretList{}, client.InNamespace(namespace)); !apierrors.IsForbidden(err) {
			t.Errorf("all of them: %v", err)
		}
	})
	for _, r := range []*replica{three, four} {
		if err := r.stop(); err != nil {
			t.Errorf("%s ended with %v", r.name, err)
		}
	}
	w.balancer.set(t.Context())
}

func misspelt() *unstructured.Unstructured {
	o := identity("misspelt")
	spec := o.Object["spec"].(map[string]any)
	spec["ResourceID"] = spec["resourceID"]
	delete(spec, "resourceID")
	return o
}

func (w *webhookRun) secret(t *testing.T) *corev1.Secret {
	t.Helper()
	var s corev1.Secret
	if err := w.c.Get(t.Context(), client.ObjectKey{Namespace: namespace, Name: selfSecret}, &s); err != nil {
		t.Fatal(err)
	}
	return &s
}

// waitServed waits until every replica serves the certificate of the Secret, which
// is another than before.
func (w *webhookRun) waitServed(t *testing.T, what string, before []byte, replicas ...*replica) {
	t.Helper()
	for _, r := range replicas {
		eventually(t, r.name+" serves "+what, func(ctx context.Context) error {
			now := w.secret(t).Data["tls.crt"]
			block, _ := pem.Decode(now)
			if block == nil || bytes.Equal(now, before) {
				return errors.New("there is none yet")
			}
			served, err := r.served(ctx)
			if err == nil && !bytes.Equal(served, block.Bytes) {
				err = errors.New("it serves another one")
			}
			return err
		})
	}
}

// authorities counts the certificates in the bundles, which must all be the same.
func (w *webhookRun) authorities(t *testing.T) int {
	t.Helper()
	bundles, err := w.bundles(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range bundles {
		if !bytes.Equal(b, bundles[0]) {
			t.Error("the webhooks' bundles differ")
		}
	}
	return bytes.Count(bundles[0], []byte("BEGIN CERTIFICATE"))
}

func (w *webhookRun) testExpiry(t *testing.T) {
	foreign := newForeignCA(t)
	all := mustRender(t, foreign.values(t)...)
	w.install(t, all)
	w.create(t, &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "webhook-late"},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "webhook", Image: "webhook"}}},
	})
	// It has 90 days, and all but three are over.
	dir := foreign.serve(t, time.Now().Add(-87*24*time.Hour), time.Now().Add(3*24*time.Hour))
	r := w.start(t, all, "webhook-late", dir)
	r.waitReady(t)
	var found eventsv1.Event
	eventually(t, "there is an event about the pod", func(ctx context.Context) error {
		var list eventsv1.EventList
		if err := w.c.List(ctx, &list, client.InNamespace(namespace)); err != nil {
			return err
		}
		for _, e := range list.Items {
			if e.Regarding.Name == "webhook-late" {
				found = e
				return nil
			}
		}
		return errors.New("none")
	})
	if found.Reason != "CertificateExpiring" || found.Type != corev1.EventTypeWarning || found.Regarding.Kind != "Pod" || found.Regarding.UID != "webhook-late-uid" ||
		!strings.HasPrefix(found.Note, "The serving certificate of the webhook expires at ") {
		t.Errorf("the event is %+v", found)
	}

	t.Run("a certificate that the caBundle does not vouch for makes it unready", func(t *testing.T) {
		newForeignCA(t).write(t, dir, time.Now().Add(-time.Hour), time.Now().Add(time.Hour))
		eventually(t, "the probe says so", func(ctx context.Context) error {
			err := r.ready(ctx)
			if err == nil || !strings.Contains(err.Error(), "its caBundle does not vouch for the serving certificate") {
				return fmt.Errorf("it says %w", cmpErr(err))
			}
			return nil
		})
	})
	t.Run("an expired certificate makes it unready", func(t *testing.T) {
		foreign.write(t, dir, time.Now().Add(-2*time.Hour), time.Now().Add(-time.Hour))
		eventually(t, "the probe says so", func(ctx context.Context) error {
			err := r.ready(ctx)
			if err == nil || !strings.Contains(err.Error(), "the serving certificate expired at") {
				return fmt.Errorf("it says %w", cmpErr(err))
			}
			return nil
		})
	})
	if err := r.stop(); err != nil {
		t.Errorf("it ended with %v", err)
	}
	if !strings.Contains(r.log.String(), "The serving certificate of the webhook expires at ") {
		t.Errorf("the log does not say that the certificate expires:\n%s", r.log)
	}
}

// cmpErr makes an absent error printable.
func cmpErr(err error) error {
	if err == nil {
		return errors.New("that all is well")
	}
	return err
}
