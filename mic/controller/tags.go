package controller

import (
	"context"
	"encoding/json"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/klog/v2"
	"sigs.k8s.io/controller-runtime/pkg/client"

	v1 "github.com/aad-pod-identity/aad-pod-identity/api/v1"
	"github.com/aad-pod-identity/aad-pod-identity/internal/binding"
	"github.com/aad-pod-identity/aad-pod-identity/internal/logkey"
)

// tagsOf returns the tags that a pod carries.
func tagsOf(p *corev1.Pod) binding.Tags {
	return binding.Tags{
		Binding:  p.Labels[v1.PodBindingLabelKey],
		Identity: p.Labels[v1.PodIdentityLabelKey],
		Bindings: p.Annotations[v1.PodBindingsAnnotationKey],
	}
}

// tag keeps the tags of a pod true: the webhook sets them when the pod is
// created, and bindings change later. Pods that end are left as they are, and so
// are those about which not all is known.
func (r *podReconciler) tag(ctx context.Context, p *corev1.Pod, result binding.Result) error {
	want := result.Tags()
	if tagsOf(p) == want || finished(p) || !p.DeletionTimestamp.IsZero() || len(result.Undecided) > 0 {
		return nil
	}
	patch, err := tagPatch(p.UID, want)
	if err != nil {
		return fmt.Errorf("tags of pod %s/%s: %w", p.Namespace, p.Name, err)
	}
	target := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: p.Namespace, Name: p.Name}}
	err = r.writer.Patch(ctx, target, client.RawPatch(types.MergePatchType, patch))
	if apierrors.IsInvalid(err) {
		// Such as a pod whose annotations leave no room for another: trying again
		// helps nobody.
		klog.FromContext(ctx).Error(err, "The pod is not tagged", logkey.Pod, klog.KObj(p).String())
		return nil
	}
	if client.IgnoreNotFound(err) != nil {
		return fmt.Errorf("tagging pod %s/%s: %w", p.Namespace, p.Name, err)
	}
	if err == nil && want != (binding.Tags{}) && target.Labels[v1.BindingLabelKey] == "" {
		// Its label was taken off meanwhile, so it was let go of before it was tagged.
		r.unlabelled.left(client.ObjectKeyFromObject(p))
		return fmt.Errorf("pod %s/%s lost its label while it was tagged", p.Namespace, p.Name)
	}
	return nil
}

// tagPatch names the tags and nothing else; a tag without a value is removed.
// The UID keeps it off another pod of the same name.
func tagPatch(uid types.UID, want binding.Tags) ([]byte, error) {
	value := func(s string) *string {
		if s == "" {
			return nil
		}
		return &s
	}
	return json.Marshal(map[string]any{"metadata": map[string]any{
		"uid":         uid,
		"labels":      map[string]*string{v1.PodBindingLabelKey: value(want.Binding), v1.PodIdentityLabelKey: value(want.Identity)},
		"annotations": map[string]*string{v1.PodBindingsAnnotationKey: value(want.Bindings)},
	}})
}
