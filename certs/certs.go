// Package certs provides the serving certificate of the webhook, and knows
// whether API servers accept it.
//
// Source reads the certificate from files and rereads them without a restart when
// they change; watching them is controller-runtime's certwatcher. Trust knows the
// certificate authorities in the webhook configurations, which API servers go by.
// Warner tells people of a certificate that nobody renews.
//
// Where the files come from is the mode of the chart. By default they are those of
// a Secret that cert-manager issues and renews, and somebody else's Secret can be
// mounted in its place; this package needs to know nothing of that. Without either,
// SelfSigned makes, renews and publishes the certificate.
package certs

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/klog/v2"
	"sigs.k8s.io/controller-runtime/pkg/certwatcher"

	"github.com/aad-pod-identity/aad-pod-identity/internal/logkey"
	"github.com/aad-pod-identity/aad-pod-identity/internal/metric"
)

// Names of the files, as in a Secret of type kubernetes.io/tls.
const (
	CertFile = "tls.crt"
	KeyFile  = "tls.key"
)

// retryInterval is how often files that are not there yet are looked for.
const retryInterval = time.Second

// Source is the serving certificate in a directory. The directory may be empty
// at first: cert-manager issues the certificate in its own time.
type Source struct {
	certPath, keyPath string
	host              string
	now               func() time.Time
	watcher           atomic.Pointer[certwatcher.CertWatcher]
	missing           atomic.Pointer[error]
}

// NewSource makes the source of a directory and registers the expiry metric. Host
// is the name by which clients know the server, "" to leave it unchecked. Nothing
// is read before Run.
func NewSource(dir, host string, registry prometheus.Registerer) (*Source, error) {
	return newSource(dir, host, registry, time.Now)
}

func newSource(dir, host string, registry prometheus.Registerer, now func() time.Time) (*Source, error) {
	s := &Source{certPath: filepath.Join(dir, CertFile), keyPath: filepath.Join(dir, KeyFile), host: host, now: now}
	expiry := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Namespace: metric.Namespace,
		Name:      "webhook_certificate_expiry_timestamp_seconds",
		Help:      "When the serving certificate of the webhook expires, in seconds since 1970; 0 while there is none.",
	}, s.expiry)
	if err := registry.Register(expiry); err != nil {
		return nil, fmt.Errorf("registering the certificate metric: %w", err)
	}
	return s, nil
}

// Run waits for the files, then rereads them whenever they change, until ctx
// ends.
func (s *Source) Run(ctx context.Context) error {
	watcher, err := s.wait(ctx)
	if err != nil {
		return nil //nolint:nilerr // ctx has ended: an orderly stop
	}
	s.watcher.Store(watcher)
	if err := watcher.Start(ctx); err != nil && ctx.Err() == nil {
		return fmt.Errorf("watching the serving certificate %s: %w", s.certPath, err)
	}
	return nil
}

func (s *Source) wait(ctx context.Context) (*certwatcher.CertWatcher, error) {
	tick := time.NewTicker(retryInterval)
	defer tick.Stop()
	said := ""
	for {
		watcher, err := certwatcher.New(s.certPath, s.keyPath)
		if err == nil {
			return watcher, nil
		}
		s.missing.Store(&err)
		if said != err.Error() {
			said = err.Error()
			klog.FromContext(ctx).Error(err, "Waiting for the serving certificate", logkey.File, s.certPath)
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-tick.C:
		}
	}
}

// GetCertificate returns the current certificate, for tls.Config.
func (s *Source) GetCertificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	watcher := s.watcher.Load()
	if watcher == nil {
		return nil, s.absent()
	}
	return watcher.GetCertificate(hello)
}

// Current returns the certificate that is served now.
func (s *Source) Current() (*tls.Certificate, error) {
	cert, err := s.GetCertificate(nil)
	switch {
	case err != nil:
		return nil, err
	case cert == nil || cert.Leaf == nil:
		return nil, s.absent()
	}
	return cert, nil
}

// Check says why no client can accept the certificate: absent, unreadable,
// expired, not yet valid or for another host. Nil means that a client that trusts
// its issuer can.
func (s *Source) Check(context.Context) error {
	cert, err := s.Current()
	if err != nil {
		return err
	}
	return usable(cert.Leaf, s.host, s.now())
}

func usable(leaf *x509.Certificate, host string, now time.Time) error {
	switch {
	case now.After(leaf.NotAfter):
		return fmt.Errorf("the serving certificate expired at %s", leaf.NotAfter.UTC().Format(time.RFC3339))
	case now.Before(leaf.NotBefore):
		return fmt.Errorf("the serving certificate is not valid before %s", leaf.NotBefore.UTC().Format(time.RFC3339))
	}
	if host == "" {
		return nil
	}
	if err := leaf.VerifyHostname(host); err != nil {
		return fmt.Errorf("the serving certificate is not for this webhook: %w", err)
	}
	return nil
}

func (s *Source) absent() error {
	if err := s.missing.Load(); err != nil {
		return fmt.Errorf("no serving certificate: %w", *err)
	}
	return errors.New("no serving certificate: not read yet")
}

func (s *Source) expiry() float64 {
	if cert, err := s.Current(); err == nil {
		return float64(cert.Leaf.NotAfter.Unix())
	}
	return 0
}
