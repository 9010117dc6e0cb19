package model

import (
	"context"
	"errors"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	v1 "github.com/aad-pod-identity/aad-pod-identity/api/v1"
)

// This file compares what MIC tells users: tags of pods and conditions.

// compareTags compares the tags of the pods that have not finished.
func (w *world) compareTags(ctx context.Context) error {
	var list corev1.PodList
	if err := w.client.List(ctx, &list); err != nil {
		return fmt.Errorf("listing pods: %w", err)
	}
	var errs []error
	for i := range list.Items {
		p := &list.Items[i]
		n := named{p.Namespace, p.Name}
		if f, ours := w.facts.pods[n]; !ours || f.finished || f.ending {
			continue // they keep the tags that they have
		}
		want := map[string]string{v1.PodBindingLabelKey: "", v1.PodIdentityLabelKey: "", v1.PodBindingsAnnotationKey: ""}
		for i, g := range w.facts.grants(n) {
			if i == 0 {
				want[v1.PodBindingLabelKey], want[v1.PodIdentityLabelKey] = g.binding.name, g.identity.name
			}
			all := want[v1.PodBindingsAnnotationKey]
			want[v1.PodBindingsAnnotationKey] = strings.TrimPrefix(all+","+g.binding.String(), ",")
		}
		for key, want := range want {
			have := p.Labels[key] + p.Annotations[key]
			if have != want {
				errs = append(errs, fmt.Errorf("pod %s has %s=%q, must be %q", n, key, have, want))
			}
		}
	}
	return errors.Join(errs...)
}

// compareConditions compares the conditions of AzureIdentities and bindings.
func (w *world) compareConditions(ctx context.Context) error {
	var identities v1.AzureIdentityList
	if err := w.client.List(ctx, &identities); err != nil {
		return fmt.Errorf("listing identities: %w", err)
	}
	var bindings v1.AzureIdentityBindingList
	if err := w.client.List(ctx, &bindings); err != nil {
		return fmt.Errorf("listing bindings: %w", err)
	}
	var errs []error
	for i := range identities.Items {
		id := &identities.Items[i]
		errs = append(errs, condition(id, id.Status.Conditions, v1.ConditionValid, true),
			condition(id, id.Status.Conditions, v1.ConditionInUse, w.facts.inUse(named{id.Namespace, id.Name})))
	}
	for i := range bindings.Items {
		b := &bindings.Items[i]
		_, exists := w.facts.identities[named{b.Namespace, b.Spec.AzureIdentity}]
		errs = append(errs, condition(b, b.Status.Conditions, v1.ConditionResolved, exists),
			condition(b, b.Status.Conditions, v1.ConditionPodsMatched, w.facts.matched(named{b.Namespace, b.Name})))
	}
	return errors.Join(errs...)
}

// condition says what is wrong with a condition, which must be about the present
// generation of its object.
func condition(o client.Object, all []metav1.Condition, kind string, want bool) error {
	status := metav1.ConditionFalse
	if want {
		status = metav1.ConditionTrue
	}
	c := meta.FindStatusCondition(all, kind)
	if c == nil || c.Status != status || c.ObservedGeneration != o.GetGeneration() {
		return fmt.Errorf("%T %s/%s of generation %d has condition %s %+v, must be %s", o, o.GetNamespace(), o.GetName(), o.GetGeneration(), kind, c, status)
	}
	return nil
}
