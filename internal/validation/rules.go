package validation

import (
	"errors"
	"fmt"
	"net/url"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	v1 "github.com/aad-pod-identity/aad-pod-identity/api/v1"
	"github.com/aad-pod-identity/aad-pod-identity/internal/resourceid"
)

// Tags of the struct rules.
const (
	tagIdentityType = "identitytype"
	tagGUID         = "azureguid"
	tagTenant       = "azuretenant"
	tagAuthority    = "authority"
	tagObjectName   = "objectname"
	tagNamespace    = "namespacename"
	tagLabelValue   = "labelvalue"
)

// fieldRule says what is wrong with the value of a field; "" is nothing.
type fieldRule func(value any) string

// fieldRules are the rules behind the tags.
var fieldRules = map[string]fieldRule{
	tagIdentityType: func(value any) string {
		switch value {
		case v1.UserAssignedMSI, v1.ServicePrincipal, v1.ServicePrincipalCertificate:
			return ""
		}
		return "must be 0 (user-assigned managed identity), 1 (service principal) or 2 (service principal with certificate)"
	},
	tagGUID:       text(guidProblem),
	tagTenant:     text(tenantProblem),
	tagAuthority:  text(authorityProblem),
	tagObjectName: text(objectNameProblem),
	tagNamespace:  text(namespaceProblem),
	tagLabelValue: text(selectorProblem),
}

// Struct rules: Go field name to tags, in the syntax of validator/v10. A field
// that is not listed is not judged by itself. "-" keeps the library from looking
// into a struct.
var (
	identityRules = map[string]string{
		"ObjectMeta":         "-",
		"Type":               tagIdentityType,
		"ClientID":           "omitempty," + tagGUID,
		"TenantID":           "omitempty," + tagTenant,
		"AuxiliaryTenantIDs": "dive," + tagTenant,
		"ADEndpoint":         "omitempty," + tagAuthority,
	}
	secretRules = map[string]string{
		"Name":      "omitempty," + tagObjectName,
		"Namespace": "omitempty," + tagNamespace,
	}
	bindingRules = map[string]string{
		"ObjectMeta":    "-",
		"AzureIdentity": "omitempty," + tagObjectName,
		"Selector":      "omitempty," + tagLabelValue,
	}
)

func text(problem func(string) string) fieldRule {
	return func(value any) string {
		s, ok := value.(string)
		if !ok {
			return fmt.Sprintf("must be a string, not %T", value)
		}
		return problem(s)
	}
}

func guidProblem(s string) string {
	if resourceid.IsGUID(s) {
		return ""
	}
	if guid := resourceid.RepairGUID(s); guid != "" {
		return fmt.Sprintf("must be a GUID; use %q", guid)
	}
	return "must be a GUID, such as 00000000-0000-0000-0000-000000000000"
}

func tenantProblem(s string) string {
	if resourceid.IsGUID(s) || isDomain(s) {
		return ""
	}
	if guid := resourceid.RepairGUID(s); guid != "" {
		return fmt.Sprintf("must be a GUID or a verified domain; use %q", guid)
	}
	return "must be a GUID or a verified domain, such as contoso.onmicrosoft.com"
}

func isDomain(s string) bool {
	return strings.Contains(s, ".") && len(validation.IsDNS1123Subdomain(strings.ToLower(s))) == 0
}

func authorityProblem(s string) string {
	u, err := url.Parse(s)
	switch {
	case err != nil || u.Host == "" || u.Scheme != "https":
		return "must be an https URL, such as https://login.microsoftonline.com/"
	case u.User != nil || u.RawQuery != "" || u.Fragment != "":
		return "must be an https URL without user, query and fragment"
	}
	return ""
}

func objectNameProblem(s string) string {
	if namespace, name, found := strings.Cut(s, "/"); found && len(validation.IsDNS1123Label(namespace)) == 0 && len(validation.IsDNS1123Subdomain(name)) == 0 {
		return fmt.Sprintf("must be a name without namespace; use %q", name)
	}
	return strings.Join(validation.IsDNS1123Subdomain(s), "; ")
}

func namespaceProblem(s string) string {
	return strings.Join(validation.IsDNS1123Label(s), "; ")
}

func selectorProblem(s string) string {
	if problems := validation.IsValidLabelValue(s); len(problems) > 0 {
		return "must be possible as the value of the pod label " + v1.BindingLabelKey + ": " + strings.Join(problems, "; ")
	}
	return ""
}

// resourceIDFinding judges the resource ID of a managed identity.
func resourceIDFinding(path *field.Path, id string) *field.Error {
	_, err := resourceid.Parse(id)
	if err == nil {
		return nil
	}
	if id == "" {
		return field.Required(path, err.Error())
	}
	var e *resourceid.Error
	if errors.As(err, &e) {
		return field.Invalid(path, id, e.Detail())
	}
	return field.Invalid(path, id, err.Error())
}
