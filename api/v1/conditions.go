package v1

// ConditionAssigned is the condition of an AzureAssignedIdentity.
//
// True: Assigned. False: Pending, AssignmentFailed, Throttled, TargetNotFound,
// TargetDeleting, IdentityInvalid. Unknown is not used.
const ConditionAssigned = "Assigned"

// ConditionValid is the condition of an AzureIdentity.
//
// True: Valid. False: IdentityInvalid.
const ConditionValid = "Valid"

// ConditionResolved is the condition of an AzureIdentityBinding.
//
// True: Resolved. False: IdentityNotFound, IdentityInvalid.
const ConditionResolved = "Resolved"

// PodConditionIdentityAssigned is the condition of a pod that has a readiness
// gate of this type. MIC writes it.
//
// True: Assigned. False: Pending, AssignmentFailed, Throttled, TargetNotFound,
// TargetDeleting, IdentityInvalid, IdentityNotFound, UseUnknown,
// NoIdentityMatched.
const PodConditionIdentityAssigned = "aadpodidentity.k8s.io/identity-assigned"

// Reasons of the conditions above.
const (
	// ReasonAssigned: the identity is on the VM or scale set.
	ReasonAssigned = "Assigned"
	// ReasonPending: the assignment is queued or under way.
	ReasonPending = "Pending"
	// ReasonAssignmentFailed: ARM refused the identity; the message holds ARM's
	// code and text.
	ReasonAssignmentFailed = "AssignmentFailed"
	// ReasonThrottled: ARM asked to wait.
	ReasonThrottled = "Throttled"
	// ReasonTargetNotFound: the node's VM or scale set does not exist.
	ReasonTargetNotFound = "TargetNotFound"
	// ReasonTargetDeleting: the node's VM or scale set is being deleted.
	ReasonTargetDeleting = "TargetDeleting"
	// ReasonValid: the identity is well formed.
	ReasonValid = "Valid"
	// ReasonIdentityInvalid: the identity breaks a rule; the message names the
	// fields.
	ReasonIdentityInvalid = "IdentityInvalid"
	// ReasonResolved: the binding's identity exists and is valid.
	ReasonResolved = "Resolved"
	// ReasonIdentityNotFound: no AzureIdentity of that name in the namespace.
	ReasonIdentityNotFound = "IdentityNotFound"
	// ReasonNoIdentityMatched: no binding gives the pod an identity.
	ReasonNoIdentityMatched = "NoIdentityMatched"
)
