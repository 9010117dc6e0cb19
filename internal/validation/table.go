package validation

import (
	"slices"

	v1 "github.com/aad-pod-identity/aad-pod-identity/api/v1"
)

// Rule is a rule of admission, as docs/validation-rules.md lists it.
type Rule struct {
	// ID names the rule; it never changes its meaning.
	ID string
	// Kinds that the rule applies to.
	Kinds []string
	// Field is the JSON path the rule is about; "*" stands for any name.
	Field string
	// Warning is set where the object is admitted with a warning.
	Warning bool
	// Texts are what is said, without path and value. {x} stands for something of
	// the object.
	Texts []string
	// Example is what a user could write, in YAML.
	Example string
	// Message is what is said about the example.
	Message string
}

// Rules returns all rules, in the order of the documentation.
func Rules() []Rule {
	return slices.Concat(nameRules, typeRules, identityTable, resourceIDTable, otherTable)
}

var (
	allKinds = []string{v1.KindAzureIdentity, v1.KindAzureIdentityBinding, v1.KindAzureAssignedIdentity, v1.KindAzurePodIdentityException}
	identity = []string{v1.KindAzureIdentity}
	binding  = []string{v1.KindAzureIdentityBinding}
)

// The IDs of the rules.
const (
	RuleFieldMiscapitalised = "field-miscapitalised"
	RuleFieldTwice          = "field-in-two-spellings"
	RuleFieldMisspelt       = "field-misspelt"
	RuleFieldUnknown        = "field-unknown"
	RuleFieldRepeated       = "field-repeated"

	RuleTypeString      = "type-string"
	RuleTypeNumber      = "type-number"
	RuleTypeWholeNumber = "type-whole-number"
	RuleTypeRange       = "type-range"
	RuleTypeBoolean     = "type-boolean"
	RuleTypeTime        = "type-time"
	RuleTypeList        = "type-list"
	RuleTypeObject      = "type-object"
	// RuleUnreadable should never be seen: what cannot be read breaks one of the
	// rules above. It is there so that nothing unread is admitted.
	RuleUnreadable = "unreadable"

	RuleIdentityType                    = "identity-type"
	RuleClientIDRequired                = "client-id-required"
	RuleClientIDFormat                  = "client-id-format"
	RuleTenantRequired                  = "tenant-required"
	RuleTenantFormat                    = "tenant-format"
	RuleTenantTwice                     = "tenant-twice"
	RuleTenantsTooMany                  = "tenants-too-many"
	RuleClientPasswordNameRequired      = "client-password-name-required"
	RuleClientPasswordNameFormat        = "client-password-name-format"
	RuleClientPasswordNamespaceRequired = "client-password-namespace-required"
	RuleClientPasswordNamespaceFormat   = "client-password-namespace-format"
	RuleADEndpointHTTPS                 = "ad-endpoint-https"
	RuleADEndpointParts                 = "ad-endpoint-parts"
	RuleADEndpointHost                  = "ad-endpoint-host"
	RuleUnusedField                     = "unused-field"
	RuleBehaviorKeyMiscapitalised       = "behavior-key-miscapitalised"
	RuleBehaviorKeyMisspelt             = "behavior-key-misspelt"
	RuleBehaviorValue                   = "behavior-value"

	// The other rules about resource IDs are named for the classes of
	// internal/resourceid.
	resourceIDPrefix             = "resource-id-"
	RuleResourceIDEmpty          = resourceIDPrefix + "empty"
	RuleResourceIDMiscapitalised = resourceIDPrefix + "miscapitalised"

	RuleBindingIdentityRequired      = "binding-identity-required"
	RuleBindingIdentityFormat        = "binding-identity-format"
	RuleBindingIdentityAbsent        = "binding-identity-absent"
	RuleBindingSelectorRequired      = "binding-selector-required"
	RuleBindingSelectorFormat        = "binding-selector-format"
	RuleBindingTwice                 = "binding-twice"
	RuleExceptionLabelsRequired      = "exception-labels-required"
	RuleExceptionLabelsTooMany       = "exception-labels-too-many"
	RuleExceptionLabelKey            = "exception-label-key"
	RuleExceptionLabelValue          = "exception-label-value"
	RuleAssignedPodRequired          = "assigned-pod-required"
	RuleAssignedPodNamespaceRequired = "assigned-pod-namespace-required"
	RuleAssignedNodeRequired         = "assigned-node-required"
)
