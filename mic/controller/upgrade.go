package controller

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/klog/v2"
	"sigs.k8s.io/controller-runtime/pkg/client"

	v1 "github.com/aad-pod-identity/aad-pod-identity/api/v1"
	"github.com/aad-pod-identity/aad-pod-identity/internal/logkey"
	"github.com/aad-pod-identity/aad-pod-identity/internal/validation"
	"github.com/aad-pod-identity/aad-pod-identity/internal/version"
)

// TypeUpgrade is where it is recorded that stored objects were upgraded.
type TypeUpgrade struct {
	// ConfigMap in MIC's namespace, and the key in it, as in the 1.8 releases.
	ConfigMap, Key string
}

// Bounds of the upgrade. While it does not get through, MIC waits for a while, since
// objects that are not upgraded look as if they gave nobody anything, and what pods
// had by them would be taken away. Then it works, and goes on trying.
const (
	upgradePage     = 200
	upgradeConflict = 5
	upgradeEvery    = time.Minute
	upgradeCache    = 10 * time.Second
)

// typeUpgrade puts names right that releases before 1.6.0 stored in any
// capitalisation. It runs in the leader, once for a cluster. Every object is a step
// of its own, which can be done again, so that it may be killed anywhere. What cannot
// be upgraded is said and left as it is.
type typeUpgrade struct {
	TypeUpgrade
	live       client.Client
	cached     client.Reader
	namespace  string
	conditions conditionWriter
	events     events
	// written has the generations that were written and that the cache has to have
	// before MIC works.
	written map[client.Object]int64
}

// before tries for some seconds, and reports whether it is done.
func (u *typeUpgrade) before(ctx context.Context) bool {
	backoff := wait.Backoff{Duration: time.Second, Factor: 2, Jitter: 0.1, Steps: 5}
	return wait.ExponentialBackoffWithContext(ctx, backoff, u.try) == nil
}

// after tries until it is done or ctx ends.
func (u *typeUpgrade) after(ctx context.Context) {
	_ = wait.PollUntilContextCancel(ctx, upgradeEvery, false, u.try) // fails only with ctx
}

func (u *typeUpgrade) try(ctx context.Context) (bool, error) {
	err := u.run(ctx)
	if err != nil && ctx.Err() == nil {
		klog.FromContext(ctx).Error(err, "Stored objects are not upgraded yet")
	}
	return err == nil, nil
}

// run upgrades all objects. It returns what may work at another try.
func (u *typeUpgrade) run(ctx context.Context) error {
	record, done, err := u.recorded(ctx)
	if err != nil {
		return err
	}
	if !done {
		var errs []error
		for _, kind := range []string{v1.KindAzureIdentity, v1.KindAzureIdentityBinding, v1.KindAzurePodIdentityException} {
			if err := u.upgradeKind(ctx, kind); err != nil {
				errs = append(errs, err)
			}
		}
		if err := errors.Join(errs...); err != nil {
			return err
		}
		if err := u.record(ctx, record); err != nil {
			return err
		}
	}
	return u.seen(ctx)
}

// recorded returns the ConfigMap, nil if there is none, and whether it says that the
// upgrade was done.
func (u *typeUpgrade) recorded(ctx context.Context) (*corev1.ConfigMap, bool, error) {
	var cm corev1.ConfigMap
	err := u.live.Get(ctx, types.NamespacedName{Namespace: u.namespace, Name: u.ConfigMap}, &cm)
	if apierrors.IsNotFound(err) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, fmt.Errorf("reading ConfigMap %s/%s: %w", u.namespace, u.ConfigMap, err)
	}
	return &cm, cm.Data[u.Key] != "", nil
}

func (u *typeUpgrade) record(ctx context.Context, cm *corev1.ConfigMap) error {
	var err error
	if cm == nil {
		err = u.live.Create(ctx, &corev1.ConfigMap{
			ObjectMeta: metav1.ObjectMeta{Namespace: u.namespace, Name: u.ConfigMap},
			Data:       map[string]string{u.Key: version.Version},
		})
	} else {
		if cm.Data == nil {
			cm.Data = map[string]string{}
		}
		cm.Data[u.Key] = version.Version
		err = u.live.Update(ctx, cm)
	}
	if err != nil {
		return fmt.Errorf("recording the upgrade in ConfigMap %s/%s: %w", u.namespace, u.ConfigMap, err)
	}
	klog.FromContext(ctx).Info("Stored objects are upgraded", logkey.ConfigMap, u.namespace+"/"+u.ConfigMap)
	return nil
}

// upgradeKind upgrades the objects of a kind. One that fails holds up no other.
func (u *typeUpgrade) upgradeKind(ctx context.Context, kind string) error {
	var errs []error
	list := &unstructured.UnstructuredList{}
	list.SetGroupVersionKind(v1.GroupVersion.WithKind(kind + "List"))
	for next := ""; ; {
		if err := u.live.List(ctx, list, client.Limit(upgradePage), client.Continue(next)); err != nil {
			if meta.IsNoMatchError(err) {
				return nil // the CRD is not there, and so are no objects
			}
			return errors.Join(append(errs, fmt.Errorf("listing objects of kind %s: %w", kind, err))...)
		}
		for i := range list.Items {
			if err := u.upgrade(ctx, &list.Items[i]); err != nil {
				errs = append(errs, err)
			}
		}
		if next = list.GetContinue(); next == "" {
			return errors.Join(errs...)
		}
	}
}

