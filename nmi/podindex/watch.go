package podindex

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"

	v1 "github.com/aad-pod-identity/aad-pod-identity/api/v1"
	"github.com/aad-pod-identity/aad-pod-identity/internal/logkey"
)

// WatchOptions say what to watch.
type WatchOptions struct {
	// Core reads pods, Custom the kinds of api/v1.
	Core, Custom cache.Getter
	// Node whose pods are indexed.
	Node string
	// ByNodeLabel watches only the AzureAssignedIdentities that carry the node's
	// label, instead of all of the cluster.
	ByNodeLabel bool
	// Boot is when the node was booted. If that was minutes ago, addresses that were
	// reported before are not believed; the zero time believes all.
	Boot time.Time
	// OnError, when set, is told of each failed list or watch.
	OnError func()
}

// Watcher feeds an Index from the API server.
type Watcher struct {
	index   *Index
	options WatchOptions
	sources []*source

	mu   sync.Mutex
	errs map[string]error // last failure by resource, until its list succeeds
}

// source is one watched resource.
type source struct {
	resource string
	informer cache.SharedIndexInformer
	handler  cache.ResourceEventHandlerRegistration
}

// NewWatcher makes a watcher, which does nothing until Run.
func NewWatcher(index *Index, o WatchOptions) (*Watcher, error) {
	w := &Watcher{index: index, options: o, errs: map[string]error{}}
	ofNode := func(l *metav1.ListOptions) {
		l.FieldSelector = fields.OneTermEqualSelector("spec.nodeName", o.Node).String()
	}
	labelled := func(l *metav1.ListOptions) {
		if o.ByNodeLabel {
			l.LabelSelector = labels.Set{v1.NodeNameLabelKey: o.Node}.String()
		}
	}
	all := func(*metav1.ListOptions) {}
	began := time.Now()
	doubt := func() bool { return doubts(o.Boot, began, time.Since(began)) }
	err := errors.Join(
		add(w, o.Core, "pods", &corev1.Pod{}, ofNode, reducePodSince(o.Boot, doubt),
			func(p *corev1.Pod) { index.SetPod(NewPod(p)) }, index.DeletePod),
		add(w, o.Custom, "azurepodidentityexceptions", &v1.AzurePodIdentityException{}, all, dropManagedFields,
			index.SetException, index.DeleteException),
	)
	if index.Managed() {
		return w, errors.Join(err,
			add(w, o.Custom, "azureidentities", &v1.AzureIdentity{}, all, dropManagedFields,
				index.SetIdentity, index.DeleteIdentity),
			add(w, o.Custom, "azureidentitybindings", &v1.AzureIdentityBinding{}, all, dropManagedFields,
				index.SetBinding, index.DeleteBinding),
		)
	}
	return w, errors.Join(err,
		add(w, o.Custom, "azureassignedidentities", &v1.AzureAssignedIdentity{}, labelled, dropManagedFields,
			index.SetAssigned, index.DeleteAssigned),
	)
}

// add registers a resource with what to do about its objects.
func add[T runtime.Object](w *Watcher, client cache.Getter, resource string, example T,
	selectors func(*metav1.ListOptions), transform cache.TransformFunc,
	set func(T), remove func(types.NamespacedName),
) error {
	informer := cache.NewSharedIndexInformer(
		cache.NewFilteredListWatchFromClient(client, resource, metav1.NamespaceAll, selectors), example, 0, cache.Indexers{})
	s := &source{resource: resource, informer: informer}
	if err := informer.SetTransform(transform); err != nil {
		return fmt.Errorf("watching %s: %w", resource, err)
	}
	if err := informer.SetWatchErrorHandlerWithContext(func(ctx context.Context, r *cache.Reflector, err error) {
		if first := w.failed(ctx, s, err); !first {
			cache.DefaultWatchErrorHandler(ctx, r, err)
		}
	}); err != nil {
		return fmt.Errorf("watching %s: %w", resource, err)
	}
	update := func(o any) {
		if t, ok := o.(T); ok {
			set(t)
		}
	}
	var err error
	s.handler, err = informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    update,
		UpdateFunc: func(_, o any) { update(o) },
		DeleteFunc: func(o any) {
			key, err := cache.DeletionHandlingObjectToName(o)
			if err == nil { // only objects without metadata have no name
				remove(types.NamespacedName{Namespace: key.Namespace, Name: key.Name})
			}
		},
	})
	if err != nil {
		return fmt.Errorf("watching %s: %w", resource, err)
	}
	w.sources = append(w.sources, s)
	return nil
}

