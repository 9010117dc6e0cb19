package controller

import (
	"context"
	"errors"
	"math/rand/v2"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/klog/v2"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/aad-pod-identity/aad-pod-identity/internal/binding"
	"github.com/aad-pod-identity/aad-pod-identity/internal/logkey"
)

// explain says why bindings give the pod nothing. What could not be found out is
// an error, so that it is asked again soon.
func (r *podReconciler) explain(ctx context.Context, pod *corev1.Pod, result binding.Result) error {
	var unknown []error
	for _, s := range result.Skipped {
		klog.FromContext(ctx).V(2).Info("Binding gives the pod nothing", logkey.Pod, klog.KObj(pod).String(), logkey.Reason, s.Reason, "message", s.Message)
		if finished(pod) || !pod.DeletionTimestamp.IsZero() {
			continue
		}
		switch s.Reason {
		case binding.ReasonUseForbidden:
			r.events.notAllowed(s.Binding, pod, s.Message)
		case binding.ReasonUseUnknown:
			r.events.notAllowed(s.Binding, pod, s.Message)
			unknown = append(unknown, errors.New(s.Message))
		}
	}
	return errors.Join(unknown...)
}

// next says when to look at a pod again although nothing happens. Rights are given
// and taken away without an event, so pods that need one are looked at in every
// interval: three quarters of it, and up to a tenth more to spread them, leave the
// rest for an answer that was remembered.
func (r *podReconciler) next(pod *corev1.Pod, result binding.Result) reconcile.Result {
	if r.world.mayUse == nil || pod == nil || finished(pod) || !result.Foreign(pod.Namespace) {
		return reconcile.Result{}
	}
	return reconcile.Result{RequeueAfter: r.reviewInterval*3/4 + rand.N(r.reviewInterval/10+1)}
}
