package controller

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/klog/v2"
	"sigs.k8s.io/controller-runtime/pkg/client"

	v1 "github.com/aad-pod-identity/aad-pod-identity/api/v1"
	"github.com/aad-pod-identity/aad-pod-identity/internal/binding"
	"github.com/aad-pod-identity/aad-pod-identity/internal/logkey"
)

// gateState is what the condition of the readiness gate says. The zero value
// means: no condition.
type gateState struct {
	status          corev1.ConditionStatus
	reason, message string
}

// judgeGate decides whether a pod has its identities. It is pure. A binding that
// names an identity that is missing or invalid is waited for as well: pod,
// binding and identity may be created in any order. One that gives the pod
// nothing by a rule is not, nor one that nobody said the pod may use.
func judgeGate(p *corev1.Pod, result binding.Result, current []*v1.AzureAssignedIdentity) gateState {
	var waiting []gateState
	for _, s := range result.Skipped {
		if (s.Reason == binding.ReasonIdentityNotFound || s.Reason == binding.ReasonIdentityInvalid) && !s.Unreviewed {
			waiting = append(waiting, gateState{reason: s.Reason, message: s.Message})
		}
	}
	var ready []string
	for _, m := range result.Matches {
		name := m.Identity.Namespace + "/" + m.Identity.Name
		state := judgeIdentity(p, m.Identity, current)
		if state.status == corev1.ConditionTrue {
			ready = append(ready, name)
			continue
		}
		state.message = "AzureIdentity " + name + ": " + state.message
		waiting = append(waiting, state)
	}
	for _, m := range result.Undecided {
		// What the pod has it keeps while nobody answers.
		name := m.Identity.Namespace + "/" + m.Identity.Name
		if judgeIdentity(p, m.Identity, current).status == corev1.ConditionTrue {
			ready = append(ready, name)
			continue
		}
		waiting = append(waiting, gateState{reason: binding.ReasonUseUnknown, message: "AzureIdentity " + name + ": whether the pod's service account may use it is not known"})
	}
	switch {
	case len(waiting) > 0:
		// What failed comes first, for it needs somebody.
		slices.SortStableFunc(waiting, func(a, b gateState) int { return cmp.Compare(pending(a), pending(b)) })
		texts := make([]string, len(waiting))
		for i := range waiting {
			texts[i] = waiting[i].message
		}
		return gateState{corev1.ConditionFalse, waiting[0].reason, listed(texts, "; ")}
	case len(ready) > 0:
		return gateState{corev1.ConditionTrue, v1.ReasonAssigned, "assigned: " + listed(ready, ", ")}
	}
	return gateState{corev1.ConditionFalse, v1.ReasonNoIdentityMatched, whyNone(p, result)}
}

// judgeIdentity says how far an identity is for a pod.
func judgeIdentity(p *corev1.Pod, id *v1.AzureIdentity, current []*v1.AzureAssignedIdentity) gateState {
	state := gateState{corev1.ConditionFalse, v1.ReasonPending, "waiting to be assigned"}
	for _, a := range current {
		if !gives(a, p, id) {
			continue
		}
		if a.Status.Status == v1.AssignedIDAssigned {
			return gateState{status: corev1.ConditionTrue}
		}
		if c := meta.FindStatusCondition(a.Status.Conditions, v1.ConditionAssigned); c != nil {
			state = gateState{corev1.ConditionFalse, c.Reason, c.Message}
		}
	}
	return state
}

func pending(s gateState) int {
	if s.reason == v1.ReasonPending {
		return 1
	}
	return 0
}

// listed joins the first few of many.
func listed(all []string, separator string) string {
	const most = 5
	if rest := len(all) - most; rest > 0 {
		all = append(slices.Clone(all[:most]), fmt.Sprintf("%d more", rest))
	}
	return strings.Join(all, separator)
}

// whyNone says why a pod gets no identity at all.
func whyNone(p *corev1.Pod, result binding.Result) string {
	label := p.Labels[v1.BindingLabelKey]
	switch {
	case label == "":
		return "the pod has no label " + v1.BindingLabelKey + " with a value"
	case len(result.Skipped) == 0:
		return fmt.Sprintf("no AzureIdentityBinding has selector %q", label)
	}
	texts := make([]string, len(result.Skipped))
	for i, s := range result.Skipped {
		texts[i] = s.Message
	}
	return listed(texts, "; ")
}

// gated says whether a pod's readiness waits for its identities.
func gated(p *corev1.Pod) bool {
	return slices.ContainsFunc(p.Spec.ReadinessGates, func(g corev1.PodReadinessGate) bool {
		return g.ConditionType == v1.PodConditionIdentityAssigned
	})
}

// gateCondition returns the condition that a pod carries, or nil.
func gateCondition(p *corev1.Pod) *corev1.PodCondition {
	for i := range p.Status.Conditions {
		if p.Status.Conditions[i].Type == v1.PodConditionIdentityAssigned {
			return &p.Status.Conditions[i]
		}
	}
	return nil
}

func gateStateOf(p *corev1.Pod) gateState {
	c := gateCondition(p)
	if c == nil {
		return gateState{}
	}
	return gateState{c.Status, c.Reason, c.Message}
}

// setGate writes the condition of a pod that has the gate, if it says something
// new. A pod that is not on a node yet is not Ready anyway, and one that ends is
// left as it is.
func (r *podReconciler) setGate(ctx context.Context, p *corev1.Pod, want gateState) error {
	if !r.gates || !gated(p) || p.Spec.NodeName == "" || finished(p) || !p.DeletionTimestamp.IsZero() || gateStateOf(p) == want {
		return nil
	}
	patch, err := gatePatch(p, want, time.Now())
	if err != nil {
		return fmt.Errorf("readiness gate of pod %s/%s: %w", p.Namespace, p.Name, err)
	}
	target := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: p.Namespace, Name: p.Name}}
	err = r.writer.Status().Patch(ctx, target, client.RawPatch(types.StrategicMergePatchType, patch))
	switch {
	case apierrors.IsNotFound(err):
		return nil
	case err != nil:
		return fmt.Errorf("setting the readiness gate of pod %s/%s: %w", p.Namespace, p.Name, err)
	}
	klog.FromContext(ctx).V(1).Info("Readiness gate set", logkey.Pod, klog.KObj(p).String(), logkey.Reason, want.reason)
	switch want.reason {
	case v1.ReasonNoIdentityMatched, v1.ReasonIdentityNotFound, v1.ReasonIdentityInvalid:
		// There is no AzureAssignedIdentity about which to say it.
		r.events.notReady(p, want.reason, want.message)
	}
	return nil
}

// gatePatch sets this condition and no other. The UID keeps it off another pod
// of the same name.
func gatePatch(p *corev1.Pod, want gateState, now time.Time) ([]byte, error) {
	since := metav1.NewTime(now)
	if c := gateCondition(p); c != nil && c.Status == want.status {
		since = c.LastTransitionTime
	}
	return json.Marshal(map[string]any{
		"metadata": map[string]any{"uid": p.UID},
		"status": map[string]any{"conditions": []any{map[string]any{
			"type": v1.PodConditionIdentityAssigned, "status": want.status, "reason": want.reason, "message": want.message,
			"lastTransitionTime": since,
		}}},
	})
}
