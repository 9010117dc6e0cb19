package controller

import (
	"context"
	"errors"
	"fmt"
	"sync"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/workqueue"
	"k8s.io/klog/v2"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/source"

	v1 "github.com/aad-pod-identity/aad-pod-identity/api/v1"
	"github.com/aad-pod-identity/aad-pod-identity/internal/binding"
)

// unlabelled says for which pods that are in no cache any more something is left
// to do. As long as such a pod has assigned identities that is known without a
// memory; the memory has those without, keeps a pod that is simply gone
// from being asked for more than once, and one with which it did not work from
// being forgotten when its last assigned identity is. The zero value is ready.
type unlabelled struct {
	mu sync.Mutex
	// done has the pods with which it worked or that were ending, as true, while they
	// have assigned identities, and those with which it did not work, as false.
	done map[types.NamespacedName]bool
}

// due says whether a pod that is not in the cache is to be dealt with.
func (u *unlabelled) due(key types.NamespacedName, hasAssigned bool) bool {
	if key.Namespace == "" || key.Name == "" {
		return false // of a damaged object
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	done, known := u.done[key]
	if known && done && !hasAssigned {
		delete(u.done, key)
	}
	if known {
		return !done
	}
	return hasAssigned
}

// left says that a pod left the cache with something on it that MIC set.
func (u *unlabelled) left(key types.NamespacedName) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.set(key, false)
}

// ended says that a pod left the cache that was ending, whose tags stay as they are: it
// need not be asked for.
func (u *unlabelled) ended(key types.NamespacedName) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.set(key, true)
}

// set remembers a pod; u.mu is held.
func (u *unlabelled) set(key types.NamespacedName, done bool) {
	if u.done == nil {
		u.done = map[types.NamespacedName]bool{}
	}
	u.done[key] = done
}

// record says how dealing with a pod went.
func (u *unlabelled) record(key types.NamespacedName, hasAssigned bool, err error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if err == nil && !hasAssigned {
		delete(u.done, key)
		return
	}
	u.set(key, err == nil)
}

// forget is for a pod that is labelled, as far as the cache knew a moment ago: what is
// left to do stays, for the label may be gone by now.
func (u *unlabelled) forget(key types.NamespacedName) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.done[key] {
		delete(u.done, key)
	}
}

// podEvents queues pods, and keeps note of those that left the cache without being
// deleted.
func (r *podReconciler) podEvents() handler.TypedEventHandler[*corev1.Pod, reconcile.Request] {
	type queue = workqueue.TypedRateLimitingInterface[reconcile.Request]
	add := func(q queue, p *corev1.Pod) {
		q.Add(reconcile.Request{NamespacedName: client.ObjectKeyFromObject(p)})
	}
	return handler.TypedFuncs[*corev1.Pod, reconcile.Request]{
		CreateFunc: func(_ context.Context, e event.TypedCreateEvent[*corev1.Pod], q queue) { add(q, e.Object) },
		UpdateFunc: func(_ context.Context, e event.TypedUpdateEvent[*corev1.Pod], q queue) { add(q, e.ObjectNew) },
		DeleteFunc: func(_ context.Context, e event.TypedDeleteEvent[*corev1.Pod], q queue) {
			p := e.Object
			switch ending := !p.DeletionTimestamp.IsZero() || finished(p); {
			case ending:
				r.unlabelled.ended(client.ObjectKeyFromObject(p))
			case tagsOf(p) != binding.Tags{} || gateCondition(p) != nil:
				r.unlabelled.left(client.ObjectKeyFromObject(p))
			}
			add(q, p)
		},
	}
}

// leftBehind is a source of the pods that lost their label while no MIC ran: they still
// have tags. It is one list for each leader.
func (r *podReconciler) leftBehind() source.TypedSource[reconcile.Request] {
	find := func(ctx context.Context, q workqueue.TypedRateLimitingInterface[reconcile.Request]) error {
		taggedOnly, err := labels.Parse(v1.PodBindingLabelKey + ",!" + v1.BindingLabelKey)
		if err != nil {
			return fmt.Errorf("selector of tagged pods: %w", err)
		}
		pods := &metav1.PartialObjectMetadataList{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "PodList"}}
		if err := r.world.live.List(ctx, pods, client.MatchingLabelsSelector{Selector: taggedOnly}); err != nil {
			return fmt.Errorf("listing tagged pods without a label: %w", err)
		}
		for i := range pods.Items {
			key := client.ObjectKeyFromObject(&pods.Items[i])
			r.unlabelled.left(key)
			q.Add(reconcile.Request{NamespacedName: key})
		}
		return nil
	}
	return source.TypedFunc[reconcile.Request](func(ctx context.Context, q workqueue.TypedRateLimitingInterface[reconcile.Request]) error {
		go func() {
			if !r.start.wait(ctx) {
				return
			}
			// It ends with ctx at the latest.
			_ = retrying().DelayFunc().Until(ctx, true, true, func(ctx context.Context) (bool, error) {
				err := find(ctx, q)
				if err != nil && ctx.Err() == nil {
					klog.FromContext(ctx).Error(err, "Pods that lost their label while no MIC ran may keep their tags")
				}
				return err == nil, nil
			})
		}()
		return nil
	})
}

// unlabel deals with a pod that is in no cache: if its label was taken off while it
// runs, its tags and its gate say that it has no identity. It is the API server that
// knows, and it may say that the pod is labelled.
func (r *podReconciler) unlabel(ctx context.Context, key types.NamespacedName) (labelled bool, err error) {
	var p corev1.Pod
	err = r.world.live.Get(ctx, key, &p)
	if apierrors.IsNotFound(err) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("reading pod %s: %w", key, err)
	}
	if _, labelled := p.Labels[v1.BindingLabelKey]; labelled {
		return true, nil
	}
	return false, errors.Join(r.tag(ctx, &p, binding.Result{}), r.setGate(ctx, &p, judgeGate(&p, binding.Result{}, nil)))
}
