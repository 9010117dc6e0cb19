package certs

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

var noon = time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)

// writeCertificate puts a certificate into a directory as the kubelet does for a
// Secret: the files are links into a directory that is swapped by one rename.
func writeCertificate(t *testing.T, dir string, serial int64, from, to time.Time) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: "webhook"}, NotBefore: from, NotAfter: to}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	writeFiles(t, dir, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}))
}

func writeFiles(t *testing.T, dir string, cert, key []byte) {
	t.Helper()
	version := filepath.Join(dir, fmt.Sprintf("..version-%x", sha256.Sum256(cert)))
	if err := os.Mkdir(version, 0o700); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string][]byte{CertFile: cert, KeyFile: key} {
		if err := os.WriteFile(filepath.Join(version, name), text, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Lstat(filepath.Join(dir, name)); err != nil {
			if err := os.Symlink(filepath.Join("..data", name), filepath.Join(dir, name)); err != nil {
				t.Fatal(err)
			}
		}
	}
	old, _ := os.Readlink(filepath.Join(dir, "..data")) // none at first
	next := filepath.Join(dir, "..data_tmp")
	if err := os.Symlink(filepath.Base(version), next); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(next, filepath.Join(dir, "..data")); err != nil {
		t.Fatal(err)
	}
	if old != "" {
		if err := os.RemoveAll(filepath.Join(dir, old)); err != nil {
			t.Fatal(err)
		}
	}
}

func start(t *testing.T, dir string) (*Source, *prometheus.Registry) {
	t.Helper()
	registry := prometheus.NewRegistry()
	s, err := newSource(dir, registry, func() time.Time { return noon })
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
