// Package mutate tags pods at create with the bindings and identities they get,
// for people and selectors. No component decides by a tag: MIC keeps them true
// later, and what a pod may use is decided anew each time.
package mutate

import (
	"context"
	"fmt"
	"net/http"

	admissionv1 "k8s.io/api/admission/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/klog/v2"
	"sigs.k8s.io/controller-runtime/pkg/webhook/admission"
	"sigs.k8s.io/json"

	v1 "github.com/aad-pod-identity/aad-pod-identity/api/v1"
	"github.com/aad-pod-identity/aad-pod-identity/internal/binding"
	"github.com/aad-pod-identity/aad-pod-identity/internal/logkey"
	"github.com/aad-pod-identity/aad-pod-identity/internal/validation"
)

// Reader is what tags depend on.
type Reader interface {
	// BindingsBySelector returns the bindings of all namespaces with a selector.
	BindingsBySelector(ctx context.Context, value string) ([]*v1.AzureIdentityBinding, error)
	// Identity returns an identity, or nil if there is none.
	Identity(ctx context.Context, namespace, name string) (*v1.AzureIdentity, error)
}

// Tagger sets the tags of a pod that carries the binding label, and removes
// those that a user forged. It changes nothing else of the pod.
type Tagger struct {
	// Reader gives bindings and identities.
	Reader Reader
	// ForceNamespaced confines every identity to pods of its own namespace.
	ForceNamespaced bool
}

// Handle implements admission.Handler.
func (t *Tagger) Handle(ctx context.Context, req admission.Request) admission.Response {
	pod, resp := podOf(req)
	if pod == nil {
		return resp
	}
	result, err := t.decide(ctx, req, pod)
	if err != nil {
		// Tags are not worth a pod: it is admitted without any, and MIC sets them.
		klog.FromContext(ctx).Error(err, "Admitting a pod without tags", logkey.Pod, klog.KRef(req.Namespace, pod.name()))
		resp = admission.Patched("", pod.patch(binding.Tags{})...)
		return resp.WithWarnings("the labels about pod identity are set later: " + err.Error())
	}
	resp = admission.Patched("", pod.patch(result.Tags())...)
	return resp.WithWarnings(warnings(pod.label(), result)...)
}

func (t *Tagger) decide(ctx context.Context, req admission.Request, pod *podMeta) (binding.Result, error) {
	bindings, err := t.Reader.BindingsBySelector(ctx, pod.label())
	if err != nil {
		return binding.Result{}, err
	}
	var failed error
	result := binding.ForPod(binding.Input{
		Pod:      binding.Pod{Namespace: req.Namespace, Name: pod.name(), Label: pod.label()},
		Bindings: bindings,
		Identity: func(namespace, name string) *v1.AzureIdentity {
			id, err := t.Reader.Identity(ctx, namespace, name)
			if err != nil {
				failed = err
			}
			return id
		},
		Valid:           validation.StoredIdentity,
		ForceNamespaced: t.ForceNamespaced,
	})
	return result, failed
}

// warnings says why a pod that asks for identities gets none or fewer.
func warnings(label string, result binding.Result) []string {
	if label != "" && len(result.Matches) == 0 && len(result.Skipped) == 0 {
		return []string{fmt.Sprintf("no AzureIdentityBinding has selector %q (yet): the pod gets no identity", label)}
	}
	var texts []string
	for _, s := range result.Skipped {
		texts = append(texts, s.Message)
	}
	return texts
}

// Stripper removes the tags of a pod that has no binding label: they can only be
// forged.
type Stripper struct{}

// Handle implements admission.Handler.
func (Stripper) Handle(_ context.Context, req admission.Request) admission.Response {
	pod, resp := podOf(req)
	if pod == nil {
		return resp
	}
	if pod.label() != "" {
		return admission.Allowed("")
	}
	return admission.Patched("", pod.patch(binding.Tags{})...)
}

// podOf returns the pod that a request creates; nil and the answer if there is
// nothing to do.
func podOf(req admission.Request) (*podMeta, admission.Response) {
	if req.Operation != admissionv1.Create || req.SubResource != "" {
		return nil, admission.Allowed("")
	}
	if req.Kind.Group != "" || req.Kind.Kind != "Pod" {
		return nil, admission.Errored(http.StatusBadRequest, fmt.Errorf("cannot tag %s", req.Kind.String()))
	}
	pod := &podMeta{}
	if err := json.UnmarshalCaseSensitivePreserveInts(req.Object.Raw, pod); err != nil {
		return nil, admission.Errored(http.StatusBadRequest, fmt.Errorf("decoding the pod: %w", err))
	}
	// The kubelet owns a mirror pod and compares it with its static pod.
	if _, mirror := pod.Metadata.Annotations[corev1.MirrorPodAnnotationKey]; mirror {
		return nil, admission.Allowed("")
	}
	return pod, admission.Response{}
}
