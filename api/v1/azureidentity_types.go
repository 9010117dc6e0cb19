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
	// +kubebuilder:validation:MaxLength=1024
	// +optional
	Name string `json:"name,omitempty"`
	// Namespace of the Secret.
	// +kubebuilder:validation:MaxLength=1024
	// +optional
	Namespace string `json:"namespace,omitempty"`
}

// AzureIdentitySpec describes an identity of Microsoft Entra ID (Azure AD) that
// pods may use.
//
// +kubebuilder:pruning:PreserveUnknownFields
// +kubebuilder:validation:XValidation:fieldPath=`.type`,reason=`FieldValueInvalid`,rule=`!has(self.type) || self.type in [0, 1, 2] || oldSelf == optional.of(self) && optional.of(self) == oldSelf`,message=`must be 0 (user-assigned managed identity), 1 (service principal) or 2 (service principal with certificate)`,optionalOldSelf=true
// +kubebuilder:validation:XValidation:fieldPath=`.resourceID`,reason=`FieldValueRequired`,rule=`has(self.type) && self.type != 0 || has(self.resourceID) && self.resourceID != "" || oldSelf == optional.of(self) && optional.of(self) == oldSelf`,message=`Invalid resource id: "", must match /subscriptions/<subid>/resourcegroups/<resourcegroup>/providers/Microsoft.ManagedIdentity/userAssignedIdentities/<name>; the name of the field is resourceID: the capitalisation of field names counts`,optionalOldSelf=true
// +kubebuilder:validation:XValidation:fieldPath=`.resourceID`,reason=`FieldValueInvalid`,rule=`has(self.type) && self.type != 0 || !has(self.resourceID) || self.resourceID == "" || self.resourceID.lowerAscii().matches(r'^/subscriptions/[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}/resourcegroups/[\p{L}\p{Nd}_().-]{0,89}[\p{L}\p{Nd}_()-]/providers/microsoft\.managedidentity/userassignedidentities/[a-z0-9][-_a-z0-9]{2,127}$') || oldSelf == optional.of(self) && optional.of(self) == oldSelf`,message=`Invalid resource id, must match /subscriptions/<subid>/resourcegroups/<resourcegroup>/providers/Microsoft.ManagedIdentity/userAssignedIdentities/<name>`,messageExpression=`'Invalid resource id: ' + strings.quote(self.resourceID) + ', must match /subscriptions/<subid>/resourcegroups/<resourcegroup>/providers/Microsoft.ManagedIdentity/userAssignedIdentities/<name>'`,optionalOldSelf=true
// +kubebuilder:validation:XValidation:fieldPath=`.clientID`,reason=`FieldValueRequired`,rule=`has(self.type) && self.type != 0 || has(self.clientID) && self.clientID != "" || oldSelf == optional.of(self) && optional.of(self) == oldSelf`,message=`the client ID of the managed identity, a GUID; the name of the field is clientID: the capitalisation of field names counts`,optionalOldSelf=true
// +kubebuilder:validation:XValidation:fieldPath=`.clientID`,reason=`FieldValueRequired`,rule=`!has(self.type) || !(self.type in [1, 2]) || has(self.clientID) && self.clientID != "" || oldSelf == optional.of(self) && optional.of(self) == oldSelf`,message=`types 1 and 2 need the client ID of the service principal, a GUID; the name of the field is clientID: the capitalisation of field names counts`,optionalOldSelf=true
// +kubebuilder:validation:XValidation:fieldPath=`.clientID`,reason=`FieldValueInvalid`,rule=`!has(self.clientID) || self.clientID == "" || self.clientID.lowerAscii().matches('^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$') || oldSelf == optional.of(self) && optional.of(self) == oldSelf`,message=`must be a GUID, such as 00000000-0000-0000-0000-000000000000`,messageExpression=`strings.quote(self.clientID) + ' must be a GUID, such as 00000000-0000-0000-0000-000000000000'`,optionalOldSelf=true
// +kubebuilder:validation:XValidation:fieldPath=`.tenantID`,reason=`FieldValueRequired`,rule=`!has(self.type) || !(self.type in [1, 2]) || has(self.tenantID) && self.tenantID != "" || oldSelf == optional.of(self) && optional.of(self) == oldSelf`,message=`types 1 and 2 need the tenant of the service principal, a GUID or a verified domain; the name of the field is tenantID: the capitalisation of field names counts`,optionalOldSelf=true
// +kubebuilder:validation:XValidation:fieldPath=`.tenantID`,reason=`FieldValueInvalid`,rule=`!has(self.tenantID) || self.tenantID == "" || self.tenantID.size() <= 253 && self.tenantID.lowerAscii().matches('^([0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|[a-z0-9]([-a-z0-9]*[a-z0-9])?([.][a-z0-9]([-a-z0-9]*[a-z0-9])?)+)$') && !self.tenantID.matches('[.][0-9]+$') || oldSelf == optional.of(self) && optional.of(self) == oldSelf`,message=`must be a GUID or a verified domain, such as contoso.onmicrosoft.com`,messageExpression=`strings.quote(self.tenantID) + ' must be a GUID or a verified domain, such as contoso.onmicrosoft.com'`,optionalOldSelf=true
// +kubebuilder:validation:XValidation:fieldPath=`.auxiliaryTenantIDs`,reason=`FieldValueInvalid`,rule=`!has(self.auxiliaryTenantIDs) || self.auxiliaryTenantIDs.all(t, t.size() <= 253 && t.lowerAscii().matches('^([0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|[a-z0-9]([-a-z0-9]*[a-z0-9])?([.][a-z0-9]([-a-z0-9]*[a-z0-9])?)+)$') && !t.matches('[.][0-9]+$')) || oldSelf == optional.of(self) && optional.of(self) == oldSelf`,message=`each must be a GUID or a verified domain, such as contoso.onmicrosoft.com`,optionalOldSelf=true
// +kubebuilder:validation:XValidation:fieldPath=`.adEndpoint`,reason=`FieldValueInvalid`,rule=`!has(self.adEndpoint) || self.adEndpoint == "" || isURL(self.adEndpoint) && url(self.adEndpoint).getHostname().size() <= 253 && self.adEndpoint.lowerAscii().matches('^https://([a-z0-9]([-a-z0-9]*[a-z0-9])?([.][a-z0-9]([-a-z0-9]*[a-z0-9])?)*|[[][0-9a-f:.]+[]])(:0*([1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5]))?(/[^?#]*)?$') || oldSelf == optional.of(self) && optional.of(self) == oldSelf`,message=`must be an https URL with the name of a host, and without user, query and fragment, such as https://login.microsoftonline.com/`,messageExpression=`strings.quote(self.adEndpoint) + ' must be an https URL with the name of a host, and without user, query and fragment, such as https://login.microsoftonline.com/'`,optionalOldSelf=true
// +kubebuilder:validation:XValidation:fieldPath=`.clientPassword.name`,reason=`FieldValueRequired`,rule=`!has(self.type) || !(self.type in [1, 2]) || has(self.clientPassword) && has(self.clientPassword.name) && self.clientPassword.name != "" || oldSelf == optional.of(self) && optional.of(self) == oldSelf`,message=`type 1 needs the name of the Secret with the client secret, type 2 of the one with the certificate; the name of the field is name: the capitalisation of field names counts`,optionalOldSelf=true
// +kubebuilder:validation:XValidation:fieldPath=`.clientPassword.namespace`,reason=`FieldValueRequired`,rule=`!has(self.type) || !(self.type in [1, 2]) || has(self.clientPassword) && has(self.clientPassword.__namespace__) && self.clientPassword.__namespace__ != "" || oldSelf == optional.of(self) && optional.of(self) == oldSelf`,message=`type 1 needs the namespace of the Secret with the client secret, type 2 of the one with the certificate; the name of the field is namespace: the capitalisation of field names counts`,optionalOldSelf=true
// +kubebuilder:validation:XValidation:fieldPath=`.clientPassword.name`,reason=`FieldValueInvalid`,rule=`!has(self.clientPassword) || !has(self.clientPassword.name) || self.clientPassword.name == "" || self.clientPassword.name.size() <= 253 && self.clientPassword.name.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?([.][a-z0-9]([-a-z0-9]*[a-z0-9])?)*$') || oldSelf == optional.of(self) && optional.of(self) == oldSelf`,message=`must be the name of an object: at most 253 lower-case letters, digits, - and ., the first and last of each dotted part a letter or digit`,optionalOldSelf=true
// +kubebuilder:validation:XValidation:fieldPath=`.clientPassword.namespace`,reason=`FieldValueInvalid`,rule=`!has(self.clientPassword) || !has(self.clientPassword.__namespace__) || self.clientPassword.__namespace__ == "" || self.clientPassword.__namespace__.size() <= 63 && self.clientPassword.__namespace__.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$') || oldSelf == optional.of(self) && optional.of(self) == oldSelf`,message=`must be the name of a namespace: at most 63 lower-case letters, digits and -, the first and last a letter or digit`,optionalOldSelf=true
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
	// +kubebuilder:validation:MaxLength=1024
	// +optional
	ResourceID string `json:"resourceID,omitempty"`

	// ClientID of the managed identity or service principal, a GUID.
	// +kubebuilder:validation:MaxLength=1024
	// +optional
	ClientID string `json:"clientID,omitempty"`

	// ClientPassword names the Secret with the credential of types 1 and 2.
	// Type 1 uses the key clientSecret, or else the only key; type 2 uses the
	// keys certificate (PKCS#12) and password.
	// +optional
	ClientPassword SecretReference `json:"clientPassword,omitempty,omitzero"`

	// TenantID of the service principal (types 1 and 2): a GUID or a verified
	// domain.
	// +kubebuilder:validation:MaxLength=1024
	// +optional
	TenantID string `json:"tenantID,omitempty"`

	// AuxiliaryTenantIDs are further tenants (types 1 and 2) for which NMI gets a token
	// besides the primary one.
	// +nullable
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=100
	// +kubebuilder:validation:items:MaxLength=1024
	// +optional
	AuxiliaryTenantIDs []string `json:"auxiliaryTenantIDs,omitempty"`

	// ADResourceID is accepted for compatibility and unused: the resource comes
	// from the pod's request.
	// +optional
	ADResourceID string `json:"adResourceID,omitempty"`

	// ADEndpoint is the https URL of the token authority of types 1 and 2.
	// Defaults to the authority of the cluster's cloud.
	// +kubebuilder:validation:MaxLength=2048
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

	// Conditions of the identity; see ConditionValid and ConditionInUse.
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
// +kubebuilder:printcolumn:name="Valid",type=string,JSONPath=`.status.conditions[?(@.type=="Valid")].status`
// +kubebuilder:printcolumn:name="InUse",type=string,JSONPath=`.status.conditions[?(@.type=="InUse")].status`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
// +kubebuilder:printcolumn:name="ResourceID",type=string,priority=1,JSONPath=`.spec.resourceID`
// +kubebuilder:printcolumn:name="Message",type=string,priority=1,JSONPath=`.status.conditions[?(@.type=="Valid")].message`
// +kubebuilder:validation:XValidation:fieldPath=`.spec`,reason=`FieldValueRequired`,rule=`has(self.spec) || oldSelf.hasValue() && !has(oldSelf.value().spec)`,message=`the fields of an AzureIdentity stand under spec`,optionalOldSelf=true
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
