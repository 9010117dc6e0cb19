package certs

import (
	"context"
	"crypto/tls"
	"fmt"
	"time"

	"k8s.io/klog/v2"

	"github.com/aad-pod-identity/aad-pod-identity/internal/logkey"
)

const (
	// warnCheckInterval is how often the certificate is looked at.
	warnCheckInterval = 10 * time.Minute
	// warnRetryInterval is how long after a failure an event is tried again.
	warnRetryInterval = time.Minute
	// warnInterval is the least time between two warnings.
	warnInterval = 24 * time.Hour
)

// Warner tells people that the serving certificate is about to expire, or has:
// then whatever renews it does not. At most once a day it writes a log line and
// an event.
type Warner struct {
	current func() (*tls.Certificate, error)
	within  time.Duration
	event   func(ctx context.Context, reason, note string) error
	now     func() time.Time
}

// NewWarner makes a Warner of a source that warns within a time before the end of
// the certificate's life, at most a tenth of that life, since short-lived
// certificates are renewed late. Event writes the event.
func NewWarner(source *Source, within time.Duration, event func(ctx context.Context, reason, note string) error) *Warner {
	return &Warner{current: source.Current, within: within, event: event, now: time.Now}
}

// Run looks at the certificate until ctx ends.
func (w *Warner) Run(ctx context.Context) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	var last time.Time
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-timer.C:
		}
		if _, err := w.current(); err != nil {
			timer.Reset(retryInterval) // at the start the certificate is not read yet
			continue
		}
		warned, err := w.warn(ctx, last)
		if warned {
			last = w.now()
		}
		if err != nil {
			timer.Reset(warnRetryInterval)
			continue
		}
		timer.Reset(warnCheckInterval)
	}
}

// warn warns if there is reason to, and if the last warning is old enough. An
// event that could not be written is an error and no warning: it is tried again.
func (w *Warner) warn(ctx context.Context, last time.Time) (bool, error) {
	now := w.now()
	cert, err := w.current()
	if err != nil || now.Sub(last) < warnInterval {
		return false, nil //nolint:nilerr // without a certificate there is nothing to warn of
	}
	reason, note := warning(cert.Leaf.NotBefore, cert.Leaf.NotAfter, w.within, now)
	if reason == "" {
		return false, nil
	}
	logger := klog.FromContext(ctx)
	logger.Error(nil, note, logkey.Reason, reason)
	if err := w.event(ctx, reason, note); err != nil {
		logger.Error(err, "Cannot write the event about the serving certificate", logkey.Reason, reason)
		return false, err
	}
	return true, nil
}

// Reasons of events.
const (
	reasonExpiring = "CertificateExpiring"
	reasonExpired  = "CertificateExpired"
)

// warning says what is wrong with a life from one time to another, or "".
func warning(from, to time.Time, within time.Duration, now time.Time) (reason, note string) {
	left := to.Sub(now)
	end := to.UTC().Format(time.RFC3339)
	const advice = "it should have been renewed by now, see docs/certificates.md"
	switch {
	case left < 0:
		return reasonExpired, fmt.Sprintf("The serving certificate of the webhook expired at %s: %s", end, advice)
	case left < min(within, to.Sub(from)/10):
		return reasonExpiring, fmt.Sprintf("The serving certificate of the webhook expires at %s, in %s: %s", end, left.Round(time.Minute), advice)
	}
	return "", ""
}
