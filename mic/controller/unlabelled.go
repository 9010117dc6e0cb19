package controller

import (
	"context"
	"errors"
	"fmt"
	"sync"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"

	v1 "github.com/aad-pod-identity/aad-pod-identity/api/v1"
	"github.com/aad-pod-identity/aad-pod-identity/internal/binding"
)

// unlabelled says for which pods that are in no cache any more something is left
// to do. As long as such a pod has assigned identities that is known without a
// memory, so a crash loses nothing; the memory keeps a pod that is simply gone
// from being asked for more than once, and one with which it did not work from
// being forgotten when its last assigned identity is. The zero value is ready.
type unlabelled struct {
	mu sync.Mutex
	// done has the pods with which it worked, as true, while they have assigned
	// identities, and those with which it did not, as false.
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

// record says how dealing with a pod went.
func (u *unlabelled) record(key types.NamespacedName, hasAssigned bool, err error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if err == nil && !hasAssigned {
		delete(u.done, key)
		return
	}
	if u.done == nil {
		u.done = map[types.NamespacedName]bool{}
	}
	u.done[key] = err == nil
}

// forget is for a pod that is labelled.
func (u *unlabelled) forget(key types.NamespacedName) {
	u.mu.Lock()
	defer u.mu.Unlock()
	delete(u.done, key)
}

// unlabel deals with a pod that is in no cache any more: if its label was taken
// off while it runs, its tags and its gate say that it has no identity. It is the
// API server that knows.
func (r *podReconciler) unlabel(ctx context.Context, key types.NamespacedName) error {
	var p corev1.Pod
	err := r.world.live.Get(ctx, key, &p)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("reading pod %s: %w", key, err)
	}
	if _, labelled := p.Labels[v1.BindingLabelKey]; labelled {
		return nil // the cache is behind; the pod is an event to come
	}
	return errors.Join(r.tag(ctx, &p, binding.Result{}), r.setGate(ctx, &p, judgeGate(&p, binding.Result{}, nil)))
}
