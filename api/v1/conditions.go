package v1

// ConditionAssigned is the condition of an AzureAssignedIdentity.
//
// True: Assigned. False: Pending, AssignmentFailed, Throttled, TargetNotFound,
// TargetDeleting, IdentityInvalid. Unknown is not used.
const ConditionAssigned = "Assigned"

// ConditionValid is the condition of an AzureIdentity that says whether MIC can
// use it.
//
// True: Valid. False: IdentityInvalid, FieldNamesConflict, FieldNamesNotUpgraded.
const ConditionValid = "Valid"

// ConditionInUse is the condition of an AzureIdentity that says whether a pod has
// it, or had it and gives it back. It says nothing of how many.
//
// True: InUse. False: NotInUse.
const ConditionInUse = "InUse"

// ConditionResolved is the condition of an AzureIdentityBinding that says whether
// its AzureIdentity can be used.
//
// True: Resolved. False: IdentityNotFound, IdentityInvalid, FieldNamesConflict,
// FieldNamesNotUpgraded.
const ConditionResolved = "Resolved"

// ConditionPodsMatched is the condition of an AzureIdentityBinding that says
// whether there is a pod that it selects and that has not finished. It says
// nothing of how many.
//
// True: PodsMatched. False: NoPodsMatched, PodsInOtherNamespaces.
const ConditionPodsMatched = "PodsMatched"

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
	// ReasonFieldNamesConflict: an object of a release before 1.6.0 has a field in
	// two capitalisations with different values, so that nobody can tell which is
	// meant.
	ReasonFieldNamesConflict = "FieldNamesConflict"
	// ReasonFieldNamesNotUpgraded: an object of a release before 1.6.0 has
	// miscapitalised field names, and the API server refused to have them put
	// right; the message says why.
	ReasonFieldNamesNotUpgraded = "FieldNamesNotUpgraded"
	// ReasonInUse: there is an AzureAssignedIdentity of the identity.
	ReasonInUse = "InUse"
	// ReasonNotInUse: there is none.
	ReasonNotInUse = "NotInUse"
	// ReasonPodsMatched: there is a pod whose label equals the selector.
	ReasonPodsMatched = "PodsMatched"
	// ReasonNoPodsMatched: there is none, or all have finished.
	ReasonNoPodsMatched = "NoPodsMatched"
	// ReasonPodsInOtherNamespaces: there are such pods, but none in the namespace
	// that the identity is confined to.
	ReasonPodsInOtherNamespaces = "PodsInOtherNamespaces"
	// ReasonResolved: the binding's identity exists and is valid.
	ReasonResolved = "Resolved"
	// ReasonIdentityNotFound: no AzureIdentity of that name in the namespace.
	ReasonIdentityNotFound = "IdentityNotFound"
	// ReasonNoIdentityMatched: no binding gives the pod an identity.
	ReasonNoIdentityMatched = "NoIdentityMatched"
)
