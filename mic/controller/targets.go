package controller

import (
	"context"
	"errors"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/klog/v2"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	v1 "github.com/aad-pod-identity/aad-pod-identity/api/v1"
	"github.com/aad-pod-identity/aad-pod-identity/internal/azure/arm"
	"github.com/aad-pod-identity/aad-pod-identity/internal/logkey"
	"github.com/aad-pod-identity/aad-pod-identity/internal/metric"
	"github.com/aad-pod-identity/aad-pod-identity/internal/resourceid"
	"github.com/aad-pod-identity/aad-pod-identity/internal/validation"
	"github.com/aad-pod-identity/aad-pod-identity/mic/compute"
)

// place is the unit of the target reconciler: a VM or scale set by its key, or a
// node that is behind none, because it is gone or not (yet) one of Azure.
type place struct {
	target string
	node   string
}

// String implements fmt.Stringer, for logs.
func (p place) String() string {
	if p.target != "" {
		return p.target
	}
	return "node/" + p.node
}

// targetReconciler brings VMs and scale sets in line with the assigned
// identities of their nodes, and these in line with the outcome.
type targetReconciler struct {
	world   *world
	engine  *compute.Engine
	status  *statusWriter
	events  events
	metrics *metric.MIC
	start   *start
	// departures are told to the pod controller.
	departures *departures
}

// Reconcile implements reconcile.TypedReconciler.
func (r *targetReconciler) Reconcile(ctx context.Context, p place) (reconcile.Result, error) {
	if !r.start.wait(ctx) {
		return reconcile.Result{}, nil
	}
	if p.target == "" {
		return reconcile.Result{}, r.withoutTarget(ctx, p.node)
	}
	started := time.Now()
	r.departures.begin(p.target)
	defer r.departures.end(p.target)
	nodes, err := r.world.nodesOf(ctx, p.target)
	if err != nil {
		return reconcile.Result{}, err
	}
	target, ok := r.resolve(p.target, nodes)
	if !ok {
		return reconcile.Result{}, nil // no node and no ledger: nothing of ours
	}
	assigned, err := r.assignedOn(ctx, nodes)
	if err != nil {
		return reconcile.Result{}, err
	}
	request, going, err := r.request(ctx, target, nodes, assigned)
	if err != nil {
		return reconcile.Result{}, err
	}
	r.departures.decided(p.target, going)
	// An object that cannot be written, such as an old one that breaks a rule of
	// today, must not hold up the others of its target.
	announcing := r.announceRemovals(ctx, going, assigned)
	result, failure := r.engine.Reconcile(ctx, request)
	err = errors.Join(announcing, r.report(ctx, target, assigned, result, failure))
	r.metrics.Cycles.Inc()
	r.metrics.CycleDuration.Observe(time.Since(started).Seconds())
	return r.next(ctx, target, result, failure, err)
}

// resolve returns the target as its nodes or its ledger spell it.
func (r *targetReconciler) resolve(key string, nodes []corev1.Node) (resourceid.Compute, bool) {
	for i := range nodes {
		if t, err := targetOf(&nodes[i]); err == nil {
			return t, true
		}
	}
	return r.engine.Target(key)
}

func (r *targetReconciler) assignedOn(ctx context.Context, nodes []corev1.Node) ([]*v1.AzureAssignedIdentity, error) {
	var all []*v1.AzureAssignedIdentity
	for i := range nodes {
		some, err := r.world.assignedOnNode(ctx, nodes[i].Name)
		if err != nil {
			return nil, err
		}
		all = append(all, some...)
	}
	return all, nil
}

// request says what shall be on a target, and what is about to be taken off, by
// resourceid.Key; nil means that nobody knows. Before anything is taken off, the
// pods themselves are asked: an assigned identity that somebody deleted by hand
// is about to be made again. They are asked before anything is put on, too: of many
// that come at once the first assigned identity is written long before the last, and
// one PATCH can carry what all of them need.
func (r *targetReconciler) request(ctx context.Context, target resourceid.Compute, nodes []corev1.Node, assigned []*v1.AzureAssignedIdentity) (request compute.Request, going map[string]bool, err error) {
	request = compute.Request{Target: target, Prune: true}
	uninstalling, err := r.world.uninstalling(ctx)
	if err != nil {
		return request, nil, err
	}
	added, preexisting, unread := r.engine.Ledger(ctx, target)
	going = make(map[string]bool, len(added))
	for key := range added {
		going[key] = true
	}
	news := false
	for _, a := range assigned {
		if id := a.Spec.AzureIdentityRef; !uninstalling && a.DeletionTimestamp.IsZero() && onTarget(a) {
			request.Want = append(request.Want, id.Spec.ResourceID)
			key := resourceid.Key(id.Spec.ResourceID)
			news = news || (added[key] == "" && preexisting[key] == "")
			delete(going, key)
		}
	}
	// The engine will say that the ledger cannot be read; if by then it can, pods
	// must have been asked.
	if !uninstalling && (news || len(going) > 0 || unread != nil) {
		soon, keep, err := r.world.neededByPods(ctx, nodes)
		if err != nil {
			return request, nil, err
		}
		request.Keep = keep
		if news {
			request.Want = append(request.Want, soon...)
		}
	}
	if unread != nil {
		return request, nil, nil //nolint:nilerr // the engine says so, and then takes nothing off
	}
	for _, id := range request.Keep {
		delete(going, resourceid.Key(id))
	}
	return request, going, nil
}

