package certs

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

var noon = time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)

// writeCertificate puts a certificate into a directory.
func writeCertificate(t *testing.T, dir string, serial int64, from, to time.Time) {
	t.Helper()
	cert, key := newAuthority(t, "ca", noon.AddDate(-1, 0, 0), noon.AddDate(1, 0, 0)).issue(t, serial, testHost, from, to)
	writeFiles(t, dir, cert, key)
}

func writeFiles(t *testing.T, dir string, cert, key []byte) {
	t.Helper()
	if err := publish(dir, cert, key); err != nil {
		t.Fatal(err)
	}
}

func start(t *testing.T, dir string) (*Source, *prometheus.Registry) {
	t.Helper()
	registry := prometheus.NewRegistry()
	s, err := newSource(dir, testHost, registry, func() time.Time { return noon })
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	return s, registry
}

func waitFor(t *testing.T, what string, done func() bool) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(time.Minute)
	for !done() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

func serial(s *Source) int64 {
	cert, err := s.GetCertificate(nil)
	if err != nil || cert == nil {
		return 0
	}
	return cert.Leaf.SerialNumber.Int64()
}

func TestCertificateArrivesAndIsRenewed(t *testing.T) {
	dir := t.TempDir()
	s, registry := start(t, dir)
	waitFor(t, "the reason in the check", func() bool {
		err := s.Check(t.Context())
		return err != nil && strings.Contains(err.Error(), "no such file or directory")
	})
	if _, err := s.GetCertificate(nil); err == nil {
		t.Error("there is a certificate before there are files")
	}

	expiry := noon.Add(time.Hour)
	writeCertificate(t, dir, 1, noon.Add(-time.Hour), expiry)
	waitFor(t, "the first certificate", func() bool { return serial(s) == 1 })
	if err := s.Check(t.Context()); err != nil {
		t.Errorf("the check says %v", err)
	}
	if n, err := testutil.GatherAndCount(registry, "aadpodidentity_webhook_certificate_expiry_timestamp_seconds"); n != 1 || err != nil {
		t.Errorf("%d metrics, %v", n, err)
	}
	if got, want := s.expiry(), float64(expiry.Unix()); got != want {
		t.Errorf("expiry metric %v, want %v", got, want)
	}

	writeCertificate(t, dir, 2, noon.Add(-time.Minute), noon.Add(2*time.Hour))
	waitFor(t, "the renewed certificate", func() bool { return serial(s) == 2 })
	if got, want := s.expiry(), float64(noon.Add(2*time.Hour).Unix()); got != want {
		t.Errorf("expiry metric %v, want %v", got, want)
	}
}

func TestABadFileDoesNotReplaceAGoodCertificate(t *testing.T) {
	dir := t.TempDir()
	writeCertificate(t, dir, 1, noon.Add(-time.Hour), noon.Add(time.Hour))
	s, _ := start(t, dir)
	waitFor(t, "the certificate", func() bool { return serial(s) == 1 })
	writeFiles(t, dir, []byte("no certificate"), []byte("no key"))
	writeCertificate(t, dir, 3, noon.Add(-time.Hour), noon.Add(time.Hour))
	waitFor(t, "the next good certificate", func() bool {
		if n := serial(s); n != 1 && n != 3 {
			t.Fatalf("serial %d", n)
		}
		return serial(s) == 3
	})
}

func TestCheckKnowsTheTime(t *testing.T) {
	tests := map[string]struct {
		from, to time.Time
		want     string
	}{
		"expired":       {noon.Add(-2 * time.Hour), noon.Add(-time.Hour), "the serving certificate expired at 2026-01-02T11:00:00Z"},
		"not valid yet": {noon.Add(time.Hour), noon.Add(2 * time.Hour), "the serving certificate is not valid before 2026-01-02T13:00:00Z"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			writeCertificate(t, dir, 1, tt.from, tt.to)
			s, _ := start(t, dir)
			waitFor(t, "the certificate", func() bool { return serial(s) == 1 })
			if err := s.Check(t.Context()); err == nil || err.Error() != tt.want {
				t.Errorf("the check says %v, want %s", err, tt.want)
			}
		})
	}
}

func TestCheckKnowsTheHost(t *testing.T) {
	dir := t.TempDir()
	cert, key := newAuthority(t, "ca", noon, noon.AddDate(1, 0, 0)).issue(t, 1, "webhook.elsewhere.svc", noon, noon.Add(time.Hour))
	writeFiles(t, dir, cert, key)
	s, _ := start(t, dir)
	waitFor(t, "the certificate", func() bool { return serial(s) == 1 })
	want := "the serving certificate is not for this webhook: x509: certificate is valid for webhook.elsewhere.svc, not " + testHost
	if err := s.Check(t.Context()); err == nil || err.Error() != want {
		t.Errorf("the check says %v, want %s", err, want)
	}
}

// A key that does not fit its certificate is no reason to stop serving the one
// before it.
func TestAKeyThatDoesNotFit(t *testing.T) {
	dir := t.TempDir()
	ca := newAuthority(t, "ca", noon.AddDate(-1, 0, 0), noon.AddDate(1, 0, 0))
	cert, _ := ca.issue(t, 1, testHost, noon, noon.Add(time.Hour))
	_, otherKey := ca.issue(t, 2, testHost, noon, noon.Add(time.Hour))
	writeFiles(t, dir, cert, otherKey)
	s, _ := start(t, dir)
	waitFor(t, "the reason in the check", func() bool {
		err := s.Check(t.Context())
		return err != nil && strings.Contains(err.Error(), "private key does not match public key")
	})
	writeCertificate(t, dir, 3, noon, noon.Add(time.Hour))
	waitFor(t, "the good certificate", func() bool { return s.Check(t.Context()) == nil })
	writeFiles(t, dir, cert, otherKey)
	writeCertificate(t, dir, 4, noon, noon.Add(time.Hour))
	waitFor(t, "the next good certificate", func() bool {
		if err := s.Check(t.Context()); err != nil {
			t.Fatal(err)
		}
		return serial(s) == 4
	})
}

func TestPublishReplacesBothFilesAtOnce(t *testing.T) {
	dir := t.TempDir()
	for _, text := range []string{"first", "second", "second", "third"} {
		writeFiles(t, dir, []byte(text), []byte(text+" key"))
		for name, want := range map[string]string{CertFile: text, KeyFile: text + " key"} {
			if got, err := os.ReadFile(filepath.Join(dir, name)); err != nil || string(got) != want {
				t.Errorf("%s holds %q (%v), want %q", name, got, err, want)
			}
		}
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 4 {
		t.Errorf("the directory holds %v (%v), want the two files, the link and one version", entries, err)
	}
	if err := publish(filepath.Join(dir, CertFile), nil, nil); err == nil {
		t.Error("no error where the directory cannot be written")
	}
}

// A pod whose container restarts finds the files of its predecessor.
func TestPublishOverAHalfWrittenVersion(t *testing.T) {
	dir := t.TempDir()
	writeFiles(t, dir, []byte("first"), []byte("first key"))
	if err := os.Remove(filepath.Join(dir, "..data")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("..data.gone", filepath.Join(dir, "..data.new")); err != nil {
		t.Fatal(err)
	}
	writeFiles(t, dir, []byte("second"), []byte("second key"))
	if got, err := os.ReadFile(filepath.Join(dir, CertFile)); err != nil || string(got) != "second" {
		t.Errorf("%q (%v)", got, err)
	}
}
