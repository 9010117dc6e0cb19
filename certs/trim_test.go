package certs

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// A former authority is trusted for the overlap and not until the next renewal.
func TestTrim(t *testing.T) {
	year := noon.AddDate(1, 0, 0)
	current, former := newAuthority(t, "ca", noon.Add(-backdated), year), newAuthority(t, "ca", noon.AddDate(-1, 0, 0), year)
	both := slices.Concat(current.pem, former.pem)
	for name, tt := range map[string]struct {
		own, want []byte
		after     time.Duration
	}{
		"within the overlap both are trusted":     {both, both, overlapTime - time.Minute},
		"after it only the current one is":        {both, current.pem, overlapTime + time.Minute},
		"one alone is left alone":                 {current.pem, current.pem, overlapTime + time.Minute},
		"a Secret that is not filled, left alone": {nil, nil, overlapTime + time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			key := types.NamespacedName{Namespace: "pod-identity", Name: "certs"}
			secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: key.Namespace, Name: key.Name}, Data: map[string][]byte{caFile: tt.own, CertFile: []byte("x")}}
			c := fakeClient(t, secret)
			before := get(t, c, key)
			if err := trim(t.Context(), c, c, key, noon.Add(tt.after)); err != nil {
				t.Fatal(err)
			}
			after := get(t, c, key)
			if !bytes.Equal(after.Data[caFile], tt.want) || string(after.Data[CertFile]) != "x" {
				t.Errorf("%d certificates are left", len(certificates(after.Data[caFile])))
			}
			if wrote := before.ResourceVersion != after.ResourceVersion; wrote != !bytes.Equal(tt.own, tt.want) {
				t.Errorf("written: %v", wrote)
			}
		})
	}
	if err := trim(t.Context(), fakeClient(t), nil, types.NamespacedName{Name: "absent"}, noon); err != nil {
		t.Errorf("without a Secret: %v", err)
	}
}

func get(t *testing.T, c client.Client, key types.NamespacedName) *corev1.Secret {
	t.Helper()
	secret := &corev1.Secret{}
	if err := c.Get(t.Context(), key, secret); err != nil {
		t.Fatal(err)
	}
	return secret
}

// A rotation that fails is begun again, and ends with ctx alone.
func TestKeepRotating(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &SelfSigned{failures: prometheus.NewCounter(prometheus.CounterOpts{Name: "failures"})}
		ctx, cancel := context.WithCancel(t.Context())
		begun := 0
		err := s.keepRotating(ctx, func(ctx context.Context) error {
			switch begun++; begun {
			case 1:
				return errors.New("timed out waiting for caches")
			case 2:
				return nil
			}
			time.AfterFunc(time.Hour, cancel)
			<-ctx.Done()
			return nil
		})
		if err != nil || begun != 3 || testutil.ToFloat64(s.failures) != 2 {
			t.Errorf("begun %d times, %v failures, error %v", begun, testutil.ToFloat64(s.failures), err)
		}
	})
}
