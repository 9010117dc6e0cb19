package v1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// AzurePodIdentityExceptionSpec says which pods NMI leaves to the node's own
// managed identity.
//
// +kubebuilder:pruning:PreserveUnknownFields
// +kubebuilder:validation:XValidation:fieldPath=`.podLabels`,reason=`FieldValueRequired`,rule=`has(self.podLabels) && self.podLabels.size() > 0 || oldSelf == optional.of(self) && optional.of(self) == oldSelf`,message=`the labels of which a pod must have one to be excepted; without any, no pod is; the name of the field is podLabels: the capitalisation of field names counts`,optionalOldSelf=true
type AzurePodIdentityExceptionSpec struct {
	// Metadata is unused; older releases stored it, so it is kept.
	// +kubebuilder:pruning:PreserveUnknownFields
	// +optional
	ObjectMeta metav1.ObjectMeta `json:"metadata,omitempty,omitzero"`

	// PodLabels select pods of the exception's namespace: a pod that has any one
	// of these labels is excepted. Values are compared ignoring case.
	// +kubebuilder:validation:MaxProperties=1000
	// +optional
	PodLabels map[string]string `json:"podLabels,omitempty"`
}

// AzurePodIdentityExceptionStatus is unused; older releases defined it.
//
// +kubebuilder:pruning:PreserveUnknownFields
type AzurePodIdentityExceptionStatus struct {
	// Metadata is unused; older releases stored it, so it is kept.
	// +kubebuilder:pruning:PreserveUnknownFields
	// +optional
	ObjectMeta metav1.ObjectMeta `json:"metadata,omitempty,omitzero"`

	// Status is unused; kept for compatibility.
	// +optional
	Status string `json:"status,omitempty"`
}

// AzurePodIdentityException excepts pods of its namespace from NMI: their
// requests get the tokens of the node's own managed identity.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:path=azurepodidentityexceptions,singular=azurepodidentityexception
// +kubebuilder:metadata:annotations="api-approved.kubernetes.io=unapproved"
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
// +kubebuilder:validation:XValidation:fieldPath=`.spec`,reason=`FieldValueRequired`,rule=`has(self.spec) || oldSelf.hasValue() && !has(oldSelf.value().spec)`,message=`the fields of an AzurePodIdentityException stand under spec`,optionalOldSelf=true
type AzurePodIdentityException struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// +optional
	Spec AzurePodIdentityExceptionSpec `json:"spec,omitempty"`
	// +optional
	Status AzurePodIdentityExceptionStatus `json:"status,omitempty,omitzero"`
}

// AzurePodIdentityExceptionList is a list of AzurePodIdentityException.
//
// +kubebuilder:object:root=true
type AzurePodIdentityExceptionList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`

	Items []AzurePodIdentityException `json:"items"`
}
