package certs

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/rest"
	"k8s.io/klog/v2"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/aad-pod-identity/aad-pod-identity/internal/run"
)

// Trust knows which certificate authorities API servers accept a certificate
// from: those in the caBundle of every entry of the webhook configurations.
type Trust struct {
	// name of the MutatingWebhookConfiguration and of the
	// ValidatingWebhookConfiguration.
	name, host string
	now        func() time.Time
	reader     client.Reader
	// prepare needs the API server, to say which resources there are.
	prepare func(context.Context) error
	run     func(context.Context) error
	// prepared is set when synced is complete.
	prepared atomic.Bool
	synced   []func() bool
	// distrust is what Ready said last about entries that do not count.
	distrust   string
	distrustMu sync.Mutex
}

// NewTrust prepares the watch of the two webhook configurations of a name, which
// begins with Run. Host is the name by which API servers know the webhook.
func NewTrust(config *rest.Config, name, host string) (*Trust, error) {
	scheme := runtime.NewScheme()
	if err := addWebhookConfigurations(scheme); err != nil {
		return nil, err
	}
	// With this selector a role that names the objects suffices.
	only := cache.ByObject{Field: fields.OneTermEqualSelector("metadata.name", name)}
	kinds := []client.Object{&admissionv1.MutatingWebhookConfiguration{}, &admissionv1.ValidatingWebhookConfiguration{}}
	c, err := cache.New(config, cache.Options{
		Scheme:           scheme,
		DefaultTransform: cache.TransformStripManagedFields(),
		ByObject:         map[client.Object]cache.ByObject{kinds[0]: only, kinds[1]: only},
	})
	if err != nil {
		return nil, fmt.Errorf("preparing the watch of the webhook configurations: %w", err)
	}
	t := &Trust{name: name, host: host, now: time.Now, reader: c, run: c.Start}
	t.prepare = func(ctx context.Context) error {
		var synced []func() bool
		for _, kind := range kinds {
			informer, err := c.GetInformer(ctx, kind, cache.BlockUntilSynced(false))
			if err != nil {
				return fmt.Errorf("watching %T %s: %w", kind, name, err)
			}
			synced = append(synced, informer.HasSynced)
		}
		t.synced = synced
		t.prepared.Store(true)
		return nil
	}
	return t, nil
}

func addWebhookConfigurations(scheme *runtime.Scheme) error {
	if err := admissionv1.AddToScheme(scheme); err != nil {
		return fmt.Errorf("registering the API types: %w", err)
	}
	return nil
}

// Run watches the configurations, as soon as there is an API server, until ctx ends.
func (t *Trust) Run(ctx context.Context) error {
	if err := run.Retry(ctx, "to watch the webhook configurations", t.prepare); err != nil {
		return nil //nolint:nilerr // ctx has ended: an orderly stop
	}
	if err := t.run(ctx); err != nil {
		return fmt.Errorf("watching the webhook configurations: %w", err)
	}
	return nil
}

// Check says why API servers would not accept the certificate in every call, or
// nil.
func (t *Trust) Check(ctx context.Context, cert *tls.Certificate) error {
	entries, err := t.entries(ctx)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if err := accepts(e.caBundle, cert, t.host, t.now()); err != nil {
			return fmt.Errorf("%s: %w", e.name, err)
		}
	}
	return nil
}

// Ready says why a replica that serves the certificate must not be called, or nil.
// Only the entries without which an API server refuses writes count: another one,
// new perhaps and still without caBundle, must not take the replica out for those
// that work. Where there are no entries that count, one that works suffices.
func (t *Trust) Ready(ctx context.Context, cert *tls.Certificate) error {
	entries, err := t.entries(ctx)
	if err != nil {
		return err
	}
	var required, others []error
	counted, works := false, len(entries) == 0
	for _, e := range entries {
		err := accepts(e.caBundle, cert, t.host, t.now())
		counted = counted || e.fails
		switch {
		case err == nil:
			works = true
		case e.fails:
			required = append(required, fmt.Errorf("%s: %w", e.name, err))
		default:
			others = append(others, fmt.Errorf("%s: %w", e.name, err))
		}
	}
	switch {
	case len(required) > 0:
		return required[0]
	case !counted && !works:
		return others[0]
	}
	t.logDistrust(ctx, errors.Join(others...))
	return nil
}

