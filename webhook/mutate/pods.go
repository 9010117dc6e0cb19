// Package mutate gives pods at create what the cluster knows about them: tags
// with the bindings and identities they get, for people and selectors; where it
// is opted in to, the binding label that their ServiceAccount or Namespace names
// and the readiness gate. No component decides by a tag: MIC keeps them true
// later, and what a pod may use is decided anew each time.
package mutate

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"time"

	admissionv1 "k8s.io/api/admission/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/klog/v2"
	"sigs.k8s.io/controller-runtime/pkg/webhook/admission"
	"sigs.k8s.io/json"

	v1 "github.com/aad-pod-identity/aad-pod-identity/api/v1"
	"github.com/aad-pod-identity/aad-pod-identity/internal/access"
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
// those that a user forged; it adds the readiness gate where that is wanted. It
// changes nothing else of the pod.
type Tagger struct {
	// Reader gives bindings and identities.
	Reader Reader
	// Metadata gives namespaces for GateOptIn; it may be nil otherwise.
	Metadata Metadata
	// ForceNamespaced confines every identity to pods of its own namespace.
	ForceNamespaced bool
	// MayUse, if set, says whether a service account may use an identity of another
	// namespace. MIC asks again before it assigns one; this is to say it early.
	MayUse access.MayUse
	// Gate says which pods get the readiness gate; "" is GateOff.
	Gate GateMode
}

// Handle implements admission.Handler.
func (t *Tagger) Handle(ctx context.Context, req admission.Request) admission.Response {
	pod, resp := podOf(req)
	if pod == nil {
		return resp
	}
	return t.tag(ctx, req, pod, "")
}

// tag answers for a pod that carries the label, or is given it here: then inject
// is its value.
func (t *Tagger) tag(ctx context.Context, req admission.Request, pod *podMeta, inject string) admission.Response {
	label := cmp.Or(inject, pod.label())
	want := wanted{label: inject}
	var texts []string
	result, err := t.decide(ctx, req, pod, label)
	if err != nil {
		// Tags are not worth a pod: it is admitted without any, and MIC sets them.
		klog.FromContext(ctx).Error(err, "Admitting a pod without tags", logkey.Pod, klog.KRef(req.Namespace, pod.name()))
		texts = append(texts, "the labels about pod identity are set later: "+err.Error())
	} else {
		want.tags = result.Tags()
		texts = warnings(label, result)
	}
	gate, more := t.gate(ctx, req.Namespace, pod, label)
	want.gate = gate
	return admission.Patched("", pod.patch(want)...).WithWarnings(append(texts, more...)...)
}

func (t *Tagger) decide(ctx context.Context, req admission.Request, pod *podMeta, label string) (binding.Result, error) {
	bindings, err := t.Reader.BindingsBySelector(ctx, label)
	if err != nil {
		return binding.Result{}, err
	}
	reviewCtx, cancel := context.WithTimeout(ctx, reviewTimeout)
	defer cancel()
	account := access.Account(pod.Spec.ServiceAccountName)
	var failed error
	result := binding.ForPod(binding.Input{
		Pod:      binding.Pod{Namespace: req.Namespace, Name: pod.name(), Label: label, ServiceAccount: account},
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
		MayUse:          t.MayUse.For(reviewCtx, req.Namespace, account),
	})
	return result, failed
}

// reviewTimeout bounds how long a pod is held up to say early what it may not use.
const reviewTimeout = time.Second

// maxWarnings is how many bindings are complained about: the API server cuts off
// what is longer than 4 KiB.
const maxWarnings = 10

// warnings says why a pod that asks for identities gets none or fewer.
func warnings(label string, result binding.Result) []string {
	if label != "" && len(result.Matches) == 0 && len(result.Skipped) == 0 {
		return []string{fmt.Sprintf("no AzureIdentityBinding has selector %q (yet): the pod gets no identity", label)}
	}
	var texts []string
	for i, s := range result.Skipped {
		if i == maxWarnings {
			return append(texts, fmt.Sprintf("%d more AzureIdentityBindings with selector %q give the pod nothing", len(result.Skipped)-i, label))
		}
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
	return strip(pod)
}

func strip(pod *podMeta) admission.Response {
	resp := admission.Patched("", pod.patch(wanted{})...)
	if pod.gated() {
		return resp.WithWarnings(gateWithoutLabel)
	}
	return resp
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
