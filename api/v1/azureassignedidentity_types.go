package v1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Values of AzureAssignedIdentity.status.status, in the order an object passes
// through them. An empty status is an object of the very first releases, which
// had none, and counts as Assigned.
const (
	// AssignedIDCreated means the object exists and the identity is yet to be
	// assigned to the node's VM or scale set.
	AssignedIDCreated = "Created"
	// AssignedIDAssigned means the identity is on the node's VM or scale set, so
	// NMI may serve tokens.
	AssignedIDAssigned = "Assigned"
	// AssignedIDUnassigned means the identity is no longer needed there; the
	// object is about to be deleted.
	AssignedIDUnassigned = "Unassigned"
)

// AzureAssignedIdentitySpec records that a pod on a node may use an identity,
// with a copy of the binding and identity that say so.
//
// +kubebuilder:pruning:PreserveUnknownFields
// +kubebuilder:validation:XValidation:fieldPath=`.pod`,reason=`FieldValueRequired`,rule=`has(self.pod) && self.pod != "" || oldSelf == optional.of(self) && optional.of(self) == oldSelf`,message=`the name of the pod`,optionalOldSelf=true
// +kubebuilder:validation:XValidation:fieldPath=`.podNamespace`,reason=`FieldValueRequired`,rule=`has(self.podNamespace) && self.podNamespace != "" || oldSelf == optional.of(self) && optional.of(self) == oldSelf`,message=`the namespace of the pod`,optionalOldSelf=true
// +kubebuilder:validation:XValidation:fieldPath=`.nodename`,reason=`FieldValueRequired`,rule=`has(self.nodename) && self.nodename != "" || oldSelf == optional.of(self) && optional.of(self) == oldSelf`,message=`the node of the pod; the name of the field is nodename, in lower case`,optionalOldSelf=true
type AzureAssignedIdentitySpec struct {
	// Metadata is unused; older releases stored it, so it is kept.
	// +kubebuilder:pruning:PreserveUnknownFields
	// +optional
	ObjectMeta metav1.ObjectMeta `json:"metadata,omitempty,omitzero"`

	// AzureIdentityRef is a copy of the AzureIdentity.
	// +kubebuilder:validation:EmbeddedResource
	// +kubebuilder:pruning:PreserveUnknownFields
	// +nullable
	// +optional
	AzureIdentityRef *AzureIdentity `json:"azureIdentityRef,omitempty"`

	// AzureBindingRef is a copy of the AzureIdentityBinding.
	// +kubebuilder:validation:EmbeddedResource
	// +kubebuilder:pruning:PreserveUnknownFields
	// +nullable
	// +optional
	AzureBindingRef *AzureIdentityBinding `json:"azureBindingRef,omitempty"`

	// Pod is the name of the pod.
	// +optional
	Pod string `json:"pod,omitempty"`

	// PodNamespace is the namespace of the pod.
	// +optional
	PodNamespace string `json:"podNamespace,omitempty"`

	// NodeName is the node the pod is scheduled to.
	// +optional
	NodeName string `json:"nodename,omitempty"`

	// Replicas is accepted for compatibility and unused.
	// +nullable
	// +optional
	Replicas *int32 `json:"replicas,omitempty"`
}

// AzureAssignedIdentityStatus is where the assignment stands.
//
// +kubebuilder:pruning:PreserveUnknownFields
type AzureAssignedIdentityStatus struct {
	// Metadata is unused; older releases stored it, so it is kept.
	// +kubebuilder:pruning:PreserveUnknownFields
	// +optional
	ObjectMeta metav1.ObjectMeta `json:"metadata,omitempty,omitzero"`

	// Status is Created, Assigned or Unassigned. Only MIC may write it.
	// +optional
	Status string `json:"status,omitempty"`

	// AvailableReplicas is 1 once the object exists; kept for compatibility.
	// +optional
	AvailableReplicas int32 `json:"availableReplicas,omitempty"`

	// Conditions of the assignment; see ConditionAssigned. They carry no
	// observedGeneration, since without a status subresource every write of
	// status changes the generation.
	// +listType=map
	// +listMapKey=type
	// +optional
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}

// AzureAssignedIdentity records that a pod may use an identity and whether the
// identity is assigned to the pod's node. MIC alone writes it. It has no status
// subresource, so that the 1.8 releases can go on patching status directly.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:path=azureassignedidentities,singular=azureassignedidentity
// +kubebuilder:metadata:annotations="api-approved.kubernetes.io=unapproved"
// +kubebuilder:printcolumn:name="State",type=string,JSONPath=`.status.status`
// +kubebuilder:printcolumn:name="Pod",type=string,JSONPath=`.spec.pod`
// +kubebuilder:printcolumn:name="PodNamespace",type=string,JSONPath=`.spec.podNamespace`
// +kubebuilder:printcolumn:name="Identity",type=string,JSONPath=`.spec.azureIdentityRef.metadata.name`
// +kubebuilder:printcolumn:name="Node",type=string,JSONPath=`.spec.nodename`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
// +kubebuilder:printcolumn:name="Reason",type=string,priority=1,JSONPath=`.status.conditions[?(@.type=="Assigned")].reason`
// +kubebuilder:printcolumn:name="Message",type=string,priority=1,JSONPath=`.status.conditions[?(@.type=="Assigned")].message`
// +kubebuilder:validation:XValidation:fieldPath=`.spec`,reason=`FieldValueRequired`,rule=`has(self.spec) || oldSelf.hasValue() && !has(oldSelf.value().spec)`,message=`the fields of an AzureAssignedIdentity stand under spec`,optionalOldSelf=true
type AzureAssignedIdentity struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// +optional
	Spec AzureAssignedIdentitySpec `json:"spec,omitempty"`
	// +optional
	Status AzureAssignedIdentityStatus `json:"status,omitempty,omitzero"`
}

// AzureAssignedIdentityList is a list of AzureAssignedIdentity.
//
// +kubebuilder:object:root=true
type AzureAssignedIdentityList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`

	Items []AzureAssignedIdentity `json:"items"`
}
