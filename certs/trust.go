package certs

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"time"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// Trust knows which certificate authorities API servers accept a certificate
// from: those in the caBundle of every entry of the webhook configurations.
type Trust struct {
	// name of the MutatingWebhookConfiguration and of the
	// ValidatingWebhookConfiguration.
	name, host string
	now        func() time.Time
	reader     client.Reader
	run        func(context.Context) error
	synced     []func() bool
}

// NewTrust prepares the watch of the two webhook configurations of a name, which
// begins with Run. Host is the name by which API servers know the webhook.
func NewTrust(ctx context.Context, config *rest.Config, name, host string) (*Trust, error) {
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
	for _, kind := range kinds {
		informer, err := c.GetInformer(ctx, kind, cache.BlockUntilSynced(false))
		if err != nil {
			return nil, fmt.Errorf("watching %T %s: %w", kind, name, err)
		}
		t.synced = append(t.synced, informer.HasSynced)
	}
	return t, nil
}

func addWebhookConfigurations(scheme *runtime.Scheme) error {
	if err := admissionv1.AddToScheme(scheme); err != nil {
		return fmt.Errorf("registering the API types: %w", err)
	}
	return nil
}

// Run watches the configurations until ctx ends.
func (t *Trust) Run(ctx context.Context) error {
	if err := t.run(ctx); err != nil {
		return fmt.Errorf("watching the webhook configurations: %w", err)
	}
	return nil
}

// Check says why API servers would not accept the certificate, or nil.
func (t *Trust) Check(ctx context.Context, cert *tls.Certificate) error {
	for _, synced := range t.synced {
		if !synced() {
			return errors.New("the webhook configurations are not known yet")
		}
	}
	entries, err := readEntries(ctx, t.reader, t.name)
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

// entry is one webhook of a configuration.
type entry struct {
	name     string
	caBundle []byte
}

// readEntries reads both configurations. One that does not exist is an error; what
// was read before it is returned as well.
func readEntries(ctx context.Context, r client.Reader, name string) ([]entry, error) {
	var entries []entry
	add := func(kind, webhook string, c admissionv1.WebhookClientConfig) {
		entries = append(entries, entry{fmt.Sprintf("%s %s, webhook %s", kind, name, webhook), c.CABundle})
	}
	var mutating admissionv1.MutatingWebhookConfiguration
	if err := r.Get(ctx, client.ObjectKey{Name: name}, &mutating); err != nil {
		return entries, unreadable("MutatingWebhookConfiguration", name, err)
	}
	for _, w := range mutating.Webhooks {
		add("MutatingWebhookConfiguration", w.Name, w.ClientConfig)
	}
	var validating admissionv1.ValidatingWebhookConfiguration
	if err := r.Get(ctx, client.ObjectKey{Name: name}, &validating); err != nil {
		return entries, unreadable("ValidatingWebhookConfiguration", name, err)
	}
	for _, w := range validating.Webhooks {
		add("ValidatingWebhookConfiguration", w.Name, w.ClientConfig)
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