// logDistrust logs what is wrong with the entries that do not count, each time it
// changes.
func (t *Trust) logDistrust(ctx context.Context, err error) {
	text := ""
	if err != nil {
		text = err.Error()
	}
	t.distrustMu.Lock()
	changed := text != t.distrust
	t.distrust = text
	t.distrustMu.Unlock()
	switch {
	case !changed:
	case err != nil:
		klog.FromContext(ctx).Error(err, "API servers do not accept the serving certificate for webhooks whose failurePolicy is Ignore")
	default:
		klog.FromContext(ctx).Info("API servers accept the serving certificate for every webhook")
	}
}

// entries of both configurations, from the watch.
func (t *Trust) entries(ctx context.Context) ([]entry, error) {
	notYet := errors.New("the webhook configurations are not known yet")
	if !t.prepared.Load() {
		return nil, notYet
	}
	for _, synced := range t.synced {
		if !synced() {
			return nil, notYet
		}
	}
	return readEntries(ctx, t.reader, t.name)
}

// entry is one webhook of a configuration.
type entry struct {
	name     string
	caBundle []byte
	// fails is set if API servers refuse what they cannot ask the webhook about.
	fails bool
}

// readEntries reads both configurations. One that does not exist is an error; what
// was read before it is returned as well.
func readEntries(ctx context.Context, r client.Reader, name string) ([]entry, error) {
	var entries []entry
	add := func(kind, webhook string, c admissionv1.WebhookClientConfig, policy *admissionv1.FailurePolicyType) {
		entries = append(entries, entry{
			name:     fmt.Sprintf("%s %s, webhook %s", kind, name, webhook),
			caBundle: c.CABundle,
			fails:    policy == nil || *policy == admissionv1.Fail, // the API's default
		})
	}
	var mutating admissionv1.MutatingWebhookConfiguration
	if err := r.Get(ctx, client.ObjectKey{Name: name}, &mutating); err != nil {
		return entries, unreadable("MutatingWebhookConfiguration", name, err)
	}
	for _, w := range mutating.Webhooks {
		add("MutatingWebhookConfiguration", w.Name, w.ClientConfig, w.FailurePolicy)
	}
	var validating admissionv1.ValidatingWebhookConfiguration
	if err := r.Get(ctx, client.ObjectKey{Name: name}, &validating); err != nil {
		return entries, unreadable("ValidatingWebhookConfiguration", name, err)
	}
	for _, w := range validating.Webhooks {
		add("ValidatingWebhookConfiguration", w.Name, w.ClientConfig, w.FailurePolicy)
	}
	return entries, nil
}

func unreadable(kind, name string, err error) error {
	if apierrors.IsNotFound(err) {
		return fmt.Errorf("%s %s does not exist: %w", kind, name, err)
	}
	return fmt.Errorf("reading %s %s: %w", kind, name, err)
}

// accepts says why a client with a CA bundle does not accept the certificate.
func accepts(caBundle []byte, cert *tls.Certificate, host string, now time.Time) error {
	if len(caBundle) == 0 {
		return errors.New("no CA has been put into its caBundle yet")
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(caBundle) {
		return errors.New("its caBundle holds no certificate")
	}
	intermediates := x509.NewCertPool()
	for _, der := range cert.Certificate[1:] {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return fmt.Errorf("the serving certificate's chain: %w", err)
		}
		intermediates.AddCert(c)
	}
	_, err := cert.Leaf.Verify(x509.VerifyOptions{
		DNSName: host, Roots: roots, Intermediates: intermediates, CurrentTime: now,
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	})
	if err != nil {
		return fmt.Errorf("its caBundle does not vouch for the serving certificate: %w", err)
	}
	return nil
}
