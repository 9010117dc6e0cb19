package certs

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

const day = 24 * time.Hour

func TestWarning(t *testing.T) {
	tests := map[string]struct {
		life, left, within time.Duration
		reason, note       string
	}{
		"a fresh certificate":                          {life: 90 * day, left: 90 * day, within: 7 * day},
		"one that is to be renewed by now, but may":    {life: 90 * day, left: 29 * day, within: 7 * day},
		"a week before the end":                        {life: 90 * day, left: 7*day - time.Minute, within: 7 * day, reason: reasonExpiring, note: "The serving certificate of the webhook expires at 2026-01-09T11:59:00Z, in 167h59m0s: it should have been renewed by now, see docs/certificates.md"},
		"a short-lived one, renewed a day before":      {life: 10 * day, left: 2 * day, within: 7 * day},
		"the last tenth of a short life":               {life: 10 * day, left: day - time.Hour, within: 7 * day, reason: reasonExpiring, note: "The serving certificate of the webhook expires at 2026-01-03T11:00:00Z, in 23h0m0s: it should have been renewed by now, see docs/certificates.md"},
		"expired":                                      {life: 90 * day, left: -time.Second, within: 7 * day, reason: reasonExpired, note: "The serving certificate of the webhook expired at 2026-01-02T11:59:59Z: it should have been renewed by now, see docs/certificates.md"},
		"expired, where nobody wants an early warning": {life: 90 * day, left: -day, reason: reasonExpired, note: "The serving certificate of the webhook expired at 2026-01-01T12:00:00Z: it should have been renewed by now, see docs/certificates.md"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			end := noon.Add(tt.left)
			reason, note := warning(end.Add(-tt.life), end, tt.within, noon)
			if reason != tt.reason || note != tt.note {
				t.Errorf("got %q %q, want %q %q", reason, note, tt.reason, tt.note)
			}
		})
	}
}

// leaf is a certificate of 90 days.
func leaf(end time.Time) *tls.Certificate {
	return &tls.Certificate{Leaf: &x509.Certificate{NotBefore: end.Add(-90 * day), NotAfter: end}}
}

// TestWarner follows a certificate that nobody renews, and one that somebody does.
func TestWarner(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begin := time.Now()
		cert, away := leaf(begin.Add(10*day)), false
		var got []string
		w := &Warner{
			current: func() (*tls.Certificate, error) {
				if cert == nil {
					return nil, errors.New("none yet")
				}
				return cert, nil
			},
			within: 7 * day,
			now:    time.Now,
			event: func(_ context.Context, reason, _ string) error {
				if away {
					return errors.New("the API server is away")
				}
				got = append(got, fmt.Sprintf("day %d: %s", time.Since(begin)/day, reason))
				return nil
			},
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- w.Run(ctx) }()

		pass := func(d time.Duration) { <-time.After(d); synctest.Wait() }
		pass(4*day + 12*time.Hour) // days 3 and 4
		away = true
		pass(2 * day) // to the middle of day 6
		away = false
		pass(4*day + 12*time.Hour) // to the beginning of day 11
		cert = nil
		pass(2 * day)
		cert = leaf(time.Now().Add(90 * day))
		pass(30 * day)
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		want := []string{
			"day 3: CertificateExpiring", "day 4: CertificateExpiring",
			"day 6: CertificateExpiring", "day 7: CertificateExpiring", "day 8: CertificateExpiring", "day 9: CertificateExpiring",
			"day 10: CertificateExpired",
		}
		if !slices.Equal(got, want) {
			t.Errorf("got  %q\nwant %q", got, want)
		}
	})
}

// TestWarnerTriesAgain: an event that could not be written does not wait for the next look.
func TestWarnerTriesAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begin := time.Now()
		end := begin.Add(3 * day)
		var at []time.Duration
		w := &Warner{
			current: func() (*tls.Certificate, error) {
				return leaf(end), nil
			},
			within: 7 * day,
			now:    time.Now,
			event: func(context.Context, string, string) error {
				if at = append(at, time.Since(begin)); len(at) < 3 {
					return errors.New("forbidden")
				}
				return nil
			},
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- w.Run(ctx) }()
		<-time.After(time.Hour)
		cancel()
		want := []time.Duration{0, time.Minute, 2 * time.Minute}
		if err := <-ended; err != nil || !slices.Equal(at, want) {
			t.Errorf("tried at %v (%v), want %v", at, err, want)
		}
	})
}

// TestWarnerAtTheStart: the certificate is read after the first look, and is late.
func TestWarnerAtTheStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begin := time.Now()
		end := begin.Add(3 * day)
		var at []time.Duration
		w := &Warner{
			current: func() (*tls.Certificate, error) {
				if time.Since(begin) < 2*time.Second {
					return nil, errors.New("none yet")
				}
				return leaf(end), nil
			},
			within: 7 * day,
			now:    time.Now,
			event: func(context.Context, string, string) error {
				at = append(at, time.Since(begin))
				return nil
			},
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- w.Run(ctx) }()
		<-time.After(5 * time.Second)
		cancel()
		if err := <-ended; err != nil || len(at) != 1 || at[0] > 3*time.Second {
			t.Errorf("warned at %v (%v), want once, as soon as there is a certificate", at, err)
		}
	})
}
