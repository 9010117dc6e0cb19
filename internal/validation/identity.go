package validation

import (
	"errors"
	"fmt"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation/field"

	v1 "github.com/aad-pod-identity/aad-pod-identity/api/v1"
	"github.com/aad-pod-identity/aad-pod-identity/internal/resourceid"
)

// maxTenants is the maxItems of spec.auxiliaryTenantIDs in the CRD.
const maxTenants = 100

// identitySpec returns what is wrong with the spec of an AzureIdentity.
func (v *Validator) identitySpec(spec *v1.AzureIdentitySpec) field.ErrorList {
	path := field.NewPath("spec")
	var findings field.ErrorList
	if n := len(spec.AuxiliaryTenantIDs); n > maxTenants {
		findings = append(findings, field.TooMany(path.Child("auxiliaryTenantIDs"), n, maxTenants).WithOrigin(RuleTenantsTooMany))
		spec.AuxiliaryTenantIDs = nil // to judge each would cost too much
	}
	findings = append(findings, v.rules.check(path, spec)...)
	switch spec.Type {
	case v1.UserAssignedMSI:
		if f := resourceIDFinding(path.Child("resourceID"), spec.ResourceID); f != nil {
			findings = append(findings, f)
		}
		if spec.ClientID == "" {
			findings = append(findings, field.Required(path.Child("clientID"), "the client ID of the managed identity, a GUID").WithOrigin(RuleClientIDRequired))
		}
	case v1.ServicePrincipal, v1.ServicePrincipalCertificate:
		findings = append(findings, servicePrincipal(path, spec)...)
	}
	return findings
}

// servicePrincipal says what types 1 and 2 lack.
func servicePrincipal(path *field.Path, spec *v1.AzureIdentitySpec) field.ErrorList {
	var findings field.ErrorList
	credential := "the client secret"
	if spec.Type == v1.ServicePrincipalCertificate {
		credential = "the certificate"
	}
	for _, required := range []struct {
		value string
		rule  string
		path  []string
		about string
	}{
		{spec.TenantID, RuleTenantRequired, []string{"tenantID"}, "the tenant of the service principal, a GUID or a verified domain"},
		{spec.ClientID, RuleClientIDRequired, []string{"clientID"}, "the client ID of the service principal, a GUID"},
		{spec.ClientPassword.Name, RuleClientPasswordNameRequired, []string{"clientPassword", "name"}, "the name of the Secret with " + credential},
		{spec.ClientPassword.Namespace, RuleClientPasswordNamespaceRequired, []string{"clientPassword", "namespace"}, "the namespace of the Secret with " + credential},
	} {
		if required.value == "" {
			findings = append(findings, field.Required(path.Child(required.path[0], required.path[1:]...), fmt.Sprintf("type %d needs %s", spec.Type, required.about)).WithOrigin(required.rule))
		}
	}
	return findings
}

// resourceIDFinding judges the resource ID of a managed identity.
func resourceIDFinding(path *field.Path, id string) *field.Error {
	_, err := resourceid.Parse(id)
	if err == nil {
		return nil
	}
	var defects *resourceid.Error
	switch {
	case id == "":
		return field.Required(path, err.Error()).WithOrigin(RuleResourceIDEmpty)
	case errors.As(err, &defects):
		return field.Invalid(path, id, defects.Detail()).WithOrigin(resourceIDRules(defects))
	default:
		return field.Invalid(path, id, "cannot be read").WithOrigin(RuleUnreadable)
	}
}

// resourceIDRules lists the rules that an ID breaks, each once.
func resourceIDRules(defects *resourceid.Error) string {
	var rules []string
	seen := make(map[resourceid.Problem]bool)
	for _, d := range defects.Defects {
		if !seen[d.Problem] {
			seen[d.Problem] = true
			rules = append(rules, resourceIDRule(d.Problem))
		}
	}
	return strings.Join(rules, ",")
}

func resourceIDRule(p resourceid.Problem) string {
	return resourceIDPrefix + string(p)
}

// dependsOnType reports whether a finding comes from a rule that asks for the
// type of an identity.
func dependsOnType(finding *field.Error) bool {
	switch finding.Origin {
	case RuleClientIDRequired, RuleTenantRequired, RuleClientPasswordNameRequired, RuleClientPasswordNamespaceRequired:
		return true
	}
	return strings.HasPrefix(finding.Origin, resourceIDPrefix)
}

// identityWarnings says what a valid AzureIdentity has in vain.
func identityWarnings(spec *v1.AzureIdentitySpec) []Warning {
	var warnings []Warning
	unused := func(name string, there bool) {
		if there {
			warnings = append(warnings, Warning{RuleUnusedField, "spec." + name, fmt.Sprintf("type %d does not use it", spec.Type)})
		}
	}
	if spec.Type == v1.UserAssignedMSI {
		unused("clientPassword", spec.ClientPassword != v1.SecretReference{})
		unused("auxiliaryTenantIDs", len(spec.AuxiliaryTenantIDs) > 0)
		return warnings
	}
	unused("resourceID", spec.ResourceID != "")
	seen := map[string]string{strings.ToLower(spec.TenantID): "spec.tenantID"}
	for i, tenant := range spec.AuxiliaryTenantIDs {
		path := fmt.Sprintf("spec.auxiliaryTenantIDs[%d]", i)
		if first, twice := seen[strings.ToLower(tenant)]; twice {
			warnings = append(warnings, Warning{RuleTenantTwice, path, "the same tenant as " + first})
			continue
		}
		seen[strings.ToLower(tenant)] = path
	}
	return warnings
}
