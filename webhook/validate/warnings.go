package validate

import (
	"context"
	"fmt"
	"time"

	"k8s.io/klog/v2"
	"sigs.k8s.io/controller-runtime/pkg/webhook/admission"
	"sigs.k8s.io/json"

	v1 "github.com/aad-pod-identity/aad-pod-identity/api/v1"
	"github.com/aad-pod-identity/aad-pod-identity/internal/logkey"
	"github.com/aad-pod-identity/aad-pod-identity/internal/validation"
)

// warningTimeout bounds what a warning may cost: without one the answer is as
// right.
const warningTimeout = time.Second

// Reader is what warnings need to know of the cluster.
type Reader interface {
	// IdentityNow returns an identity, or nil if there is none.
	IdentityNow(ctx context.Context, namespace, name string) (*v1.AzureIdentity, error)
	// BindingsBySelector returns the bindings with a selector.
	BindingsBySelector(ctx context.Context, value string) ([]*v1.AzureIdentityBinding, error)
}

// Warner finds what is legal and surely unwanted, where that depends on other
// objects.
type Warner struct {
	Reader Reader
}

// Warnings about a valid object.
func (w *Warner) Warnings(ctx context.Context, req admission.Request) []string {
	if req.Kind.Kind != v1.KindAzureIdentityBinding {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, warningTimeout)
	defer cancel()
	warnings, err := w.binding(ctx, req)
	if err != nil {
		klog.FromContext(ctx).Error(err, "Answering without warnings", logkey.Kind, req.Kind.Kind, logkey.Name, klog.KRef(req.Namespace, req.Name))
	}
	return warnings
}

func (w *Warner) binding(ctx context.Context, req admission.Request) ([]string, error) {
	var b v1.AzureIdentityBinding
	if err := json.UnmarshalCaseSensitivePreserveInts(req.Object.Raw, &b); err != nil {
		return nil, fmt.Errorf("decoding the binding: %w", err)
	}
	var warnings []string
	id, err := w.Reader.IdentityNow(ctx, req.Namespace, b.Spec.AzureIdentity)
	if err != nil {
		return nil, err
	}
	if id == nil {
		warnings = append(warnings, validation.IdentityAbsent(req.Namespace, b.Spec.AzureIdentity).String())
	}
	others, err := w.Reader.BindingsBySelector(ctx, b.Spec.Selector)
	if err != nil {
		return warnings, err
	}
	for _, other := range others {
		if other.Namespace == req.Namespace && other.Name != b.Name && other.Spec.AzureIdentity == b.Spec.AzureIdentity {
			warnings = append(warnings, validation.BindingTwice(other).String())
			break
		}
	}
	return warnings, nil
}
