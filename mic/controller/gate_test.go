package controller

import (
	"context"
	"encoding/json"
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	v1 "github.com/aad-pod-identity/aad-pod-identity/api/v1"
	"github.com/aad-pod-identity/aad-pod-identity/internal/binding"
)

func gatePod(label string, conditions ...corev1.PodCondition) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "app", UID: "uid", Labels: map[string]string{v1.BindingLabelKey: label}},
		Spec:       corev1.PodSpec{NodeName: "node0", ReadinessGates: []corev1.PodReadinessGate{{ConditionType: v1.PodConditionIdentityAssigned}}},
		Status:     corev1.PodStatus{Conditions: conditions},
	}
}

func TestJudgeGate(t *testing.T) {
	match := func(name string) binding.Match {
		return binding.Match{
			Binding:  &v1.AzureIdentityBinding{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}},
			Identity: &v1.AzureIdentity{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}},
		}
	}
	object := func(name, status, reason, message string) *v1.AzureAssignedIdentity {
		a := &v1.AzureAssignedIdentity{
			Spec: v1.AzureAssignedIdentitySpec{
				Pod: "app", PodNamespace: "default", NodeName: "node0",
				AzureIdentityRef: &v1.AzureIdentity{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}},
			},
			Status: v1.AzureAssignedIdentityStatus{Status: status},
		}
		if reason != "" {
			a.Status.Conditions = []metav1.Condition{{Type: v1.ConditionAssigned, Status: metav1.ConditionFalse, Reason: reason, Message: message}}
		}
		return a
	}
	assigned := func(name string) *v1.AzureAssignedIdentity { return object(name, v1.AssignedIDAssigned, "", "") }
	going := func(a *v1.AzureAssignedIdentity) *v1.AzureAssignedIdentity {
		a.DeletionTimestamp = &metav1.Time{Time: time.Now()}
		return a
	}
	ofPod := func(a *v1.AzureAssignedIdentity, node, uid string) *v1.AzureAssignedIdentity {
		a.Spec.NodeName, a.Annotations = node, map[string]string{v1.PodUIDAnnotationKey: uid}
		return a
	}
	skip := func(reason, message string) binding.Skip { return binding.Skip{Reason: reason, Message: message} }
	ready := func(message string) gateState { return gateState{corev1.ConditionTrue, "Assigned", message} }
	waits := func(reason, message string) gateState {
		return gateState{corev1.ConditionFalse, reason, message}
	}
	tests := map[string]struct {
		label   string // web if ""
		result  binding.Result
		current []*v1.AzureAssignedIdentity
		want    gateState
	}{
		"the only identity is assigned": {
			result:  binding.Result{Matches: []binding.Match{match("one")}},
			current: []*v1.AzureAssignedIdentity{assigned("one")},
			want:    ready("assigned: default/one"),
		},
		"all identities are assigned": {
			result:  binding.Result{Matches: []binding.Match{match("one"), match("two")}},
			current: []*v1.AzureAssignedIdentity{assigned("two"), assigned("one")},
			want:    ready("assigned: default/one, default/two"),
		},
		"the object is not made yet": {
			result: binding.Result{Matches: []binding.Match{match("one")}},
			want:   waits("Pending", "AzureIdentity default/one: waiting to be assigned"),
		},
		"the object is not judged yet": {
			result:  binding.Result{Matches: []binding.Match{match("one")}},
			current: []*v1.AzureAssignedIdentity{object("one", v1.AssignedIDCreated, "", "")},
			want:    waits("Pending", "AzureIdentity default/one: waiting to be assigned"),
		},
		"the object says what it waits for": {
			result:  binding.Result{Matches: []binding.Match{match("one")}},
			current: []*v1.AzureAssignedIdentity{object("one", v1.AssignedIDCreated, v1.ReasonPending, "waiting for pool1")},
			want:    waits("Pending", "AzureIdentity default/one: waiting for pool1"),
		},
		"an object that goes is none": {
			result:  binding.Result{Matches: []binding.Match{match("one")}},
			current: []*v1.AzureAssignedIdentity{going(assigned("one"))},
			want:    waits("Pending", "AzureIdentity default/one: waiting to be assigned"),
		},
		"one of an earlier pod of the name is none": {
			result:  binding.Result{Matches: []binding.Match{match("one")}},
			current: []*v1.AzureAssignedIdentity{ofPod(assigned("one"), "node0", "earlier")},
			want:    waits("Pending", "AzureIdentity default/one: waiting to be assigned"),
		},
		"nor is one of another node": {
			result:  binding.Result{Matches: []binding.Match{match("one")}},
			current: []*v1.AzureAssignedIdentity{ofPod(assigned("one"), "node1", "uid")},
			want:    waits("Pending", "AzureIdentity default/one: waiting to be assigned"),
		},
		"one of this very pod is": {
			result:  binding.Result{Matches: []binding.Match{match("one")}},
			current: []*v1.AzureAssignedIdentity{ofPod(assigned("one"), "node0", "uid")},
			want:    ready("assigned: default/one"),
		},
		"an object of another identity is none": {
			result:  binding.Result{Matches: []binding.Match{match("one")}},
			current: []*v1.AzureAssignedIdentity{assigned("two")},
			want:    waits("Pending", "AzureIdentity default/one: waiting to be assigned"),
		},
		"one of two is missing": {
			result:  binding.Result{Matches: []binding.Match{match("one"), match("two")}},
			current: []*v1.AzureAssignedIdentity{assigned("one")},
			want:    waits("Pending", "AzureIdentity default/two: waiting to be assigned"),
		},
		"what failed comes before what waits": {
			result:  binding.Result{Matches: []binding.Match{match("one"), match("two")}},
			current: []*v1.AzureAssignedIdentity{object("two", v1.AssignedIDCreated, v1.ReasonAssignmentFailed, "FailedIdentityOperation: gone")},
			want:    waits("AssignmentFailed", "AzureIdentity default/two: FailedIdentityOperation: gone; AzureIdentity default/one: waiting to be assigned"),
		},
		"a binding whose identity does not exist yet is waited for": {
			result: binding.Result{
				Matches: []binding.Match{match("one")},
				Skipped: []binding.Skip{skip(binding.ReasonIdentityNotFound, "AzureIdentity default/two of AzureIdentityBinding default/two does not exist")},
			},
			current: []*v1.AzureAssignedIdentity{assigned("one")},
			want:    waits("IdentityNotFound", "AzureIdentity default/two of AzureIdentityBinding default/two does not exist"),
		},
		"so is one whose identity is invalid": {
			result: binding.Result{Skipped: []binding.Skip{skip(binding.ReasonIdentityInvalid, "AzureIdentity default/two is invalid: spec.resourceID: Required value")}},
			want:   waits("IdentityInvalid", "AzureIdentity default/two is invalid: spec.resourceID: Required value"),
		},
		"what the pod does not get by a rule is not waited for": {
			result: binding.Result{
				Matches: []binding.Match{match("one")},
				Skipped: []binding.Skip{skip(binding.ReasonOtherNamespace, "a"), skip(binding.ReasonSameIdentity, "b"), skip(binding.ReasonSameName, "c"), skip(binding.ReasonUseForbidden, "d")},
			},
			current: []*v1.AzureAssignedIdentity{assigned("one")},
			want:    ready("assigned: default/one"),
		},
		"what nobody said that the pod may use is not waited for": {
			result: binding.Result{
				Matches: []binding.Match{match("one")},
				Skipped: []binding.Skip{
					{Reason: binding.ReasonIdentityNotFound, Message: "a", Unreviewed: true}, {Reason: binding.ReasonIdentityInvalid, Message: "b", Unreviewed: true},
				},
			},
			current: []*v1.AzureAssignedIdentity{assigned("one")},
			want:    ready("assigned: default/one"),
		},
		"it is told if there is nothing else": {
			result: binding.Result{Skipped: []binding.Skip{{Reason: binding.ReasonIdentityNotFound, Message: "AzureIdentity a/one does not exist", Unreviewed: true}}},
			want:   waits("NoIdentityMatched", "AzureIdentity a/one does not exist"),
		},
		"what the pod has it keeps while its right to it is not known": {
			result: binding.Result{
				Skipped:   []binding.Skip{skip(binding.ReasonUseUnknown, "dial tcp 10.0.0.1:45678")},
				Undecided: []binding.Match{match("one")},
			},
			current: []*v1.AzureAssignedIdentity{assigned("one")},
			want:    ready("assigned: default/one"),
		},
		"what it has not it waits for": {
			result: binding.Result{
				Skipped:   []binding.Skip{skip(binding.ReasonUseUnknown, "dial tcp 10.0.0.1:45678")},
				Undecided: []binding.Match{match("one")},
			},
			want: waits("UseUnknown", "AzureIdentity default/one: whether the pod's service account may use it is not known"),
		},
		"no binding selects the pod": {
			want: waits("NoIdentityMatched", `no AzureIdentityBinding has selector "web"`),
		},
		"the label is empty": {
			label: "-", want: waits("NoIdentityMatched", "the pod has no label aadpodidbinding with a value"),
		},
		"the only binding gives nothing by a rule": {
			result: binding.Result{Skipped: []binding.Skip{skip(binding.ReasonOtherNamespace, "AzureIdentity a/one is for pods of namespace a only")}},
			want:   waits("NoIdentityMatched", "AzureIdentity a/one is for pods of namespace a only"),
		},
		"of many only some are named": {
			result: binding.Result{Matches: []binding.Match{match("1"), match("2"), match("3"), match("4"), match("5"), match("6"), match("7")}},
			current: []*v1.AzureAssignedIdentity{
				assigned("1"), assigned("2"), assigned("3"), assigned("4"), assigned("5"), assigned("6"), assigned("7"),
			},
			want: ready("assigned: default/1, default/2, default/3, default/4, default/5, 2 more"),
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			label := map[string]string{"": "web", "-": ""}[tt.label]
			if got := judgeGate(gatePod(label), tt.result, tt.current); got != tt.want {
				t.Errorf("got %+v, want %+v", got, tt.want)
			}
		})
	}
}

