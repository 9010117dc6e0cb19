package podindex

import (
	"context"
	"slices"

	"k8s.io/apimachinery/pkg/types"

	v1 "github.com/aad-pod-identity/aad-pod-identity/api/v1"
)

// queue are the pods that got something to use lately, in order and each once. It
// is guarded by the index's lock.
type queue struct {
	pods    []types.NamespacedName
	waiting map[types.NamespacedName]struct{}
	filled  signal
}

// NextAssigned waits for a pod that has got an identity to use and that NextAssigned
// has not returned for it. Pods that are gone meanwhile may be among them.
func (x *Index) NextAssigned(ctx context.Context) (types.NamespacedName, error) {
	for {
		x.mu.Lock()
		if len(x.fresh.pods) > 0 {
			next := x.fresh.pods[0]
			x.fresh.pods = x.fresh.pods[1:]
			delete(x.fresh.waiting, next)
			x.mu.Unlock()
			return next, nil
		}
		filled := x.fresh.filled.wait()
		x.mu.Unlock()
		select {
		case <-filled:
		case <-ctx.Done():
			return types.NamespacedName{}, ctx.Err()
		}
	}
}

// gained notes that a pod may have got something to use. Pods that are not on this
// node, or have ended, are left out, and so the queue is bounded by the node's pods.
func (x *Index) gained(pod types.NamespacedName) {
	p, ok := x.pods[pod]
	if !ok || !p.Live || !x.usable(p) {
		return
	}
	if _, ok := x.fresh.waiting[pod]; ok {
		return
	}
	if x.fresh.waiting == nil {
		x.fresh.waiting = map[types.NamespacedName]struct{}{}
	}
	x.fresh.waiting[pod] = struct{}{}
	x.fresh.pods = append(x.fresh.pods, pod)
	x.fresh.filled.fire()
}

// usable says whether the pod seems to have something to use.
func (x *Index) usable(p *Pod) bool {
	if x.bound != nil {
		return len(x.bound.of(p)) > 0
	}
	return slices.ContainsFunc(x.assigned[p.Key()], assignedNow)
}

// assignedNow says whether an identity is on the node; the first releases wrote no
// status.
func assignedNow(a *v1.AzureAssignedIdentity) bool {
	return a.Status.Status == v1.AssignedIDAssigned || a.Status.Status == ""
}

// isAssigned says whether an AzureAssignedIdentity is known as assigned.
func (x *Index) isAssigned(key types.NamespacedName) bool {
	return slices.ContainsFunc(x.assigned[x.owner[key]], func(a *v1.AzureAssignedIdentity) bool {
		return a.Namespace == key.Namespace && a.Name == key.Name && assignedNow(a)
	})
}

// gainedIn is gained for the pods of a namespace.
func (x *Index) gainedIn(namespace string) {
	for key := range x.pods {
		if key.Namespace == namespace {
			x.gained(key)
		}
	}
}

// lost takes a pod that is gone out of the queue.
func (x *Index) lost(pod types.NamespacedName) {
	if _, ok := x.fresh.waiting[pod]; ok {
		delete(x.fresh.waiting, pod)
		x.fresh.pods = slices.DeleteFunc(x.fresh.pods, func(p types.NamespacedName) bool { return p == pod })
	}
}