// failed notes a failed list or watch. First is true before the first list has
// succeeded, when the failure is NMI's trouble and logged as such; a watch that
// ends later is routine.
func (w *Watcher) failed(ctx context.Context, s *source, err error) (first bool) {
	w.mu.Lock()
	w.errs[s.resource] = err
	w.mu.Unlock()
	if w.options.OnError != nil {
		w.options.OnError()
	}
	if s.handler.HasSynced() {
		return false
	}
	klog.FromContext(ctx).Error(err, "Cannot list; NMI serves no tokens before it can. Are its RBAC rules and the CRDs installed?",
		logkey.Resource, s.resource)
	return true
}

// Run watches until ctx ends, and marks the index as synced once the first
// lists of all resources are in it.
func (w *Watcher) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	for _, s := range w.sources {
		wg.Go(func() { s.informer.RunWithContext(ctx) })
	}
	for _, s := range w.sources {
		select {
		case <-s.handler.HasSyncedChecker().Done():
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	w.index.MarkSynced()
	klog.FromContext(ctx).Info("Pods and assigned identities of the node are known", logkey.Node, w.options.Node)
	<-ctx.Done()
	return ctx.Err()
}

// Ready is nil once the index is complete, else it says what is missing and why.
func (w *Watcher) Ready(context.Context) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	var errs []error
	for _, s := range w.sources {
		if s.handler.HasSynced() {
			continue
		}
		if err := w.errs[s.resource]; err != nil {
			errs = append(errs, fmt.Errorf("%s not listed yet: %w", s.resource, err))
		} else {
			errs = append(errs, fmt.Errorf("%s not listed yet", s.resource))
		}
	}
	return errors.Join(errs...)
}

// reducePod drops all of a Pod that NewPod does not read, so that the cache stays
// small whatever the pods carry.
func reducePod(p *corev1.Pod) *corev1.Pod {
	r := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: p.Namespace, Name: p.Name, UID: p.UID, ResourceVersion: p.ResourceVersion,
			Labels: p.Labels, DeletionTimestamp: p.DeletionTimestamp,
		},
		Spec: corev1.PodSpec{
			NodeName: p.Spec.NodeName, HostNetwork: p.Spec.HostNetwork, ServiceAccountName: p.Spec.ServiceAccountName,
		},
		Status: corev1.PodStatus{
			Phase: p.Status.Phase, HostIP: p.Status.HostIP, PodIP: p.Status.PodIP, PodIPs: p.Status.PodIPs,
		},
	}
	if list, ok := p.Annotations[v1.ResourcesAnnotationKey]; ok {
		r.Annotations = map[string]string{v1.ResourcesAnnotationKey: list}
	}
	r.Status.ContainerStatuses = reduceStatuses(p.Status.ContainerStatuses)
	r.Status.InitContainerStatuses = reduceStatuses(p.Status.InitContainerStatuses)
	return r
}

// reduceStatuses keeps which containers have ended.
func reduceStatuses(all []corev1.ContainerStatus) []corev1.ContainerStatus {
	reduced := make([]corev1.ContainerStatus, len(all))
	for i, c := range all {
		if c.State.Terminated != nil {
			reduced[i].State.Terminated = &corev1.ContainerStateTerminated{}
		}
	}
	return reduced
}

func dropManagedFields(o any) (any, error) {
	if m, ok := o.(metav1.Object); ok {
		m.SetManagedFields(nil)
	}
	return o, nil
}
