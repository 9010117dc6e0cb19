package v1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// AzureIdentityBindingSpec gives an AzureIdentity to the pods that carry a
// label value.
//
// +kubebuilder:pruning:PreserveUnknownFields
type AzureIdentityBindingSpec struct {
	// Metadata is unused; older releases stored it, so it is kept.
	// +kubebuilder:pruning:PreserveUnknownFields
	// +optional
	ObjectMeta metav1.ObjectMeta `json:"metadata,omitempty,omitzero"`

	// AzureIdentity is the name of an AzureIdentity in the binding's namespace.
	// +optional
	AzureIdentity string `json:"azureIdentity,omitempty"`

	// Selector is compared with the pods' label aadpodidbinding: equal, case
	// included, is a match.
	// +optional
	Selector string `json:"selector,omitempty"`

	// Weight is accepted for compatibility and unused: bindings are ordered by
	// namespace, then name.
	// +optional
	Weight int `json:"weight,omitempty"`
}

// AzureIdentityBindingStatus is what MIC found out about an
// AzureIdentityBinding.
//
// +kubebuilder:pruning:PreserveUnknownFields
type AzureIdentityBindingStatus struct {
	// Metadata is unused; older releases stored it, so it is kept.
	// +kubebuilder:pruning:PreserveUnknownFields
	// +optional
	ObjectMeta metav1.ObjectMeta `json:"metadata,omitempty,omitzero"`

	// AvailableReplicas is unused; kept for compatibility.
	// +optional
	AvailableReplicas int32 `json:"availableReplicas,omitempty"`

	// Conditions of the binding; see ConditionResolved.
	// +listType=map
	// +listMapKey=type
	// +optional
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}

// AzureIdentityBinding gives an AzureIdentity of its own namespace to the pods
// whose label aadpodidbinding equals spec.selector.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:path=azureidentitybindings,singular=azureidentitybinding
// +kubebuilder:metadata:annotations="api-approved.kubernetes.io=unapproved"
// +kubebuilder:printcolumn:name="AzureIdentity",type=string,JSONPath=`.spec.azureIdentity`
// +kubebuilder:printcolumn:name="Selector",type=string,JSONPath=`.spec.selector`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type AzureIdentityBinding struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// +optional
	Spec AzureIdentityBindingSpec `json:"spec,omitempty"`
	// +optional
	Status AzureIdentityBindingStatus `json:"status,omitempty,omitzero"`
}

// AzureIdentityBindingList is a list of AzureIdentityBinding.
//
// +kubebuilder:object:root=true
type AzureIdentityBindingList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`

	Items []AzureIdentityBinding `json:"items"`
}