func TestGatePatch(t *testing.T) {
	now := time.Date(2026, 5, 4, 3, 2, 1, 0, time.UTC)
	earlier := metav1.NewTime(now.Add(-time.Hour))
	foreign := corev1.PodCondition{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: earlier}
	ours := corev1.PodCondition{Type: v1.PodConditionIdentityAssigned, Status: corev1.ConditionFalse, Reason: "Pending", Message: "old", LastTransitionTime: earlier}
	tests := map[string]struct {
		before []corev1.PodCondition
		want   gateState
		after  []corev1.PodCondition
	}{
		"the first time": {
			before: []corev1.PodCondition{foreign},
			want:   gateState{corev1.ConditionFalse, "Pending", "new"},
			after:  []corev1.PodCondition{{Type: ours.Type, Status: "False", Reason: "Pending", Message: "new", LastTransitionTime: metav1.NewTime(now)}, foreign},
		},
		"another message is no transition": {
			before: []corev1.PodCondition{foreign, ours},
			want:   gateState{corev1.ConditionFalse, "Pending", "new"},
			after:  []corev1.PodCondition{foreign, {Type: ours.Type, Status: "False", Reason: "Pending", Message: "new", LastTransitionTime: earlier}},
		},
		"another status is": {
			before: []corev1.PodCondition{foreign, ours},
			want:   gateState{corev1.ConditionTrue, "Assigned", "new"},
			after:  []corev1.PodCondition{foreign, {Type: ours.Type, Status: "True", Reason: "Assigned", Message: "new", LastTransitionTime: metav1.NewTime(now)}},
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			pod := gatePod("web", tt.before...)
			patch, err := gatePatch(pod, tt.want, now)
			check(t, err)
			raw, err := json.Marshal(pod)
			check(t, err)
			raw, err = strategicpatch.StrategicMergePatch(raw, patch, corev1.Pod{})
			check(t, err)
			var got corev1.Pod
			check(t, json.Unmarshal(raw, &got))
			if diff := cmp.Diff(tt.after, got.Status.Conditions); diff != "" {
				t.Errorf("conditions (-want +got):\n%s", diff)
			}
		})
	}
}

