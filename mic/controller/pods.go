package controller

import (
	"context"
	"errors"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/workqueue"
	"k8s.io/klog/v2"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	v1 "github.com/aad-pod-identity/aad-pod-identity/api/v1"
	"github.com/aad-pod-identity/aad-pod-identity/internal/binding"
	"github.com/aad-pod-identity/aad-pod-identity/internal/logkey"
	"github.com/aad-pod-identity/aad-pod-identity/internal/metric"
	"github.com/aad-pod-identity/aad-pod-identity/internal/resourceid"
	"github.com/aad-pod-identity/aad-pod-identity/mic/assign"
	"github.com/aad-pod-identity/aad-pod-identity/mic/compute"
)

// podReconciler gives each pod the AzureAssignedIdentities that it must have.
// What these do on Azure is the target reconciler's business.
type podReconciler struct {
	world  *world
	engine *compute.Engine
	// departures are what the target controller is about to take off.
	departures *departures
	writer     client.Client
	events     events
	metrics    *metric.MIC
	start      *start
	// unlabelled remembers the pods whose label is gone.
	unlabelled unlabelled
	// gates: the condition of the readiness gate is set.
	gates bool
	// reviewInterval is how often a right that has no event is looked at again.
	reviewInterval time.Duration
	// unknown spaces the questions about rights that are not known.
	unknown workqueue.TypedRateLimiter[types.NamespacedName]
}

// Reconcile implements reconcile.Reconciler. A request with an empty name is
// for assigned identities without a pod, which only damaged objects are.
func (r *podReconciler) Reconcile(ctx context.Context, request reconcile.Request) (reconcile.Result, error) {
	if !r.start.wait(ctx) {
		return reconcile.Result{}, nil
	}
	uninstalling, err := r.world.uninstalling(ctx)
	if err != nil {
		return reconcile.Result{}, err
	}
	pod, err := r.world.pod(ctx, request.NamespacedName)
	if err != nil {
		return reconcile.Result{}, err
	}
	var result binding.Result
	var nodeGone bool
	if pod != nil && !uninstalling {
		if result, err = r.world.matches(ctx, pod); err != nil {
			return reconcile.Result{}, err
		}
		if len(result.Matches) > 0 {
			if nodeGone, err = r.world.nodeGone(ctx, pod.Spec.NodeName); err != nil {
				return reconcile.Result{}, err
			}
		}
	}
	current, err := r.world.assignedOfPod(ctx, request.NamespacedName)
	if err != nil {
		return reconcile.Result{}, err
	}
	plan := assign.ForPod(assign.Input{
		Pod: assignPod(pod), NodeGone: nodeGone, Matches: result.Matches, Undecided: result.Undecided, Current: current,
		Taken: r.world.taken(ctx, func(a *v1.AzureAssignedIdentity) bool {
			return podKey(a) == request.NamespacedName
		}),
		ForceNamespaced: r.world.forceNamespaced,
	})
	var errs []error
	switch {
	case pod != nil:
		r.unlabelled.forget(request.NamespacedName)
	case !uninstalling && r.unlabelled.due(request.NamespacedName, len(current) > 0):
		// Before they go: after a crash they lead here again.
		labelled, err := r.unlabel(ctx, request.NamespacedName)
		if labelled {
			return reconcile.Result{}, nil // the cache is behind; the pod is an event to come
		}
		r.unlabelled.record(request.NamespacedName, len(current) > 0, err)
		errs = append(errs, err)
	}
	errs = append(errs, r.apply(ctx, plan)...)
	if pod != nil && !uninstalling {
		r.explain(ctx, pod, result)
		errs = append(errs, r.tag(ctx, pod, result), r.setGate(ctx, pod, judgeGate(pod, result, current)))
	}
	return r.next(request.NamespacedName, pod, result), errors.Join(errs...)
}

// apply carries out a plan as far as it can.
func (r *podReconciler) apply(ctx context.Context, plan assign.Plan) []error {
	var errs []error
	for _, a := range plan.Delete {
		errs = append(errs, r.delete(ctx, a))
	}
	for _, a := range plan.Update {
		errs = append(errs, r.update(ctx, a))
	}
	for _, a := range plan.Create {
		errs = append(errs, r.create(ctx, a))
	}
	return errs
}

