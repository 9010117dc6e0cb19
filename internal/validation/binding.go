package validation

import (
	"fmt"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation/field"

	v1 "github.com/aad-pod-identity/aad-pod-identity/api/v1"
)

// bindingSpec returns what is wrong with the spec of an AzureIdentityBinding.
// Whether its identity exists is not one of the rules: the two may be created in
// any order.
func (v *Validator) bindingSpec(spec *v1.AzureIdentityBindingSpec) field.ErrorList {
	path := field.NewPath("spec")
	findings := v.rules.check(path, spec)
	if spec.AzureIdentity == "" {
		findings = append(findings, field.Required(path.Child("azureIdentity"), "the name of an AzureIdentity in the namespace of the binding").WithOrigin(RuleBindingIdentityRequired))
	}
	if spec.Selector == "" {
		findings = append(findings, field.Required(path.Child("selector"), "the value of the label "+v1.BindingLabelKey+" of the pods that get the identity").WithOrigin(RuleBindingSelectorRequired))
	}
	return findings
}

// IdentityAbsent is the warning about a binding whose identity is not there.
func IdentityAbsent(namespace, name string) Warning {
	return Warning{RuleBindingIdentityAbsent, "", fmt.Sprintf("AzureIdentity %s/%s does not exist (yet)", namespace, name)}
}

// BindingTwice is the warning about a binding that another one repeats.
func BindingTwice(other *v1.AzureIdentityBinding) Warning {
	return Warning{RuleBindingTwice, "", fmt.Sprintf("AzureIdentityBinding %s/%s says the same: identity %q for selector %q", other.Namespace, other.Name, other.Spec.AzureIdentity, other.Spec.Selector)}
}

// maxPodLabels is the maxProperties of spec.podLabels in the CRD.
const maxPodLabels = 1000

// exceptionSpec returns what is wrong with the spec of an
// AzurePodIdentityException.
func (v *Validator) exceptionSpec(spec *v1.AzurePodIdentityExceptionSpec) field.ErrorList {
	path := field.NewPath("spec")
	if len(spec.PodLabels) == 0 {
		return field.ErrorList{field.Required(path.Child("podLabels"), "the labels of which a pod must have one to be excepted; without any, no pod is").WithOrigin(RuleExceptionLabelsRequired)}
	}
	if n := len(spec.PodLabels); n > maxPodLabels { // to judge each would cost too much
		return field.ErrorList{field.TooMany(path.Child("podLabels"), n, maxPodLabels).WithOrigin(RuleExceptionLabelsTooMany)}
	}
	findings := v.rules.check(path, spec)
	// Maps have no order, findings have one.
	slices.SortStableFunc(findings, func(a, b *field.Error) int { return strings.Compare(a.Field, b.Field) })
	return findings
}

// assignedSpec returns what is wrong with the spec of an AzureAssignedIdentity.
// The copies of identity and binding in it are not judged but for their names and
// types: they may be copies of what an older release stored.
func (v *Validator) assignedSpec(spec *v1.AzureAssignedIdentitySpec) field.ErrorList {
	path := field.NewPath("spec")
	var findings field.ErrorList
	if spec.Pod == "" {
		findings = append(findings, field.Required(path.Child("pod"), "the name of the pod").WithOrigin(RuleAssignedPodRequired))
	}
	if spec.PodNamespace == "" {
		findings = append(findings, field.Required(path.Child("podNamespace"), "the namespace of the pod").WithOrigin(RuleAssignedPodNamespaceRequired))
	}
	if spec.NodeName == "" {
		findings = append(findings, field.Required(path.Child("nodename"), "the node of the pod").WithOrigin(RuleAssignedNodeRequired))
	}
	return findings
}
