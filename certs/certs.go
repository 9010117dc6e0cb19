// Package certs provides the serving certificate of the webhook: read from the
// files of a mounted Secret, reread without a restart when they change, and
// reported as ready only while clients can accept it.
//
// The chart's default is a Certificate of cert-manager, which renews the Secret
// and has its CA injected into the webhook configurations; this package needs to
// know nothing of that. Watching the files is controller-runtime's certwatcher.
package certs

import (
	"context"
	"crypto/tls"
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
	now               func() time.Time
	watcher           atomic.Pointer[certwatcher.CertWatcher]
	missing           atomic.Pointer[error]
}

// NewSource makes the source of a directory and registers the expiry metric.
// Nothing is read before Run.
func NewSource(dir string, registry prometheus.Registerer) (*Source, error) {
	return newSource(dir, registry, time.Now)
}

func newSource(dir string, registry prometheus.Registerer, now func() time.Time) (*Source, error) {
	s := &Source{certPath: filepath.Join(dir, CertFile), keyPath: filepath.Join(dir, KeyFile), now: now}
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

// Check says why clients cannot accept the certificate: absent, unreadable,
// expired or not yet valid. Nil means that they can.
func (s *Source) Check(context.Context) error {
	cert, err := s.GetCertificate(nil)
	switch {
	case err != nil:
		return err
	case cert == nil || cert.Leaf == nil:
		return s.absent()
	}
	switch now := s.now(); {
	case now.After(cert.Leaf.NotAfter):
		return fmt.Errorf("the serving certificate expired at %s", cert.Leaf.NotAfter.UTC().Format(time.RFC3339))
	case now.Before(cert.Leaf.NotBefore):
		return fmt.Errorf("the serving certificate is not valid before %s", cert.Leaf.NotBefore.UTC().Format(time.RFC3339))
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
	if cert, err := s.GetCertificate(nil); err == nil && cert != nil && cert.Leaf != nil {
		return float64(cert.Leaf.NotAfter.Unix())
	}
	return 0
}
