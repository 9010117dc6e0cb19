package v1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// AzureIdentityBindingSpec gives an AzureIdentity to the pods that carry a
// label value.
//
// +kubebuilder:pruning:PreserveUnknownFields
// +kubebuilder:validation:XValidation:fieldPath=`.azureIdentity`,reason=`FieldValueRequired`,rule=`has(self.azureIdentity) && self.azureIdentity != "" || oldSelf == optional.of(self) && optional.of(self) == oldSelf`,message=`the name of an AzureIdentity in the namespace of the binding; the name of the field is azureIdentity: the capitalisation of field names counts`,optionalOldSelf=true
// +kubebuilder:validation:XValidation:fieldPath=`.azureIdentity`,reason=`FieldValueInvalid`,rule=`!has(self.azureIdentity) || self.azureIdentity == "" || self.azureIdentity.size() <= 253 && self.azureIdentity.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?([.][a-z0-9]([-a-z0-9]*[a-z0-9])?)*$') || oldSelf == optional.of(self) && optional.of(self) == oldSelf`,message=`must be the name of an object, without namespace: at most 253 lower-case letters, digits, - and ., the first and last of each dotted part a letter or digit`,messageExpression=`strings.quote(self.azureIdentity) + ' must be the name of an object, without namespace: at most 253 lower-case letters, digits, - and ., the first and last of each dotted part a letter or digit'`,optionalOldSelf=true
// +kubebuilder:validation:XValidation:fieldPath=`.selector`,reason=`FieldValueRequired`,rule=`has(self.selector) && self.selector != "" || oldSelf == optional.of(self) && optional.of(self) == oldSelf`,message=`the value of the label aadpodidbinding of the pods that get the identity; the name of the field is selector: the capitalisation of field names counts`,optionalOldSelf=true
// +kubebuilder:validation:XValidation:fieldPath=`.selector`,reason=`FieldValueInvalid`,rule=`!has(self.selector) || self.selector == "" || self.selector.size() <= 63 && self.selector.matches('^([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]$') || oldSelf == optional.of(self) && optional.of(self) == oldSelf`,message=`must be possible as the value of the pod label aadpodidbinding: at most 63 letters, digits, -, _ and ., the first and last a letter or digit`,messageExpression=`strings.quote(self.selector) + ' must be possible as the value of the pod label aadpodidbinding: at most 63 letters, digits, -, _ and ., the first and last a letter or digit'`,optionalOldSelf=true
type AzureIdentityBindingSpec struct {
	// Metadata is unused; older releases stored it, so it is kept.
	// +kubebuilder:pruning:PreserveUnknownFields
	// +optional
	ObjectMeta metav1.ObjectMeta `json:"metadata,omitempty,omitzero"`

	// AzureIdentity is the name of an AzureIdentity in the binding's namespace.
	// +kubebuilder:validation:MaxLength=1024
	// +optional
	AzureIdentity string `json:"azureIdentity,omitempty"`

	// Selector is compared with the pods' label aadpodidbinding: equal, case
	// included, is a match.
	// +kubebuilder:validation:MaxLength=1024
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

	// Conditions of the binding; see ConditionResolved and ConditionPodsMatched.
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
// +kubebuilder:printcolumn:name="Resolved",type=string,JSONPath=`.status.conditions[?(@.type=="Resolved")].status`
// +kubebuilder:printcolumn:name="PodsMatched",type=string,JSONPath=`.status.conditions[?(@.type=="PodsMatched")].status`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
// +kubebuilder:printcolumn:name="Message",type=string,priority=1,JSONPath=`.status.conditions[?(@.type=="Resolved")].message`
// +kubebuilder:validation:XValidation:fieldPath=`.spec`,reason=`FieldValueRequired`,rule=`has(self.spec) || oldSelf.hasValue() && !has(oldSelf.value().spec)`,message=`the fields of an AzureIdentityBinding stand under spec`,optionalOldSelf=true
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
