package validation

import (
	"fmt"

	"k8s.io/apimachinery/pkg/util/validation/field"

	v1 "github.com/aad-pod-identity/aad-pod-identity/api/v1"
)

// Identity returns what is wrong with an AzureIdentity: the rules of admission.
func (v *Validator) Identity(id *v1.AzureIdentity) field.ErrorList {
	path := field.NewPath("spec")
	findings := v.rules.check(path, &id.Spec)
	switch id.Spec.Type {
	case v1.UserAssignedMSI:
		if f := resourceIDFinding(path.Child("resourceID"), id.Spec.ResourceID); f != nil {
			findings = append(findings, f)
		}
		if id.Spec.ClientID == "" {
			findings = append(findings, field.Required(path.Child("clientID"), "the client ID of the managed identity, a GUID"))
		}
	case v1.ServicePrincipal, v1.ServicePrincipalCertificate:
		findings = append(findings, servicePrincipal(path, &id.Spec)...)
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
		path         *field.Path
		value, about string
	}{
		{path.Child("tenantID"), spec.TenantID, "the tenant of the service principal, a GUID or a verified domain"},
		{path.Child("clientID"), spec.ClientID, "the client ID of the service principal, a GUID"},
		{path.Child("clientPassword", "name"), spec.ClientPassword.Name, "the name of the Secret with " + credential},
		{path.Child("clientPassword", "namespace"), spec.ClientPassword.Namespace, "the namespace of the Secret with " + credential},
	} {
		if required.value == "" {
			findings = append(findings, field.Required(required.path, fmt.Sprintf("type %d needs %s", spec.Type, required.about)))
		}
	}
	return findings
}