// upgrade upgrades an object, which is read again if it was changed meanwhile.
func (u *typeUpgrade) upgrade(ctx context.Context, o *unstructured.Unstructured) error {
	name := fmt.Sprintf("%s %s/%s", o.GetKind(), o.GetNamespace(), o.GetName())
	for attempt := 1; ; attempt++ {
		spec, ok, err := unstructured.NestedMap(o.Object, "spec")
		if !ok || err != nil || o.GetDeletionTimestamp() != nil {
			return nil //nolint:nilerr // there are no names to put right
		}
		changed, conflicts := mendSpec(o.GetKind(), spec)
		switch {
		case len(conflicts) > 0:
			return u.skipped(ctx, o, v1.ReasonFieldNamesConflict, strings.Join(conflicts, "; ")+"; delete the one that is not meant")
		case !changed:
			return nil
		}
		mended := o.DeepCopy()
		mended.Object["spec"] = spec
		if err := usable(mended); err != nil {
			return u.skipped(ctx, o, v1.ReasonFieldNamesNotUpgraded, "field names are miscapitalised, and with the right ones: "+err.Error())
		}
		err = u.live.Update(ctx, mended)
		switch {
		case err == nil:
			klog.FromContext(ctx).Info("Upgraded the field names of "+name, logkey.Kind, o.GetKind())
			u.await(mended)
			return nil
		case apierrors.IsNotFound(err):
			return nil
		case apierrors.IsConflict(err) && attempt < upgradeConflict:
			if err := u.live.Get(ctx, client.ObjectKeyFromObject(o), o); err != nil {
				if apierrors.IsNotFound(err) {
					return nil
				}
				return fmt.Errorf("reading %s: %w", name, err)
			}
		case apierrors.IsInvalid(err), apierrors.IsForbidden(err), apierrors.IsBadRequest(err):
			// It breaks another rule, so the next try would end the same way.
			return u.skipped(ctx, o, v1.ReasonFieldNamesNotUpgraded, "field names are miscapitalised, and putting them right was refused: "+err.Error())
		default:
			return fmt.Errorf("upgrading %s: %w", name, err)
		}
	}
}

// usable says why an object gives nobody anything, whatever its names.
func usable(o *unstructured.Unstructured) error {
	switch o.GetKind() {
	case v1.KindAzureIdentity:
		id, err := typedAs[v1.AzureIdentity](o)
		if err != nil {
			return err
		}
		return validation.StoredIdentity(id)
	case v1.KindAzureIdentityBinding:
		b, err := typedAs[v1.AzureIdentityBinding](o)
		if err != nil {
			return err
		}
		if b.Spec.AzureIdentity == "" || b.Spec.Selector == "" {
			return errors.New("azureIdentity or selector is missing")
		}
	}
	return nil
}

func typedAs[T any](o *unstructured.Unstructured) (*T, error) {
	var typed T
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(o.Object, &typed); err != nil {
		return nil, fmt.Errorf("reading %s %s/%s: %w", o.GetKind(), o.GetNamespace(), o.GetName(), err)
	}
	return &typed, nil
}

// skipped says that an object stays as it is: in the log, in an event and, where the
// kind has conditions, in one.
func (u *typeUpgrade) skipped(ctx context.Context, o *unstructured.Unstructured, reason, message string) error {
	name := fmt.Sprintf("%s %s/%s", o.GetKind(), o.GetNamespace(), o.GetName())
	klog.FromContext(ctx).Error(errors.New(message), "Not upgraded: "+name, logkey.Reason, reason)
	u.events.notUpgraded(o, reason, message)
	var typed client.Object
	var current []metav1.Condition
	says := claim{kind: v1.ConditionResolved}
	switch o.GetKind() {
	case v1.KindAzureIdentity:
		id, err := typedAs[v1.AzureIdentity](o)
		if err != nil {
			return nil //nolint:nilerr // what cannot be read has no conditions either
		}
		typed, current, says = id, id.Status.Conditions, validClaim(id)
	case v1.KindAzureIdentityBinding:
		b, err := typedAs[v1.AzureIdentityBinding](o)
		if err != nil {
			return nil //nolint:nilerr // as above
		}
		typed, current = b, b.Status.Conditions
	default:
		return nil
	}
	says.reason, says.message = reason, message
	next, changed := conditions(current, o.GetGeneration(), []claim{says}, time.Now())
	if !changed {
		return nil
	}
	return u.conditions.write(ctx, typed, next)
}

// await notes what the cache must have. Exceptions are NMI's.
func (u *typeUpgrade) await(o *unstructured.Unstructured) {
	var typed client.Object
	switch o.GetKind() {
	case v1.KindAzureIdentity:
		typed = &v1.AzureIdentity{}
	case v1.KindAzureIdentityBinding:
		typed = &v1.AzureIdentityBinding{}
	default:
		return
	}
	typed.SetNamespace(o.GetNamespace())
	typed.SetName(o.GetName())
	if u.written == nil {
		u.written = map[client.Object]int64{}
	}
	u.written[typed] = o.GetGeneration()
}

// seen waits until the cache has what was written.
func (u *typeUpgrade) seen(ctx context.Context) error {
	err := wait.PollUntilContextTimeout(ctx, 50*time.Millisecond, upgradeCache, true, func(ctx context.Context) (bool, error) {
		for o, generation := range u.written {
			err := u.cached.Get(ctx, client.ObjectKeyFromObject(o), o)
			switch {
			case err == nil && o.GetGeneration() < generation:
				return false, nil
			case client.IgnoreNotFound(err) != nil:
				return false, fmt.Errorf("reading upgraded objects: %w", err)
			}
			delete(u.written, o)
		}
		return true, nil
	})
	if err != nil {
		return fmt.Errorf("waiting for %d upgraded objects: %w", len(u.written), err)
	}
	return nil
}
