package certs

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

const (
	caFile = "ca.crt"
	// overlapTime is how long authorities stay trusted after a new one took over.
	// Replicas and API servers need seconds; a day leaves room for a node that was
	// cut off.
	overlapTime = 24 * time.Hour
	// backdated is how far in the past cert-controller lets certificates begin.
	backdated = time.Hour
)

// overlapping is the client that cert-controller writes with. Whenever it writes
// the Secret, the authorities that API servers trust already are kept beside the
// new one, since cert-controller puts the whole of ca.crt into the webhook
// configurations: so neither a new authority, nor a Secret that was emptied, nor a
// release that used cert-manager before, leaves a replica without clients.
type overlapping struct {
	client.Client
	// live reads past the caches.
	live          client.Reader
	secret        types.NamespacedName
	configuration string
	now           func() time.Time
}

// Update implements client.Writer.
func (c overlapping) Update(ctx context.Context, obj client.Object, opts ...client.UpdateOption) error {
	if secret, ok := obj.(*corev1.Secret); ok && client.ObjectKeyFromObject(secret) == c.secret {
		trusted, err := readEntries(ctx, c.live, c.configuration)
		if err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("finding out which authorities are trusted: %w", err)
		}
		var bundles []byte
		for _, e := range trusted {
			bundles = append(append(bundles, e.caBundle...), '\n')
		}
		secret.Data[caFile] = overlap(secret.Data[caFile], bundles, c.now())
	}
	return c.Client.Update(ctx, obj, opts...)
}

// overlap returns a bundle that begins with the current authority, the first of
// own, and goes on with the others of own and trusted that are still needed: none
// once the current one has been there for the overlap time.
func overlap(own, trusted []byte, now time.Time) []byte {
	all := certificates(own)
	if len(all) == 0 {
		return own
	}
	current := all[0]
	keep := []*x509.Certificate{current}
	if now.Before(current.NotBefore.Add(backdated + overlapTime)) {
		for _, c := range append(all[1:], certificates(trusted)...) {
			known := slices.ContainsFunc(keep, func(k *x509.Certificate) bool { return k.Equal(c) })
			if !known && now.Before(c.NotAfter) {
				keep = append(keep, c)
			}
		}
	}
	var bundle bytes.Buffer
	for _, c := range keep {
		bundle.Write(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw}))
	}
	return bundle.Bytes()
}

// certificates returns those of a PEM text; what is none is skipped, as clients
// skip it.
func certificates(text []byte) []*x509.Certificate {
	var all []*x509.Certificate
	for {
		var block *pem.Block
		if block, text = pem.Decode(text); block == nil {
			return all
		}
		if block.Type != "CERTIFICATE" {
			continue
		}
		if c, err := x509.ParseCertificate(block.Bytes); err == nil {
			all = append(all, c)
		}
	}
}
