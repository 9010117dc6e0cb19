package validation

// nameRules holds the rules about the names of fields, at every level.
var nameRules = []Rule{
	{
		ID:      RuleFieldMiscapitalised,
		Kinds:   allKinds,
		Field:   "*",
		Texts:   []string{"miscapitalised, use {name}"},
		Example: "ResourceID: /subscriptions/0f3c5e2a-91b7-4d1e-8c57-2b1f6a9d4e30/resourcegroups/demo-rg/providers/Microsoft.ManagedIdentity/userAssignedIdentities/demo",
		Message: `spec.ResourceID: Forbidden: miscapitalised, use "resourceID"`,
	},
	{
		ID:      RuleFieldTwice,
		Kinds:   allKinds,
		Field:   "*",
		Texts:   []string{"miscapitalised, and {name} is there as well: remove one"},
		Example: "resourceID: /subscriptions/0f3c5e2a-91b7-4d1e-8c57-2b1f6a9d4e30/resourcegroups/demo-rg/providers/Microsoft.ManagedIdentity/userAssignedIdentities/demo\nResourceID: /subscriptions/0f3c5e2a-91b7-4d1e-8c57-2b1f6a9d4e30/resourcegroups/demo-rg/providers/Microsoft.ManagedIdentity/userAssignedIdentities/demo",
		Message: `spec.ResourceID: Forbidden: miscapitalised, and "resourceID" is there as well: remove one`,
	},
	{
		ID:      RuleFieldMisspelt,
		Kinds:   allKinds,
		Field:   "*",
		Texts:   []string{"unknown field, did you mean {name}?"},
		Example: "resorceID: /subscriptions/0f3c5e2a-91b7-4d1e-8c57-2b1f6a9d4e30/resourcegroups/demo-rg/providers/Microsoft.ManagedIdentity/userAssignedIdentities/demo",
		Message: `spec.resorceID: Forbidden: unknown field, did you mean "resourceID"?`,
	},
	{
		ID:      RuleFieldUnknown,
		Kinds:   allKinds,
		Field:   "*",
		Texts:   []string{"unknown field"},
		Example: "secretName: x",
		Message: "spec.secretName: Forbidden: unknown field",
	},
	{
		ID:      RuleFieldRepeated,
		Kinds:   allKinds,
		Field:   "*",
		Texts:   []string{"written more than once: keep one"},
		Example: "selector: a\nselector: b",
		Message: "spec.selector: Forbidden: written more than once: keep one",
	},
}

// typeRules holds the rules about JSON types.
var typeRules = []Rule{
	{
		ID:    RuleTypeString,
		Kinds: allKinds,
		Field: "*",
		Texts: []string{
			"must be a string, not {type}",
			"must be a string, not {type}: put it in quotes",
		},
		Example: "clientID: 42",
		Message: "spec.clientID: Invalid value: 42: must be a string, not a number: put it in quotes",
	},
	{
		ID:    RuleTypeNumber,
		Kinds: allKinds,
		Field: "*",
		Texts: []string{
			"must be a number, not {type}",
			"must be a number, not a string: remove the quotes",
		},
		Example: `type: "0"`,
		Message: `spec.type: Invalid value: "0": must be a number, not a string: remove the quotes`,
	},
	{
		ID:      RuleTypeWholeNumber,
		Kinds:   allKinds,
		Field:   "*",
		Texts:   []string{"must be a whole number"},
		Example: "type: 0.5",
		Message: "spec.type: Invalid value: 0.5: must be a whole number",
	},
	{
		ID:      RuleTypeRange,
		Kinds:   allKinds,
		Field:   "*",
		Texts:   []string{"must be from {least} to {most}"},
		Example: "replicas: 2147483648",
		Message: "spec.replicas: Invalid value: 2147483648: must be from -2147483648 to 2147483647",
	},
	{
		ID:      RuleTypeBoolean,
		Kinds:   allKinds,
		Field:   "*",
		Texts:   []string{"must be true or false, not {type}"},
		Example: `- controller: "yes"`,
		Message: `spec.metadata.ownerReferences[0].controller: Invalid value: "yes": must be true or false, not a string`,
	},
	{
		ID:    RuleTypeTime,
		Kinds: allKinds,
		Field: "*",
		Texts: []string{
			"must be a time in RFC 3339 format, not {type}",
			"must be a time in RFC 3339 format, such as 2006-01-02T15:04:05Z",
		},
		Example: "creationTimestamp: yesterday",
		Message: `spec.metadata.creationTimestamp: Invalid value: "yesterday": must be a time in RFC 3339 format, such as 2006-01-02T15:04:05Z`,
	},
	{
		ID:      RuleTypeList,
		Kinds:   allKinds,
		Field:   "*",
		Texts:   []string{"must be a list, not {type}"},
		Example: "auxiliaryTenantIDs: contoso.com",
		Message: `spec.auxiliaryTenantIDs: Invalid value: "contoso.com": must be a list, not a string`,
	},
	{
		ID:      RuleTypeObject,
		Kinds:   allKinds,
		Field:   "*",
		Texts:   []string{"must be an object, not {type}"},
		Example: "clientPassword: sp-secret",
		Message: `spec.clientPassword: Invalid value: "sp-secret": must be an object, not a string`,
	},
}
