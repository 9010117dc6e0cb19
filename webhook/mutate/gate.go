package mutate

import (
	"context"
	"fmt"

	"k8s.io/klog/v2"

	v1 "github.com/aad-pod-identity/aad-pod-identity/api/v1"
	"github.com/aad-pod-identity/aad-pod-identity/internal/logkey"
)

// GateMode says which labelled pods get the readiness gate.
type GateMode string

// Modes of the readiness gate.
const (
	// GateOff adds none.
	GateOff GateMode = "off"
	// GateOptIn adds it where the pod's annotation or its namespace's label asks
	// for it.
	GateOptIn GateMode = "opt-in"
	// GateAll adds it to every labelled pod but those whose annotation declines.
	GateAll GateMode = "all"
)

// ParseGateMode returns the mode of that name.
func ParseGateMode(name string) (GateMode, error) {
	switch m := GateMode(name); m {
	case GateOff, GateOptIn, GateAll:
		return m, nil
	}
	return "", fmt.Errorf("must be %s, %s or %s", GateOff, GateOptIn, GateAll)
}

// gate says whether a pod is to get the readiness gate, and what its author
// should know. The namespace's label is read only if it decides.
func (t *Tagger) gate(ctx context.Context, namespace string, pod *podMeta, label string) (add bool, warnings []string) {
	value, annotated := pod.Metadata.Annotations[v1.ReadinessGateKey]
	enabled := t.Gate == GateOptIn || t.Gate == GateAll
	switch {
	case pod.gated() && label == "":
		return false, []string{gateWithoutLabel}
	case pod.gated() && !enabled:
		return false, []string{fmt.Sprintf("spec.readinessGates: nobody sets %s, since the readiness gate is not enabled in this cluster: the pod cannot become Ready", v1.PodConditionIdentityAssigned)}
	case pod.gated() || label == "":
		return false, nil
	case !enabled && value == "true":
		return false, []string{fmt.Sprintf("annotation %s: the readiness gate is not enabled in this cluster: the pod may be Ready before it has its identities", v1.ReadinessGateKey)}
	case !enabled:
		return false, nil
	case value == "true", value == "false":
		return value == "true", nil
	case annotated:
		warnings = append(warnings, fmt.Sprintf("annotation %s: must be \"true\" or \"false\", not %q", v1.ReadinessGateKey, value))
	}
	if t.Gate == GateAll {
		return true, warnings
	}
	ns, err := t.Metadata.Namespace(ctx, namespace)
	if err != nil {
		klog.FromContext(ctx).Error(err, "Admitting a pod without a readiness gate", logkey.Pod, klog.KRef(namespace, pod.name()))
		return false, append(warnings, "no readiness gate is added: "+err.Error())
	}
	return ns != nil && ns.Labels[v1.ReadinessGateKey] == v1.LabelEnabled, warnings
}

// gateWithoutLabel is for a pod that waits for identities and asks for none.
const gateWithoutLabel = "spec.readinessGates: the condition " + v1.PodConditionIdentityAssigned +
	" needs the label " + v1.BindingLabelKey + " with a value: without it the pod cannot become Ready"