func (r *podReconciler) create(ctx context.Context, a *v1.AzureAssignedIdentity) error {
	started := time.Now()
	if err := r.settle(ctx, a); err != nil {
		return err
	}
	klog.FromContext(ctx).Info(fmt.Sprintf("creating assigned id %s/%s", a.Namespace, a.Name), logkey.Node, a.Spec.NodeName)
	err := r.writer.Create(ctx, a)
	if apierrors.IsAlreadyExists(err) {
		// Either the cache is behind and it is the very object, or it belongs to
		// another pod, whose name and namespace join to the same text.
		var other v1.AzureAssignedIdentity
		if getErr := r.world.live.Get(ctx, client.ObjectKeyFromObject(a), &other); getErr != nil {
			// Also if it is gone by now: then its name is free at the next try.
			return fmt.Errorf("reading AzureAssignedIdentity %s/%s: %w", a.Namespace, a.Name, getErr)
		}
		if assign.KeyOf(&other) == assign.KeyOf(a) {
			return nil
		}
		a.Name = assign.KeyOf(a).UniqueName()
		if err = r.writer.Create(ctx, a); apierrors.IsAlreadyExists(err) {
			return nil
		}
	}
	if err != nil {
		r.metrics.KubernetesAPIErrors.WithLabelValues(metric.OpAssignedIdentityAddition).Inc()
		r.events.applyError(a, err.Error(), "")
		return fmt.Errorf("creating AzureAssignedIdentity %s/%s: %w", a.Namespace, a.Name, err)
	}
	r.metrics.AssignedIdentityAdditions.Inc()
	r.metrics.AssignedIdentityAdditionDuration.Observe(time.Since(started).Seconds())
	if a.Status.Status == v1.AssignedIDAssigned {
		r.events.assigned(ctx, a)
	}
	return nil
}

// settle makes a new object one that is Assigned from the beginning if its identity is
// on the VM already, as that of most pods is: it takes one write and no wait.
func (r *podReconciler) settle(ctx context.Context, a *v1.AzureAssignedIdentity) error {
	node, err := r.world.node(ctx, a.Spec.NodeName)
	if node == nil || err != nil {
		return err
	}
	target, err := targetOf(node)
	if err != nil {
		return nil //nolint:nilerr // the target controller says so in the object's status
	}
	present := map[string]bool{}
	if onTarget(a) {
		key := resourceid.Key(a.Spec.AzureIdentityRef.Spec.ResourceID)
		// In this order: a pass that ends in between has said what it leaves there.
		present[key] = r.departures.stays(target.Key(), key) && r.engine.Has(target.Key(), key)
	}
	if v := judge(a, target.Name, compute.Result{Present: present}, nil); v.assigned {
		a.Status, _ = v.status(a.Status, time.Now())
	}
	return nil
}

func (r *podReconciler) update(ctx context.Context, a *v1.AzureAssignedIdentity) error {
	started := time.Now()
	klog.FromContext(ctx).Info(fmt.Sprintf("updating assigned id %s/%s", a.Namespace, a.Name), logkey.Node, a.Spec.NodeName)
	err := r.writer.Update(ctx, a)
	switch {
	case apierrors.IsConflict(err), apierrors.IsNotFound(err):
		return nil // the cache is behind; the newer object is an event to come
	case err != nil:
		r.metrics.KubernetesAPIErrors.WithLabelValues(metric.OpAssignedIdentityUpdate).Inc()
		r.events.applyError(a, err.Error(), "")
		return fmt.Errorf("updating AzureAssignedIdentity %s/%s: %w", a.Namespace, a.Name, err)
	}
	r.metrics.AssignedIdentityUpdates.Inc()
	r.metrics.AssignedIdentityUpdateDuration.Observe(time.Since(started).Seconds())
	return nil
}

// delete marks the object for deletion. It goes when the target reconciler has
// taken the identity off the VM.
func (r *podReconciler) delete(ctx context.Context, a *v1.AzureAssignedIdentity) error {
	klog.FromContext(ctx).Info(fmt.Sprintf("deleting assigned id %s/%s", a.Namespace, a.Name), logkey.Node, a.Spec.NodeName)
	err := r.writer.Delete(ctx, a, client.Preconditions{UID: &a.UID})
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
		r.metrics.KubernetesAPIErrors.WithLabelValues(metric.OpAssignedIdentityDeletion).Inc()
		r.events.removeError(a, err.Error())
		return fmt.Errorf("deleting AzureAssignedIdentity %s/%s: %w", a.Namespace, a.Name, err)
	}
	return nil
}

// podChangeMatters says whether a change of a pod can change anything here.
func podChangeMatters(before, after *corev1.Pod) bool {
	return before.UID != after.UID || before.Spec.NodeName != after.Spec.NodeName || finished(before) != finished(after) ||
		before.DeletionTimestamp.IsZero() != after.DeletionTimestamp.IsZero() ||
		before.Labels[v1.BindingLabelKey] != after.Labels[v1.BindingLabelKey] || tagsOf(before) != tagsOf(after) ||
		gateStateOf(before) != gateStateOf(after)
}