func TestOnlyPodsThatHaveTheGateKeepItInTheCache(t *testing.T) {
	condition := corev1.PodCondition{Type: v1.PodConditionIdentityAssigned, Status: corev1.ConditionTrue}
	with := gatePod("web", corev1.PodCondition{Type: corev1.PodReady}, condition)
	with.Spec.ReadinessGates = append([]corev1.PodReadinessGate{{ConditionType: "example.com/other"}}, with.Spec.ReadinessGates...)
	reduced, err := newReducer().pod(with)
	check(t, err)
	p := reduced.(*corev1.Pod)
	if !gated(p) || gateCondition(p) == nil || len(p.Status.Conditions) != 1 || len(p.Spec.ReadinessGates) != 1 {
		t.Errorf("%+v, %+v", p.Spec.ReadinessGates, p.Status.Conditions)
	}
	changed := p.DeepCopy()
	changed.Status.Conditions[0].Status = corev1.ConditionFalse
	if !podChangeMatters(p, changed) || podChangeMatters(p, p.DeepCopy()) {
		t.Error("a condition that somebody else set is not noticed, or no change is")
	}
	without := gatePod("web", condition)
	without.Spec.ReadinessGates = nil
	reduced, err = newReducer().pod(without)
	check(t, err)
	if p := reduced.(*corev1.Pod); gated(p) || len(p.Status.Conditions) > 0 {
		t.Errorf("%+v", p.Status.Conditions)
	}
}

func TestSetGate(t *testing.T) {
	pods := schema.GroupResource{Resource: "pods"}
	for name, test := range map[string]struct {
		answer error
		fails  bool
	}{
		"it is written":                      {},
		"the pod is gone":                    {answer: apierrors.NewNotFound(pods, "app")},
		"the pod is another by now":          {answer: apierrors.NewConflict(pods, "app", errors.New("the UID in the precondition")), fails: true},
		"the API server is out of its depth": {answer: apierrors.NewTooManyRequests("later", 1), fails: true},
	} {
		t.Run(name, func(t *testing.T) {
			p := gatePod("web")
			r, server := fakePods(t, interceptor.Funcs{SubResourcePatch: func(ctx context.Context, c client.Client, sub string, o client.Object, patch client.Patch, opts ...client.SubResourcePatchOption) error {
				if test.answer != nil {
					return test.answer
				}
				return c.SubResource(sub).Patch(ctx, o, patch, opts...)
			}}, p)
			want := gateState{corev1.ConditionFalse, v1.ReasonPending, "waiting"}
			err := r.setGate(t.Context(), p, want)
			if (err != nil) != test.fails || (test.fails && !errors.Is(err, test.answer)) {
				t.Errorf("error %v", err)
			}
			check(t, server.Get(t.Context(), client.ObjectKeyFromObject(p), p))
			if written := gateStateOf(p) == want; written != (test.answer == nil) {
				t.Errorf("the condition is %+v", gateStateOf(p))
			}
		})
	}
}
