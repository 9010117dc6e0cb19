package validation

import (
	"k8s.io/apimachinery/pkg/util/validation/field"

	v1 "github.com/aad-pod-identity/aad-pod-identity/api/v1"
)

// Binding returns what is wrong with an AzureIdentityBinding: the rules of
// admission. Whether its identity exists is not one of them: the two may be
// created in any order.
func (v *Validator) Binding(b *v1.AzureIdentityBinding) field.ErrorList {
	path := field.NewPath("spec")
	findings := v.rules.check(path, &b.Spec)
	if b.Spec.AzureIdentity == "" {
		findings = append(findings, field.Required(path.Child("azureIdentity"), "the name of an AzureIdentity in the namespace of the binding"))
	}
	if b.Spec.Selector == "" {
		findings = append(findings, field.Required(path.Child("selector"), "the value of the label "+v1.BindingLabelKey+" of the pods that get the identity"))
	}
	return findings
}

// Exception returns what is wrong with an AzurePodIdentityException beyond its
// field names: nothing.
func (v *Validator) Exception(*v1.AzurePodIdentityException) field.ErrorList {
	return nil
}

// AssignedIdentity returns what is wrong with an AzureAssignedIdentity beyond
// its field names: nothing, since only MIC writes it.
func (v *Validator) AssignedIdentity(*v1.AzureAssignedIdentity) field.ErrorList {
	return nil
}
