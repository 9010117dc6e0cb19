package certs

import (
	"bytes"
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/klog/v2"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/aad-pod-identity/aad-pod-identity/internal/logkey"
)

// trimInterval is how often former authorities are looked for whose overlap has
// passed; what is looked at is in memory.
const trimInterval = time.Minute

// keepTrimming ends the trust in former authorities once their overlap has passed.
// cert-controller writes the Secret only when it renews something, months later.
func (s *SelfSigned) keepTrimming(ctx context.Context) error {
	tick := time.NewTicker(trimInterval)
	defer tick.Stop()
	said := ""
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		err := trim(ctx, s.secrets, s.writer, s.key(), s.now())
		switch {
		case err == nil:
			said = ""
		case ctx.Err() == nil && said != err.Error():
			said = err.Error()
			klog.FromContext(ctx).Error(err, "A former certificate authority stays trusted", logkey.Name, s.key().String())
		}
	}
}

// trim drops the authorities of the Secret that are no longer needed. From there
// cert-controller takes them to the webhook configurations.
func trim(ctx context.Context, r client.Reader, w client.Writer, key types.NamespacedName, now time.Time) error {
	secret := &corev1.Secret{}
	if err := r.Get(ctx, key, secret); err != nil {
		return client.IgnoreNotFound(err)
	}
	own := secret.Data[caFile]
	needed := overlap(own, nil, now)
	if bytes.Equal(own, needed) {
		return nil
	}
	secret = secret.DeepCopy()
	secret.Data[caFile] = needed
	err := w.Update(ctx, secret)
	if err != nil && !apierrors.IsConflict(err) { // another replica was faster
		return fmt.Errorf("writing Secret %s: %w", key, err)
	}
	return nil
}
