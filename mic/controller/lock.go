package controller

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
)

// legacyAnnotationKey is where the 1.8 releases keep their lock, on an Endpoints
// object.
const legacyAnnotationKey = "control-plane.alpha.kubernetes.io/leader"

// Lock is the leader lock: a Lease, and beside it the lock of the 1.8 releases,
// an annotated Endpoints object. Both are held while this replica leads, so
// neither an upgrade nor a rollback has two leaders. As long as another holds
// either, that one counts, until it releases it or lets it expire.
type Lock struct {
	lease  resourcelock.Interface
	legacy legacyLock

	mu      sync.Mutex
	renewed time.Time
}

var _ resourcelock.Interface = (*Lock)(nil)

// NewLock returns the lock of an instance. Both objects have the same name.
func NewLock(client kubernetes.Interface, namespace, name, instance string) *Lock {
	return &Lock{
		lease: &resourcelock.LeaseLock{
			LeaseMeta:  metav1.ObjectMeta{Namespace: namespace, Name: name},
			Client:     client.CoordinationV1(),
			LockConfig: resourcelock.ResourceLockConfig{Identity: instance},
		},
		legacy: legacyLock{client: client, namespace: namespace, name: name},
	}
}

// Get returns the record of whoever leads. It implements resourcelock.Interface.
func (l *Lock) Get(ctx context.Context) (*resourcelock.LeaderElectionRecord, []byte, error) {
	legacy, legacyRaw, err := l.legacy.get(ctx)
	if err != nil {
		return nil, nil, err
	}
	lease, leaseRaw, leaseErr := l.lease.Get(ctx)
	if leaseErr != nil && !apierrors.IsNotFound(leaseErr) {
		return nil, nil, fmt.Errorf("reading the leader lease: %w", leaseErr)
	}
	if legacy != nil && legacy.HolderIdentity != "" && legacy.HolderIdentity != l.Identity() &&
		(lease == nil || lease.HolderIdentity != legacy.HolderIdentity) {
		// Somebody who knows only the old lock holds it.
		return legacy, bytes.Join([][]byte{legacyRaw, leaseRaw}, []byte(",")), nil
	}
	if leaseErr != nil {
		if legacy != nil {
			// Not NotFound: the caller would create what may exist. Update does both.
			return legacy, legacyRaw, nil
		}
		return nil, nil, leaseErr
	}
	return lease, leaseRaw, nil
}

// Create takes a lock that nobody has had yet.
func (l *Lock) Create(ctx context.Context, record resourcelock.LeaderElectionRecord) error {
	return l.Update(ctx, record)
}

// Update takes, renews or releases the lock. The old lock comes first: if it
// cannot be had the lease stays untouched.
func (l *Lock) Update(ctx context.Context, record resourcelock.LeaderElectionRecord) error {
	if err := l.legacy.put(ctx, record); err != nil {
		return err
	}
	err := l.lease.Update(ctx, record)
	if err != nil {
		// The lease may never have been read or created.
		if _, _, getErr := l.lease.Get(ctx); apierrors.IsNotFound(getErr) {
			err = l.lease.Create(ctx, record)
		}
	}
	if err != nil {
		return fmt.Errorf("writing the leader lease: %w", err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.renewed = time.Now()
	return nil
}

// Age returns how long ago the lock was last written, which a leader does all
// the time.
func (l *Lock) Age() time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	return time.Since(l.renewed)
}

// RecordEvent implements resourcelock.Interface.
func (l *Lock) RecordEvent(s string) { l.lease.RecordEvent(s) }

// Identity implements resourcelock.Interface.
func (l *Lock) Identity() string { return l.lease.Identity() }

// Describe implements resourcelock.Interface.
func (l *Lock) Describe() string { return l.lease.Describe() }

// legacyLock reads and writes the lock of the 1.8 releases. It remembers the
// object as last read, so that a write fails if somebody else wrote since.
type legacyLock struct {
	client          kubernetes.Interface
	namespace, name string

	object *corev1.Endpoints //nolint:staticcheck // deprecated, and where the old lock is
}

// get returns the record, or nil if there is none.
func (l *legacyLock) get(ctx context.Context) (*resourcelock.LeaderElectionRecord, []byte, error) {
	e, err := l.client.CoreV1().Endpoints(l.namespace).Get(ctx, l.name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		l.object = nil
		return nil, nil, nil
	}
	if err != nil {
		return nil, nil, fmt.Errorf("reading the leader lock of older releases: %w", err)
	}
	l.object = e
	raw := []byte(e.Annotations[legacyAnnotationKey])
	if len(raw) == 0 {
		return nil, nil, nil
	}
	record := &resourcelock.LeaderElectionRecord{}
	if err := json.Unmarshal(raw, record); err != nil {
		return nil, nil, fmt.Errorf("leader lock of older releases (Endpoints %s/%s): %w", l.namespace, l.name, err)
	}
	return record, raw, nil
}

func (l *legacyLock) put(ctx context.Context, record resourcelock.LeaderElectionRecord) error {
	raw, err := json.Marshal(record)
	if err != nil {
		return fmt.Errorf("leader record: %w", err)
	}
	endpoints := l.client.CoreV1().Endpoints(l.namespace)
	if l.object == nil {
		l.object, err = endpoints.Create(ctx, &corev1.Endpoints{ //nolint:staticcheck // see above
			ObjectMeta: metav1.ObjectMeta{Namespace: l.namespace, Name: l.name, Annotations: map[string]string{legacyAnnotationKey: string(raw)}},
		}, metav1.CreateOptions{})
	} else {
		next := l.object.DeepCopy()
		if next.Annotations == nil {
			next.Annotations = map[string]string{}
		}
		next.Annotations[legacyAnnotationKey] = string(raw)
		var written *corev1.Endpoints //nolint:staticcheck // see above
		if written, err = endpoints.Update(ctx, next, metav1.UpdateOptions{}); err == nil {
			l.object = written
		}
	}
	if err != nil {
		_, _, readErr := l.get(ctx)
		return errors.Join(fmt.Errorf("writing the leader lock of older releases: %w", err), readErr)
	}
	return nil
}
