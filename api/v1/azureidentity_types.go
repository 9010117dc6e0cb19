package v1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// IdentityType says how NMI gets tokens for an AzureIdentity.
type IdentityType int

const (
	// UserAssignedMSI is a user-assigned managed identity: MIC assigns it to the
	// VM or scale set, NMI asks IMDS for its tokens.
	UserAssignedMSI IdentityType = 0
	// ServicePrincipal is a service principal with a client secret.
	ServicePrincipal IdentityType = 1
	// ServicePrincipalCertificate is a service principal with a certificate.
	ServicePrincipalCertificate IdentityType = 2
)

// SecretReference names a Secret.
//
// +kubebuilder:pruning:PreserveUnknownFields
type SecretReference struct {
	// Name of the Secret.
	// +optional
	Name string `json:"name,omitempty"`
	// Namespace of the Secret.
	// +optional
	Namespace string `json:"namespace,omitempty"`
}

// AzureIdentitySpec describes an identity of Microsoft Entra ID (Azure AD) that
// pods may use.
//
// +kubebuilder:pruning:PreserveUnknownFields
type AzureIdentitySpec struct {
	// Metadata is unused; older releases stored it, so it is kept.
	// +kubebuilder:pruning:PreserveUnknownFields
	// +optional
	ObjectMeta metav1.ObjectMeta `json:"metadata,omitempty,omitzero"`

	// Type of the identity: 0 is a user-assigned managed identity, 1 a service
	// principal with a client secret, 2 a service principal with a certificate.
	// Defaults to 0.
	// +optional
	Type IdentityType `json:"type,omitempty"`

	// ResourceID of the user-assigned managed identity (type 0), exactly
	// /subscriptions/<GUID>/resourcegroups/<resourcegroup>/providers/Microsoft.ManagedIdentity/userAssignedIdentities/<name>
	// where resourcegroups may also be written resourceGroups.
	// +optional
	ResourceID string `json:"resourceID,omitempty"`

	// ClientID of the managed identity or service principal, a GUID.
	// +optional
	ClientID string `json:"clientID,omitempty"`

	// ClientPassword names the Secret with the credential of types 1 and 2.
	// Type 1 uses the key clientSecret, or else the only key; type 2 uses the
	// keys certificate (PKCS#12) and password.
	// +optional
	ClientPassword SecretReference `json:"clientPassword,omitempty,omitzero"`

	// TenantID of the service principal (types 1 and 2): a GUID or a verified
	// domain.
	// +optional
	TenantID string `json:"tenantID,omitempty"`

	// AuxiliaryTenantIDs are further tenants (type 1) for which NMI gets a token
	// besides the primary one.
	// +nullable
	// +listType=atomic
	// +optional
	AuxiliaryTenantIDs []string `json:"auxiliaryTenantIDs,omitempty"`

	// ADResourceID is accepted for compatibility and unused: the resource comes
	// from the pod's request.
	// +optional
	ADResourceID string `json:"adResourceID,omitempty"`

	// ADEndpoint is the https URL of the token authority of types 1 and 2.
	// Defaults to the authority of the cluster's cloud.
	// +optional
	ADEndpoint string `json:"adEndpoint,omitempty"`

	// Replicas is accepted for compatibility and unused.
	// +nullable
	// +optional
	Replicas *int32 `json:"replicas,omitempty"`
}

// AzureIdentityStatus is what MIC found out about an AzureIdentity.
//
// +kubebuilder:pruning:PreserveUnknownFields
type AzureIdentityStatus struct {
	// Metadata is unused; older releases stored it, so it is kept.
	// +kubebuilder:pruning:PreserveUnknownFields
	// +optional
	ObjectMeta metav1.ObjectMeta `json:"metadata,omitempty,omitzero"`

	// AvailableReplicas is unused; kept for compatibility.
	// +optional
	AvailableReplicas int32 `json:"availableReplicas,omitempty"`

	// Conditions of the identity; see ConditionValid.
	// +listType=map
	// +listMapKey=type
	// +optional
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}

// AzureIdentity is an identity of Microsoft Entra ID (Azure AD) that pods may
// use through an AzureIdentityBinding.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:path=azureidentities,singular=azureidentity
// +kubebuilder:metadata:annotations="api-approved.kubernetes.io=unapproved"
// +kubebuilder:printcolumn:name="Type",type=integer,JSONPath=`.spec.type`,description="0 managed identity, 1 service principal, 2 service principal with certificate"
// +kubebuilder:printcolumn:name="ClientID",type=string,JSONPath=`.spec.clientID`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
// +kubebuilder:printcolumn:name="ResourceID",type=string,priority=1,JSONPath=`.spec.resourceID`
type AzureIdentity struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// +optional
	Spec AzureIdentitySpec `json:"spec,omitempty"`
	// +optional
	Status AzureIdentityStatus `json:"status,omitempty,omitzero"`
}

// AzureIdentityList is a list of AzureIdentity.
//
// +kubebuilder:object:root=true
type AzureIdentityList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`

	Items []AzureIdentity `json:"items"`
}
