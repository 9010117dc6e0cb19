package controller

import (
	"fmt"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	v1 "github.com/aad-pod-identity/aad-pod-identity/api/v1"
	"github.com/aad-pod-identity/aad-pod-identity/internal/binding"
	"github.com/aad-pod-identity/aad-pod-identity/internal/validation"
)

// claim is what a condition is to say. Its message must be the same as long as
// what it is about is: every other one is written.
type claim struct {
	kind            string
	holds           bool
	reason, message string
}

// identityClaims says how an AzureIdentity stands.
func identityClaims(id *v1.AzureIdentity, inUse bool) []claim {
	use := claim{v1.ConditionInUse, false, v1.ReasonNotInUse, "no pod has it"}
	if inUse {
		use = claim{v1.ConditionInUse, true, v1.ReasonInUse, "there is an AzureAssignedIdentity of it"}
	}
	return []claim{validClaim(id), use}
}

func validClaim(id *v1.AzureIdentity) claim {
	if err := validation.StoredIdentity(id); err != nil {
		return claim{v1.ConditionValid, false, v1.ReasonIdentityInvalid, err.Error()}
	}
	return claim{v1.ConditionValid, true, v1.ReasonValid, "the identity can be used"}
}

// podsSeen says which pods carry the label that a binding selects.
type podsSeen struct {
	// own are in the binding's namespace, others are anywhere.
	own, others bool
}

// bindingClaims says how an AzureIdentityBinding stands, whose AzureIdentity is id,
// or nil if there is none.
func bindingClaims(b *v1.AzureIdentityBinding, id *v1.AzureIdentity, pods podsSeen, forceNamespaced bool) []claim {
	matched := claim{v1.ConditionPodsMatched, false, v1.ReasonNoPodsMatched, fmt.Sprintf("no pod has the label %s=%s", v1.BindingLabelKey, b.Spec.Selector)}
	confined := forceNamespaced || (id != nil && binding.Namespaced(id, false))
	switch {
	case b.Spec.Selector == "":
		matched.message = "spec.selector is empty, and so selects nothing"
	case pods.own || (pods.others && !confined):
		matched = claim{v1.ConditionPodsMatched, true, v1.ReasonPodsMatched, fmt.Sprintf("there are pods with the label %s=%s", v1.BindingLabelKey, b.Spec.Selector)}
	case pods.others:
		matched.reason = v1.ReasonPodsInOtherNamespaces
		matched.message = fmt.Sprintf("pods with the label %s=%s are in other namespaces only, and the AzureIdentity is for pods of namespace %s", v1.BindingLabelKey, b.Spec.Selector, b.Namespace)
	}
	return []claim{resolvedClaim(b, id), matched}
}

func resolvedClaim(b *v1.AzureIdentityBinding, id *v1.AzureIdentity) claim {
	name := b.Namespace + "/" + b.Spec.AzureIdentity
	if id == nil || !id.DeletionTimestamp.IsZero() {
		message := fmt.Sprintf("AzureIdentity %s does not exist", name)
		if b.Spec.AzureIdentity == "" {
			message = "spec.azureIdentity is empty"
		}
		return claim{v1.ConditionResolved, false, v1.ReasonIdentityNotFound, message}
	}
	if err := validation.StoredIdentity(id); err != nil {
		return claim{v1.ConditionResolved, false, v1.ReasonIdentityInvalid, fmt.Sprintf("AzureIdentity %s is invalid: %v", name, err)}
	}
	return claim{v1.ConditionResolved, true, v1.ReasonResolved, fmt.Sprintf("AzureIdentity %s can be used", name)}
}

// maxConditionMessage is how long the message of a condition may be.
const maxConditionMessage = 32768

// conditions returns conditions that say what is claimed of an object of a
// generation, and whether they are others than the current ones. Those of other
// types stay.
func conditions(current []metav1.Condition, generation int64, claims []claim, now time.Time) ([]metav1.Condition, bool) {
	next := slices.Clone(current)
	changed := false
	for _, c := range claims {
		status := metav1.ConditionFalse
		if c.holds {
			status = metav1.ConditionTrue
		}
		if len(c.message) > maxConditionMessage {
			c.message = c.message[:maxConditionMessage]
		}
		old := meta.FindStatusCondition(next, c.kind)
		if old != nil && old.ObservedGeneration == generation && aboutFieldNames(old.Reason) {
			// Only the upgrade of stored objects sees misspelt names. What it said of
			// this spec stays true; whether the object can be used nevertheless may not.
			c.reason, c.message = old.Reason, old.Message
		}
		changed = meta.SetStatusCondition(&next, metav1.Condition{
			Type: c.kind, Status: status, Reason: c.reason, Message: c.message, ObservedGeneration: generation,
			LastTransitionTime: metav1.NewTime(now.Truncate(time.Second)),
		}) || changed
	}
	return next, changed
}

func aboutFieldNames(reason string) bool {
	return reason == v1.ReasonFieldNamesConflict || reason == v1.ReasonFieldNamesNotUpgraded
}
