package certs

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// settleTime is how long every API server is given to hear of a change of the
// webhook configurations, before a certificate that needs the change is served.
const settleTime = 10 * time.Second

// handover decides when a new certificate takes the place of the one that is
// served. While the old one still does its work the new one waits until every API
// server will accept it.
type handover struct {
	candidate []byte
	// trustedSince is when the candidate was first found trusted, zero while it is not.
	trustedSince time.Time
}

// due is told at each look which certificate is the new one (DER), whether it is
// trusted, and whether the one that is served still does its work.
func (h *handover) due(candidate []byte, trusted, servedWorks bool, now time.Time) bool {
	if !bytes.Equal(h.candidate, candidate) {
		*h = handover{candidate: candidate}
	}
	switch {
	case !servedWorks:
		return true
	case !trusted:
		h.trustedSince = time.Time{}
		return false
	case h.trustedSince.IsZero():
		h.trustedSince = now
	}
	return now.Sub(h.trustedSince) >= settleTime
}

// publish replaces certificate and key of a directory in one step, in the way the
// kubelet replaces the files of a Secret: they are links into a directory whose
// own link is renamed over.
func publish(dir string, cert, key []byte) error {
	const current = "..data"
	version := fmt.Sprintf("..%x", sha256.Sum256(cert))
	if err := os.MkdirAll(filepath.Join(dir, version), 0o700); err != nil {
		return fmt.Errorf("making the directory of the serving certificate: %w", err)
	}
	for name, text := range map[string][]byte{CertFile: cert, KeyFile: key} {
		if err := os.WriteFile(filepath.Join(dir, version, name), text, 0o600); err != nil {
			return fmt.Errorf("writing the serving certificate: %w", err)
		}
	}
	old, err := os.Readlink(filepath.Join(dir, current))
	if err != nil && !os.IsNotExist(err) {
		return fmt.Errorf("replacing the serving certificate: %w", err)
	}
	if err := link(version, filepath.Join(dir, current)); err != nil {
		return err
	}
	for _, name := range []string{CertFile, KeyFile} {
		if err := link(filepath.Join(current, name), filepath.Join(dir, name)); err != nil {
			return err
		}
	}
	if old == "" || old == version {
		return nil
	}
	if err := os.RemoveAll(filepath.Join(dir, old)); err != nil {
		return fmt.Errorf("removing the old serving certificate: %w", err)
	}
	return nil
}

// link makes or replaces a symbolic link.
func link(target, name string) error {
	if now, err := os.Readlink(name); err == nil && now == target {
		return nil
	}
	temporary := name + ".new"
	if err := os.Remove(temporary); err != nil && !os.IsNotExist(err) {
		return fmt.Errorf("replacing the serving certificate: %w", err)
	}
	if err := os.Symlink(target, temporary); err != nil {
		return fmt.Errorf("replacing the serving certificate: %w", err)
	}
	if err := os.Rename(temporary, name); err != nil {
		return fmt.Errorf("replacing the serving certificate: %w", err)
	}
	return nil
}
