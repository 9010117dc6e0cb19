package controller

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/klog/v2"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/aad-pod-identity/aad-pod-identity/internal/uninstall"
	"github.com/aad-pod-identity/aad-pod-identity/mic/compute"
)

// uninstallReconciler tells the uninstall hook how far MIC is. The work itself
// is done by the other reconcilers: while the marker is there they want nothing.
type uninstallReconciler struct {
	world  *world
	writer client.Client
	engine *compute.Engine
	start  *start
}

// progressInterval is how often progress is looked at during an uninstall.
const progressInterval = time.Second

// Reconcile implements reconcile.Reconciler.
func (r *uninstallReconciler) Reconcile(ctx context.Context, request reconcile.Request) (reconcile.Result, error) {
	if !r.start.wait(ctx) {
		return reconcile.Result{}, nil
	}
	var marker corev1.ConfigMap
	if err := r.world.cached.Get(ctx, request.NamespacedName, &marker); err != nil {
		return reconcile.Result{}, client.IgnoreNotFound(err)
	}
	if !uninstall.Active(marker.Data) || marker.Data[uninstall.MICKey] == uninstall.Done {
		return reconcile.Result{}, nil
	}
	var assigned assignedList
	// Live: "done" is final, so it must not come from a cache that is behind.
	if err := r.world.live.List(ctx, &assigned); err != nil {
		return reconcile.Result{}, fmt.Errorf("listing assigned identities: %w", err)
	}
	text := remaining(len(assigned.Items), r.engine.Targets())
	if marker.Data[uninstall.MICKey] != text {
		klog.FromContext(ctx).Info("Uninstalling: " + text)
		if err := r.write(ctx, text); err != nil {
			return reconcile.Result{}, err
		}
	}
	return reconcile.Result{RequeueAfter: progressInterval}, nil
}

// remaining says what is left, or that nothing is.
func remaining[T fmt.Stringer](assigned int, targets []T) string {
	if assigned == 0 && len(targets) == 0 {
		return uninstall.Done
	}
	text := fmt.Sprintf("%d left: %d AzureAssignedIdentities, %d VMs or scale sets", assigned+len(targets), assigned, len(targets))
	for i, t := range targets {
		if i == 3 {
			return text + ", …"
		}
		text += ", " + t.String()
	}
	return text
}

func (r *uninstallReconciler) write(ctx context.Context, text string) error {
	raw, err := json.Marshal(map[string]any{"data": map[string]string{uninstall.MICKey: text}})
	if err != nil {
		return fmt.Errorf("uninstall progress: %w", err)
	}
	cm := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: r.world.namespace, Name: uninstall.Name}}
	if err := r.writer.Patch(ctx, cm, client.RawPatch(types.MergePatchType, raw)); client.IgnoreNotFound(err) != nil {
		return fmt.Errorf("writing uninstall progress: %w", err)
	}
	return nil
}
