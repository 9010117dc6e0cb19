package controller

import (
	"context"
	"errors"
	"math/rand/v2"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/workqueue"
	"k8s.io/klog/v2"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/aad-pod-identity/aad-pod-identity/internal/access"
	"github.com/aad-pod-identity/aad-pod-identity/internal/binding"
	"github.com/aad-pod-identity/aad-pod-identity/internal/logkey"
)

// explain says why bindings give the pod nothing. What could not be found out is
// no error here: next has it asked again, without the long waits after errors,
// for the pod may have other rights that are to be looked at in time.
func (r *podReconciler) explain(ctx context.Context, pod *corev1.Pod, result binding.Result) {
	for _, s := range result.Skipped {
		klog.FromContext(ctx).V(2).Info("Binding gives the pod nothing", logkey.Pod, klog.KObj(pod).String(), logkey.Reason, s.Reason, "message", s.Message)
		if finished(pod) || !pod.DeletionTimestamp.IsZero() {
			continue
		}
		switch s.Reason {
		case binding.ReasonSameName:
			if r.events.notApplied(s.Binding, pod, s.Message) {
				klog.FromContext(ctx).Info("Two AzureIdentities of one name", logkey.Pod, klog.KObj(pod).String(), logkey.Binding, klog.KObj(s.Binding).String(), logkey.Reason, s.Message)
			}
		case binding.ReasonUseForbidden:
			r.events.notApplied(s.Binding, pod, s.Message)
		case binding.ReasonUseUnknown:
			r.events.notApplied(s.Binding, pod, s.Message)
			klog.FromContext(ctx).Error(errors.New(s.Message), "A right to use an AzureIdentity is not known", logkey.Pod, klog.KObj(pod).String())
		}
	}
}

// next says when to look at a pod again although nothing happens. Rights are given
// and taken away without an event, so pods that need one are looked at in every
// interval: three quarters of it, and up to a tenth more to spread them, leave the
// rest for an answer that was remembered. A right that is not known is asked
// about sooner, at first as soon as it is worth it, then less and less often.
func (r *podReconciler) next(key types.NamespacedName, pod *corev1.Pod, result binding.Result) reconcile.Result {
	if r.world.mayUse == nil || pod == nil || finished(pod) || !result.Foreign(pod.Namespace) {
		r.unknown.Forget(key)
		return reconcile.Result{}
	}
	after := r.reviewInterval*3/4 + rand.N(r.reviewInterval/10+1)
	if len(result.Undecided) == 0 {
		r.unknown.Forget(key)
		return reconcile.Result{RequeueAfter: after}
	}
	return reconcile.Result{RequeueAfter: min(r.unknown.When(key), after)}
}

// unknownRights says how long to wait before a right that is not known is asked
// about again.
func unknownRights() workqueue.TypedRateLimiter[types.NamespacedName] {
	return workqueue.NewTypedItemExponentialFailureRateLimiter[types.NamespacedName](access.FailureLife, lastRetry)
}
