package controller

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	v1 "github.com/aad-pod-identity/aad-pod-identity/api/v1"
	"github.com/aad-pod-identity/aad-pod-identity/internal/metric"
	"github.com/aad-pod-identity/aad-pod-identity/internal/validation"
)

// conditionWriter writes conditions of AzureIdentities and bindings.
type conditionWriter struct {
	writer  client.Client
	metrics *metric.MIC
}

// write writes the conditions of an object as it was read. If it is another by
// now, what changed it is an event that leads here again.
func (w conditionWriter) write(ctx context.Context, o client.Object, conditions []metav1.Condition) error {
	raw, err := json.Marshal(map[string]any{
		"metadata": map[string]any{"uid": o.GetUID(), "resourceVersion": o.GetResourceVersion()},
		"status":   map[string]any{"conditions": conditions},
	})
	if err != nil {
		return fmt.Errorf("conditions of %T %s/%s: %w", o, o.GetNamespace(), o.GetName(), err)
	}
	var target client.Object = &v1.AzureIdentity{}
	if _, ok := o.(*v1.AzureIdentityBinding); ok {
		target = &v1.AzureIdentityBinding{}
	}
	target.SetNamespace(o.GetNamespace())
	target.SetName(o.GetName())
	err = w.writer.Status().Patch(ctx, target, client.RawPatch(types.MergePatchType, raw))
	switch {
	case apierrors.IsConflict(err), apierrors.IsNotFound(err):
		return nil
	case err != nil:
		w.metrics.KubernetesAPIErrors.WithLabelValues(metric.OpConditions).Inc()
		return fmt.Errorf("writing conditions of %T %s/%s: %w", o, o.GetNamespace(), o.GetName(), err)
	}
	return nil
}

// identityReconciler says of each AzureIdentity whether it is valid and in use.
type identityReconciler struct {
	world      *world
	conditions conditionWriter
	events     events
	start      *start
	// complain logs an error verbatim, klog.Errorf outside tests: people look for
	// the line of the troubleshooting guide, in which structured logging would
	// escape the quotes.
	complain func(format string, a ...any)
	// said has the complaints that were made, so that each is made once for each
	// change and not at every look.
	said said
}

// Reconcile implements reconcile.Reconciler.
func (r *identityReconciler) Reconcile(ctx context.Context, request reconcile.Request) (reconcile.Result, error) {
	if !r.start.wait(ctx) {
		return reconcile.Result{}, nil
	}
	id, err := r.world.identity(ctx, request.NamespacedName)
	if err != nil {
		return reconcile.Result{}, err
	}
	if id == nil || !id.DeletionTimestamp.IsZero() {
		r.said.forget(request.NamespacedName)
		return reconcile.Result{}, nil
	}
	if err := validation.StoredIdentity(id); err == nil {
		r.said.forget(request.NamespacedName)
	} else if r.said.first(request.NamespacedName, fmt.Sprint(id.UID, err)) {
		r.complain("Ignoring azure identity %s/%s, error: %v", id.Namespace, id.Name, err)
		r.events.ignored(id, err.Error())
	}
	if uninstalling, err := r.world.uninstalling(ctx); uninstalling || err != nil {
		return reconcile.Result{}, err
	}
	inUse, err := r.world.identityInUse(ctx, request.NamespacedName)
	if err != nil {
		return reconcile.Result{}, err
	}
	next, changed := conditions(id.Status.Conditions, id.Generation, identityClaims(id, inUse), time.Now())
	if !changed {
		return reconcile.Result{}, nil
	}
	return reconcile.Result{}, r.conditions.write(ctx, id, next)
}

// bindingReconciler says of each AzureIdentityBinding whether its identity can be
// used and whether it selects a pod.
type bindingReconciler struct {
	world      *world
	conditions conditionWriter
	start      *start
}

// Reconcile implements reconcile.Reconciler.
func (r *bindingReconciler) Reconcile(ctx context.Context, request reconcile.Request) (reconcile.Result, error) {
	if !r.start.wait(ctx) {
		return reconcile.Result{}, nil
	}
	var b v1.AzureIdentityBinding
	if err := r.world.cached.Get(ctx, request.NamespacedName, &b); err != nil {
		return reconcile.Result{}, client.IgnoreNotFound(err)
	}
	if uninstalling, err := r.world.uninstalling(ctx); uninstalling || err != nil || !b.DeletionTimestamp.IsZero() {
		return reconcile.Result{}, err
	}
	id, err := r.world.identity(ctx, types.NamespacedName{Namespace: b.Namespace, Name: b.Spec.AzureIdentity})
	if err != nil {
		return reconcile.Result{}, err
	}
	pods, err := r.world.podsSelected(ctx, &b)
	if err != nil {
		return reconcile.Result{}, err
	}
	next, changed := conditions(b.Status.Conditions, b.Generation, bindingClaims(&b, id, pods, r.world.forceNamespaced), time.Now())
	if !changed {
		return reconcile.Result{}, nil
	}
	return reconcile.Result{}, r.conditions.write(ctx, &b, next)
}

// said remembers what was said last of each object. The zero value is ready.
type said struct {
	mu   sync.Mutex
	last map[types.NamespacedName]string
}

// first says whether a text is another than the last one.
func (s *said) first(key types.NamespacedName, text string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.last[key] == text {
		return false
	}
	if s.last == nil {
		s.last = map[types.NamespacedName]string{}
	}
	s.last[key] = text
	return true
}

func (s *said) forget(key types.NamespacedName) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.last, key)
}
