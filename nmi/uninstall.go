package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"

	"github.com/aad-pod-identity/aad-pod-identity/internal/logkey"
	"github.com/aad-pod-identity/aad-pod-identity/internal/uninstall"
	"github.com/aad-pod-identity/aad-pod-identity/nmi/redirect"
)

const (
	// removeWait is how long one removal is waited for before the marker is told
	// what is wrong.
	removeWait = 10 * time.Second
	// markerRetry is the pause after a failure.
	markerRetry = 5 * time.Second
)

// marker follows the uninstall marker: in its second phase the redirect goes, and
// the marker is told so.
type marker struct {
	client          rest.Interface
	namespace, node string
	runner          *redirect.Runner

	mu   sync.Mutex
	data map[string]string // nil without a marker
	wake chan struct{}
}

func newMarker(client rest.Interface, namespace, node string, runner *redirect.Runner) *marker {
	return &marker{client: client, namespace: namespace, node: node, runner: runner, wake: make(chan struct{}, 1)}
}

// run follows the marker until ctx ends.
func (m *marker) run(ctx context.Context) error {
	informer := cache.NewSharedIndexInformer(
		cache.NewFilteredListWatchFromClient(m.client, "configmaps", m.namespace, func(l *metav1.ListOptions) {
			l.FieldSelector = fields.OneTermEqualSelector("metadata.name", uninstall.Name).String()
		}), &corev1.ConfigMap{}, 0, cache.Indexers{})
	set := func(o any) {
		if c, ok := o.(*corev1.ConfigMap); ok && c.Name == uninstall.Name {
			m.set(c.Data)
		}
	}
	if _, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    set,
		UpdateFunc: func(_, o any) { set(o) },
		DeleteFunc: func(any) { m.set(nil) },
	}); err != nil {
		return fmt.Errorf("watching ConfigMap %s: %w", uninstall.Name, err)
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { informer.RunWithContext(ctx) })

	retry := time.NewTimer(markerRetry)
	retry.Stop()
	defer retry.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-m.wake:
		case <-retry.C:
		}
		if err := m.follow(ctx); err != nil && ctx.Err() == nil {
			klog.FromContext(ctx).Error(err, "Cannot take part in the uninstall yet; trying again", logkey.ConfigMap, m.namespace+"/"+uninstall.Name)
			retry.Reset(markerRetry)
		}
	}
}

func (m *marker) set(data map[string]string) {
	m.mu.Lock()
	m.data = data
	m.mu.Unlock()
	select {
	case m.wake <- struct{}{}:
	default: // awake already, and it reads the data afresh
	}
}

// follow does what the marker says now. An uninstall that was given up brings the
// redirect back.
func (m *marker) follow(ctx context.Context) error {
	m.mu.Lock()
	data := m.data
	m.mu.Unlock()
	remove := uninstall.RedirectRemoval(data)
	m.runner.SetRemoval(remove)
	if !remove {
		return nil
	}
	waiting, cancel := context.WithTimeout(ctx, removeWait)
	defer cancel()
	if err := m.runner.WaitRemoved(waiting); err != nil {
		// The hook prints it, so that whoever uninstalls learns of it.
		return errors.Join(fmt.Errorf("removing the redirect: %w", err), m.tell(ctx, data, err.Error()))
	}
	return m.tell(ctx, data, uninstall.Removed)
}

// tell writes this node's key, unless it says so already.
func (m *marker) tell(ctx context.Context, data map[string]string, value string) error {
	key := uninstall.NMIKey(m.node)
	if data[key] == value {
		return nil
	}
	patch, err := json.Marshal(map[string]map[string]string{"data": {key: value}})
	if err != nil {
		return fmt.Errorf("encoding a patch: %w", err)
	}
	if err := m.client.Patch(types.MergePatchType).Namespace(m.namespace).Resource("configmaps").Name(uninstall.Name).
		Body(patch).Do(ctx).Error(); err != nil {
		return fmt.Errorf("patching ConfigMap %s/%s: %w", m.namespace, uninstall.Name, err)
	}
	return nil
}
