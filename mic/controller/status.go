package controller

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	lru "k8s.io/apimachinery/pkg/util/cache"
	"k8s.io/klog/v2"
	"sigs.k8s.io/controller-runtime/pkg/client"

	v1 "github.com/aad-pod-identity/aad-pod-identity/api/v1"
	"github.com/aad-pod-identity/aad-pod-identity/internal/logkey"
	"github.com/aad-pod-identity/aad-pod-identity/internal/metric"
)

// statusWriter writes what became of assigned identities. Every write names the
// resource version that was judged: an object that was changed meanwhile, say
// to another identity, must not be called Assigned.
type statusWriter struct {
	writer  client.Client
	events  events
	metrics *metric.MIC
	// parallel is how many writes run at once for one target.
	parallel int
	// outdated are the versions that are known to be no object's last one.
	outdated *lru.LRUExpireCache
}

// objectVersion is an object as it was once.
type objectVersion struct {
	uid             types.UID
	resourceVersion string
}

// Bounds of the memory of outdated versions. The cache learns of a write within
// seconds; one that is not remembered costs a request that is refused.
const (
	maxOutdated  = 8192
	outdatedTime = time.Minute
)

func newStatusWriter(writer client.Client, ev events, metrics *metric.MIC, parallel int) *statusWriter {
	return &statusWriter{writer: writer, events: ev, metrics: metrics, parallel: parallel, outdated: lru.NewLRUExpireCache(maxOutdated)}
}

// each writes to all objects and returns the first error.
func (w *statusWriter) each(ctx context.Context, all []*v1.AzureAssignedIdentity, write func(context.Context, *v1.AzureAssignedIdentity) error) error {
	var g errgroup.Group
	g.SetLimit(w.parallel)
	for _, a := range all {
		g.Go(func() error { return write(ctx, a) })
	}
	return g.Wait()
}

// judged writes a verdict if it says something new.
func (w *statusWriter) judged(ctx context.Context, a *v1.AzureAssignedIdentity, v verdict) error {
	next, changed := v.status(a.Status, time.Now())
	if changed {
		klog.FromContext(ctx).V(1).Info(fmt.Sprintf("updating AzureAssignedIdentity %s/%s status to %s", a.Namespace, a.Name, next.Status))
		written, err := w.patch(ctx, a, map[string]any{"status": next})
		if err != nil || !written {
			return err
		}
	}
	if a.Spec.AzureIdentityRef == nil {
		return nil
	}
	switch {
	case v.assigned && changed && a.Status.Status != v1.AssignedIDAssigned:
		w.events.assigned(ctx, a)
	case !v.assigned && !v.unknown && v.reason != v1.ReasonPending && (changed || v.attempted):
		w.events.applyError(a, v.message, v.requestID)
	}
	return nil
}

// unassigned says that the identity is about to go.
func (w *statusWriter) unassigned(ctx context.Context, a *v1.AzureAssignedIdentity) error {
	klog.FromContext(ctx).V(1).Info(fmt.Sprintf("updating AzureAssignedIdentity %s/%s status to %s", a.Namespace, a.Name, v1.AssignedIDUnassigned))
	_, err := w.patch(ctx, a, map[string]any{"status": map[string]any{"status": v1.AssignedIDUnassigned, "conditions": nil}})
	return err
}

// released lets go of an object that is being deleted.
func (w *statusWriter) released(ctx context.Context, a *v1.AzureAssignedIdentity) error {
	if !slices.Contains(a.Finalizers, v1.AssignedIdentityFinalizer) {
		return nil
	}
	started := time.Now()
	others := slices.DeleteFunc(slices.Clone(a.Finalizers), func(f string) bool { return f == v1.AssignedIdentityFinalizer })
	body := map[string]any{"metadata": map[string]any{"finalizers": others}}
	if a.Status.Status != v1.AssignedIDUnassigned {
		body["status"] = map[string]any{"status": v1.AssignedIDUnassigned, "conditions": nil}
	}
	written, err := w.patch(ctx, a, body)
	if err != nil || !written {
		return err
	}
	w.metrics.AssignedIdentityDeletions.Inc()
	w.metrics.AssignedIdentityDeletionDuration.Observe(time.Since(started).Seconds())
	klog.FromContext(ctx).Info(fmt.Sprintf("deleted assigned id %s/%s", a.Namespace, a.Name), logkey.Node, a.Spec.NodeName)
	return nil
}

// patch writes a merge patch to the object as it was read. It reports false if
// the object is another by now: what changed it is an event that brings its
// target back. An announced object was changed by MIC itself a moment ago, and
// so comes back too. When many pods come at once, passes follow each other faster
// than the cache learns of their writes: what the one before has written is not
// asked of the API server again.
func (w *statusWriter) patch(ctx context.Context, a *v1.AzureAssignedIdentity, body map[string]any) (bool, error) {
	read := objectVersion{a.UID, a.ResourceVersion}
	if _, known := w.outdated.Get(read); known {
		return false, nil
	}
	meta, ok := body["metadata"].(map[string]any)
	if !ok {
		meta = map[string]any{}
		body["metadata"] = meta
	}
	meta["resourceVersion"] = a.ResourceVersion
	raw, err := json.Marshal(body)
	if err != nil {
		return false, fmt.Errorf("status of AzureAssignedIdentity %s/%s: %w", a.Namespace, a.Name, err)
	}
	target := &v1.AzureAssignedIdentity{ObjectMeta: metav1.ObjectMeta{Namespace: a.Namespace, Name: a.Name}}
	err = w.writer.Patch(ctx, target, client.RawPatch(types.MergePatchType, raw))
	switch {
	case apierrors.IsConflict(err), apierrors.IsNotFound(err):
		w.outdated.Add(read, nil, outdatedTime)
		return false, nil
	case err != nil:
		w.metrics.KubernetesAPIErrors.WithLabelValues(metric.OpAssignedIdentityStatus).Inc()
		w.events.statusError(a, err)
		return false, fmt.Errorf("writing status of AzureAssignedIdentity %s/%s: %w", a.Namespace, a.Name, err)
	}
	// The version is the same if nothing was new, and also if the object went with its
	// last finalizer.
	if target.ResourceVersion != a.ResourceVersion || len(target.Finalizers) < len(a.Finalizers) {
		w.outdated.Add(read, nil, outdatedTime)
	}
	return true, nil
}