// onTarget says whether an assigned identity is one that has to be on the VM.
func onTarget(a *v1.AzureAssignedIdentity) bool {
	id := a.Spec.AzureIdentityRef
	return id != nil && id.Spec.Type == v1.UserAssignedMSI && validation.StoredIdentity(id) == nil
}

// announceRemovals tells NMI to serve no more tokens for what is about to be
// taken off: that takes a while, and the object stays until it is done.
func (r *targetReconciler) announceRemovals(ctx context.Context, going map[string]bool, assigned []*v1.AzureAssignedIdentity) error {
	var leaving []*v1.AzureAssignedIdentity
	for _, a := range assigned {
		if id := a.Spec.AzureIdentityRef; !a.DeletionTimestamp.IsZero() && id != nil && a.Status.Status != v1.AssignedIDUnassigned && going[resourceid.Key(id.Spec.ResourceID)] {
			leaving = append(leaving, a)
		}
	}
	return r.status.each(ctx, leaving, r.status.unassigned)
}

// report writes the outcome to the assigned identities.
func (r *targetReconciler) report(ctx context.Context, target resourceid.Compute, assigned []*v1.AzureAssignedIdentity, result compute.Result, failure error) error {
	var live, gone []*v1.AzureAssignedIdentity
	for _, a := range assigned {
		switch {
		case a.DeletionTimestamp.IsZero():
			live = append(live, a)
		case !releasable(a, result):
			if f, failed := result.Failed[resourceid.Key(a.Spec.AzureIdentityRef.Spec.ResourceID)]; failed && f.Fresh {
				r.events.removeError(a, f.Text())
			} else if failure != nil && !result.Waiting {
				r.events.removeError(a, failure.Error())
			}
		default:
			gone = append(gone, a)
		}
	}
	return errors.Join(
		r.status.each(ctx, live, func(ctx context.Context, a *v1.AzureAssignedIdentity) error {
			return r.status.judged(ctx, a, judge(a, target.Name, result, failure))
		}),
		r.status.each(ctx, gone, r.status.released),
	)
}

// releasable says whether nothing of an assigned identity that is being deleted
// is left on the target, or what is left is not MIC's to remove.
func releasable(a *v1.AzureAssignedIdentity, result compute.Result) bool {
	if !onTarget(a) {
		return true
	}
	return !result.Unsure && !result.Held[resourceid.Key(a.Spec.AzureIdentityRef.Spec.ResourceID)]
}

// next says when to look again. Azure is left alone as long as the engine says;
// it would be anyway.
func (r *targetReconciler) next(ctx context.Context, target resourceid.Compute, result compute.Result, failure, writing error) (reconcile.Result, error) {
	log := klog.FromContext(ctx).WithValues(logkey.Target, target.String())
	_, throttled := arm.IsThrottled(failure)
	switch {
	case failure == nil || result.Waiting:
	case throttled:
		log.Error(failure, "Throttled by Azure", logkey.RetryAfter, result.RetryAfter.Round(time.Second).String())
	case arm.IsConflict(failure):
		// Others change the scale set too, such as an upgrade of its nodes. That is
		// no failure.
		log.Info("Another update is under way", logkey.Reason, failure.Error())
	case result.RetryAfter > 0:
		log.Error(failure, "Azure refuses", logkey.RetryAfter, result.RetryAfter.Round(time.Second).String())
	}
	if writing != nil || (failure != nil && result.RetryAfter == 0) {
		return reconcile.Result{}, errors.Join(failure, writing)
	}
	return reconcile.Result{RequeueAfter: result.RetryAfter}, nil
}

// withoutTarget deals with the assigned identities of a node that has no VM or
// scale set.
func (r *targetReconciler) withoutTarget(ctx context.Context, name string) error {
	assigned, err := r.world.assignedOnNode(ctx, name)
	if err != nil || len(assigned) == 0 {
		return err
	}
	node, err := r.world.node(ctx, name)
	if err != nil {
		return err
	}
	missing := fmt.Sprintf("node %s does not exist", name)
	if node == nil {
		gone, err := r.world.nodeGone(ctx, name)
		if err != nil {
			return err
		}
		if !gone && name != "" {
			return nil // the cache is behind; the node is an event to come
		}
	} else if _, err := targetOf(node); err != nil {
		missing = err.Error()
	} else {
		return nil // it has a target by now, which was queued by the same event
	}
	return r.status.each(ctx, assigned, func(ctx context.Context, a *v1.AzureAssignedIdentity) error {
		switch {
		case a.DeletionTimestamp.IsZero():
			v := verdict{reason: v1.ReasonTargetNotFound, message: missing}
			if id := a.Spec.AzureIdentityRef; id != nil && id.Spec.Type != v1.UserAssignedMSI && node != nil {
				v = judge(a, name, compute.Result{}, nil)
			}
			return r.status.judged(ctx, a, v)
		default:
			// What MIC added to a VM or scale set that still exists is in its
			// ledger, which outlives this object.
			if node == nil {
				r.events.removedWithNode(a)
			}
			return r.status.released(ctx, a)
		}
	})
}
