package main

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"sigs.k8s.io/controller-runtime/pkg/client"

	v1 "github.com/aad-pod-identity/aad-pod-identity/api/v1"
	"github.com/aad-pod-identity/aad-pod-identity/test/azure"
)

const (
	micNamespace = "default"
	// micTeams is how many clients create objects at once.
	micTeams = 16
)

// inParallel calls f for 0 to n-1.
func inParallel(ctx context.Context, n int, f func(ctx context.Context, i int) error) error {
	var next atomic.Int64
	g, ctx := errgroup.WithContext(ctx)
	for range micTeams {
		g.Go(func() error {
			for ctx.Err() == nil {
				i := int(next.Add(1)) - 1
				if i >= n {
					return nil
				}
				if err := f(ctx, i); err != nil {
					return err
				}
			}
			return ctx.Err()
		})
	}
	return g.Wait()
}

func identityName(i int) string { return fmt.Sprintf("id%02d", i) }

// makeIdentities makes identities in Azure and the cluster; bind makes a binding
// of each, whose selector is the identity's name.
func (w *micWorld) makeIdentities(ctx context.Context, n int) error {
	return inParallel(ctx, n, func(ctx context.Context, i int) error {
		name := identityName(i)
		stored, err := w.control.PutIdentity(ctx, azure.Identity{ID: azure.IdentityID(micSubscription, micIDGroup, name)})
		if err != nil {
			return err
		}
		return w.client.Create(ctx, &v1.AzureIdentity{
			ObjectMeta: metav1.ObjectMeta{Namespace: micNamespace, Name: name},
			Spec:       v1.AzureIdentitySpec{ResourceID: stored.ID, ClientID: stored.ClientID},
		})
	})
}

func (w *micWorld) bind(ctx context.Context, n int) error {
	return inParallel(ctx, n, func(ctx context.Context, i int) error {
		name := identityName(i)
		return w.client.Create(ctx, &v1.AzureIdentityBinding{
			ObjectMeta: metav1.ObjectMeta{Namespace: micNamespace, Name: name},
			Spec:       v1.AzureIdentityBindingSpec{AzureIdentity: name, Selector: name},
		})
	})
}

// makePod makes a pod on a node with the tags that the webhook gives it. A kubelet
// is not needed: a pod is scheduled once it names its node.
func (w *micWorld) makePod(ctx context.Context, name string, node, identity int) error {
	id := identityName(identity)
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: micNamespace, Name: name,
			Labels:      map[string]string{v1.BindingLabelKey: id, v1.PodBindingLabelKey: id, v1.PodIdentityLabelKey: id},
			Annotations: map[string]string{v1.PodBindingsAnnotationKey: micNamespace + "/" + id},
		},
		Spec: corev1.PodSpec{NodeName: nodeName(node), Containers: []corev1.Container{{Name: "c", Image: "none"}}},
	}
	_, err := w.clientset.CoreV1().Pods(micNamespace).Create(ctx, p, metav1.CreateOptions{})
	return err
}

func (w *micWorld) removePod(ctx context.Context, name string) error {
	return w.clientset.CoreV1().Pods(micNamespace).Delete(ctx, name, *metav1.NewDeleteOptions(0))
}

const podNameFormat = "pod%05d"

func podName(i int) string { return fmt.Sprintf(podNameFormat, i) }

// makePods spreads pods evenly over the nodes and identities. The pods of a scale
// set have all of its identities among the first pods that it gets.
func (w *micWorld) makePods(ctx context.Context, from, to, identities int) error {
	nodes := w.sets * nodesPerSet
	return inParallel(ctx, to-from, func(ctx context.Context, i int) error {
		i += from
		rounds := max(1, identities/nodesPerSet)
		return w.makePod(ctx, podName(i), i%nodes, (i%nodesPerSet*rounds+i/nodes%rounds)%identities)
	})
}

// tracker notes when pods become Assigned, as a watch tells it.
type tracker struct {
	mu    sync.Mutex
	at    map[string]time.Time
	ended error
	stop  func()
	// alive says whether MIC is, which ends when it loses its lock.
	alive func() error
}

// track watches the AzureAssignedIdentities.
func (w *micWorld) track(ctx context.Context) (*tracker, error) {
	ctx, cancel := context.WithCancel(ctx)
	t := &tracker{at: map[string]time.Time{}, stop: cancel, alive: w.micAlive}
	events, err := w.follow(ctx, t)
	if err != nil {
		cancel()
		return nil, err
	}
	go func() {
		// The API server ends a watch whose events are not taken fast enough.
		for err == nil {
			for e := range events {
				t.note(e)
			}
			if ctx.Err() != nil {
				return
			}
			events, err = w.follow(ctx, t)
		}
		t.mu.Lock()
		defer t.mu.Unlock()
		t.ended = err
	}()
	return t, nil
}

// follow notes the assigned identities that there are, and watches from then on.
func (w *micWorld) follow(ctx context.Context, t *tracker) (<-chan watch.Event, error) {
	there, changes, err := w.listAndWatch(ctx)
	if err != nil {
		return nil, err
	}
	for i := range there {
		t.note(watch.Event{Type: watch.Modified, Object: &there[i]})
	}
	return changes, nil
}

// listAndWatch returns the assigned identities that there are, and what happens to
// them from then on.
func (w *micWorld) listAndWatch(ctx context.Context) ([]v1.AzureAssignedIdentity, <-chan watch.Event, error) {
	list := &v1.AzureAssignedIdentityList{}
	if err := w.client.List(ctx, list, client.InNamespace(micNamespace)); err != nil {
		return nil, nil, fmt.Errorf("listing assigned identities: %w", err)
	}
	watcher, err := w.client.Watch(ctx, &v1.AzureAssignedIdentityList{}, client.InNamespace(micNamespace),
		&client.ListOptions{Raw: &metav1.ListOptions{ResourceVersion: list.ResourceVersion}})
	if err != nil {
		return nil, nil, fmt.Errorf("watching assigned identities: %w", err)
	}
	return list.Items, watcher.ResultChan(), nil
}

func (t *tracker) note(e watch.Event) {
	now := time.Now()
	a, ok := e.Object.(*v1.AzureAssignedIdentity)
	if !ok {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if _, known := t.at[a.Spec.Pod]; !known && e.Type != watch.Deleted && a.Status.Status == v1.AssignedIDAssigned {
		t.at[a.Spec.Pod] = now
	}
}

// assigned says when a pod became Assigned.
func (t *tracker) assigned(pod string) (time.Time, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	at, ok := t.at[pod]
	return at, ok
}

// waitFor waits until so many pods are or were Assigned, and returns when the last
// of them became so.
func (t *tracker) waitFor(ctx context.Context, n int, patience time.Duration) (last time.Time, err error) {
	ctx, giveUp := context.WithCancelCause(ctx)
	defer giveUp(nil)
	err = poll(ctx, patience, fmt.Sprintf("%d assignments", n), func() error {
		if err := t.alive(); err != nil {
			giveUp(err)
			return err
		}
		t.mu.Lock()
		defer t.mu.Unlock()
		if t.ended != nil {
			return t.ended
		}
		if len(t.at) < n {
			return fmt.Errorf("there are %d", len(t.at))
		}
		for _, at := range t.at {
			if at.After(last) {
				last = at
			}
		}
		return nil
	})
	return last, err
}
