package mutate

import (
	"context"
	"fmt"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/klog/v2"
	"sigs.k8s.io/controller-runtime/pkg/webhook/admission"

	v1 "github.com/aad-pod-identity/aad-pod-identity/api/v1"
	"github.com/aad-pod-identity/aad-pod-identity/internal/access"
	"github.com/aad-pod-identity/aad-pod-identity/internal/logkey"
)

// Metadata is what pods are given by: the metadata of their ServiceAccount and
// Namespace.
type Metadata interface {
	// ServiceAccount returns nil if there is none.
	ServiceAccount(ctx context.Context, namespace, name string) (*metav1.PartialObjectMetadata, error)
	// Namespace returns nil if there is none.
	Namespace(ctx context.Context, name string) (*metav1.PartialObjectMetadata, error)
}

// Injector gives a pod without a binding label the one of its ServiceAccount or
// Namespace, and with it the tags, in one patch. A pod that gets none loses the
// tags that it carries, as the Stripper would have it.
type Injector struct {
	Tagger *Tagger
}

// Handle implements admission.Handler.
func (i *Injector) Handle(ctx context.Context, req admission.Request) admission.Response {
	pod, resp := podOf(req)
	if pod == nil {
		return resp
	}
	if pod.labelled() {
		return i.Tagger.tag(ctx, req, pod, "")
	}
	value, owner, err := i.selector(ctx, req.Namespace, pod)
	if err != nil {
		klog.FromContext(ctx).Error(err, "Admitting a pod without the label", logkey.Pod, klog.KRef(req.Namespace, pod.name()))
		return strip(pod).WithWarnings(fmt.Sprintf("the pod gets no label %s: %v", v1.BindingLabelKey, err))
	}
	if value == "" {
		return strip(pod)
	}
	if problems := validation.IsValidLabelValue(value); len(problems) > 0 {
		why := fmt.Sprintf("annotation %s of %s: %.100q cannot be a label value: %s", v1.SelectorAnnotationKey, owner, value, problems[0])
		// Most pods are created by controllers, which show warnings to nobody.
		klog.FromContext(ctx).Info("Admitting a pod without the label", logkey.Pod, klog.KRef(req.Namespace, pod.name()), logkey.Reason, why)
		return strip(pod).WithWarnings(fmt.Sprintf("the pod gets no label %s: %s", v1.BindingLabelKey, why))
	}
	return i.Tagger.tag(ctx, req, pod, value)
}

// selector returns the label value for a pod that carries none, and who names
// it; "" if nobody does.
func (i *Injector) selector(ctx context.Context, namespace string, pod *podMeta) (value, owner string, err error) {
	name := access.Account(pod.Spec.ServiceAccountName)
	account, err := i.Tagger.Metadata.ServiceAccount(ctx, namespace, name)
	if err != nil {
		return "", "", err
	}
	if value, named := selectorOf(account); named {
		return value, "ServiceAccount " + namespace + "/" + name, nil
	}
	ns, err := i.Tagger.Metadata.Namespace(ctx, namespace)
	if err != nil {
		return "", "", err
	}
	value, _ = selectorOf(ns)
	return value, "Namespace " + namespace, nil
}

// selectorOf returns the annotation of an object. An empty one names no label,
// which on a ServiceAccount keeps the Namespace's away.
func selectorOf(m *metav1.PartialObjectMetadata) (value string, named bool) {
	if m == nil {
		return "", false
	}
	value, named = m.Annotations[v1.SelectorAnnotationKey]
	return value, named
}
