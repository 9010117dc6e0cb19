package validation

import (
	"fmt"
	"net"
	"net/url"
	"strconv"
	"strings"
	"unicode"

	"k8s.io/apimachinery/pkg/util/validation"

	v1 "github.com/aad-pod-identity/aad-pod-identity/api/v1"
	"github.com/aad-pod-identity/aad-pod-identity/internal/resourceid"
)

// Tags of the struct rules.
const (
	tagIdentityType    = "identitytype"
	tagGUID            = "azureguid"
	tagTenant          = "azuretenant"
	tagAuthority       = "authority"
	tagIdentityName    = "identityname"
	tagSecretName      = "secretname"
	tagSecretNamespace = "secretnamespace"
	tagSelector        = "selector"
	tagLabelKey        = "labelkey"
	tagLabelValue      = "labelvalue"
)

// fault is what is wrong with a value: the rule that it breaks, and the message.
// The zero value is nothing.
type fault struct{ rule, detail string }

// fieldRule judges the value of a field.
type fieldRule func(value any) fault

// fieldRules are the rules behind the tags.
var fieldRules = map[string]fieldRule{
	tagIdentityType:    identityTypeFault,
	tagGUID:            text(guidFault),
	tagTenant:          text(tenantFault),
	tagAuthority:       text(authorityFault),
	tagIdentityName:    text(identityNameFault),
	tagSecretName:      text(secretNameFault),
	tagSecretNamespace: text(secretNamespaceFault),
	tagSelector:        text(selectorFault),
	tagLabelKey:        text(labelKeyFault),
	tagLabelValue:      text(labelValueFault),
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
		"Name":      "omitempty," + tagSecretName,
		"Namespace": "omitempty," + tagSecretNamespace,
	}
	bindingRules = map[string]string{
		"ObjectMeta":    "-",
		"AzureIdentity": "omitempty," + tagIdentityName,
		"Selector":      "omitempty," + tagSelector,
	}
	exceptionRules = map[string]string{
		"ObjectMeta": "-",
		"PodLabels":  "dive,keys," + tagLabelKey + ",endkeys," + tagLabelValue,
	}
)

func text(problem func(string) fault) fieldRule {
	return func(value any) fault {
		s, ok := value.(string)
		if !ok {
			return fault{RuleUnreadable, "cannot be read"}
		}
		return problem(s)
	}
}

func identityTypeFault(value any) fault {
	switch value {
	case v1.UserAssignedMSI, v1.ServicePrincipal, v1.ServicePrincipalCertificate:
		return fault{}
	}
	return fault{RuleIdentityType, "must be 0 (user-assigned managed identity), 1 (service principal) or 2 (service principal with certificate)"}
}

func guidFault(s string) fault {
	if resourceid.IsGUID(s) {
		return fault{}
	}
	if guid := resourceid.RepairGUID(s); guid != "" {
		return fault{RuleClientIDFormat, fmt.Sprintf("must be a GUID; use %q", guid)}
	}
	return fault{RuleClientIDFormat, "must be a GUID, such as 00000000-0000-0000-0000-000000000000"}
}

func tenantFault(s string) fault {
	if resourceid.IsGUID(s) || isDomain(s) {
		return fault{}
	}
	const rule = RuleTenantFormat
	if guid := resourceid.RepairGUID(s); guid != "" {
		return fault{rule, fmt.Sprintf("must be a GUID or a verified domain; use %q", guid)}
	}
	if domain := bare(s); isDomain(domain) {
		return fault{rule, fmt.Sprintf("must be a GUID or a verified domain; use %q", domain)}
	}
	return fault{rule, "must be a GUID or a verified domain, such as contoso.onmicrosoft.com"}
}

// isDomain reports whether s can be a domain of a tenant. An IP address cannot:
// the last label of a domain is no number.
func isDomain(s string) bool {
	dot := strings.LastIndex(s, ".")
	return dot >= 0 && strings.Trim(s[dot+1:], "0123456789") != "" && isObjectName(asciiLower(s))
}

// authorityFault judges the URL of a token authority, to which credentials are
// sent.
func authorityFault(s string) fault {
	u, err := url.Parse(s)
	switch {
	case err != nil || u.Scheme != "https" || u.Host == "":
		if t := bare(s); t != s && authorityFault(t) == (fault{}) {
			return fault{RuleADEndpointHTTPS, fmt.Sprintf("must be an https URL; use %q", t)}
		}
		return fault{RuleADEndpointHTTPS, "must be an https URL, such as https://login.microsoftonline.com/"}
	case u.User != nil || strings.ContainsAny(s, "?#"):
		return fault{RuleADEndpointParts, "must be an https URL without user, query and fragment"}
	case !isHost(u.Hostname()) || !isPort(u.Port()) || strings.HasSuffix(u.Host, ":"):
		return fault{RuleADEndpointHost, "must be an https URL with the name of a host, and a port from 1 to 65535 if any"}
	}
	return fault{}
}

func isHost(s string) bool {
	return net.ParseIP(s) != nil || isObjectName(asciiLower(s))
}

// asciiLower lowers letters of ASCII and leaves a text with any other alone:
// Unicode has letters besides, the Kelvin sign is one, that become ASCII ones.
func asciiLower(s string) string {
	if strings.IndexFunc(s, func(r rune) bool { return r > unicode.MaxASCII }) >= 0 {
		return s
	}
	return strings.ToLower(s)
}

func isPort(s string) bool {
	if s == "" {
		return true
	}
	port, err := strconv.ParseUint(s, 10, 16)
	return err == nil && port > 0
}

func identityNameFault(s string) fault {
	if isObjectName(s) {
		return fault{}
	}
	const rule = RuleBindingIdentityFormat
	if namespace, name, found := strings.Cut(s, "/"); found && isNamespace(namespace) && isObjectName(name) {
		return fault{rule, fmt.Sprintf("must be a name without namespace; use %q", name)}
	}
	return objectNameFault(rule, s)
}

func secretNameFault(s string) fault {
	if isObjectName(s) {
		return fault{}
	}
	const rule = RuleClientPasswordNameFormat
	if namespace, name, found := strings.Cut(s, "/"); found && isNamespace(namespace) && isObjectName(name) {
		return fault{rule, fmt.Sprintf("must be a name without namespace, which has its own field; use %q", name)}
	}
	return objectNameFault(rule, s)
}

func objectNameFault(rule, s string) fault {
	const detail = "must be the name of an object: at most 253 lower-case letters, digits, - and ., the first and last of each dotted part a letter or digit"
	if name := strings.ToLower(bare(s)); isObjectName(name) {
		return fault{rule, fmt.Sprintf("%s; use %q", detail, name)}
	}
	return fault{rule, detail}
}

func secretNamespaceFault(s string) fault {
	if isNamespace(s) {
		return fault{}
	}
	const rule = RuleClientPasswordNamespaceFormat
	const detail = "must be the name of a namespace: at most 63 lower-case letters, digits and -, the first and last a letter or digit"
	if name := strings.ToLower(bare(s)); isNamespace(name) {
		return fault{rule, fmt.Sprintf("%s; use %q", detail, name)}
	}
	return fault{rule, detail}
}

const labelValueForm = "at most 63 letters, digits, -, _ and ., the first and last a letter or digit"

func selectorFault(s string) fault {
	if isLabelValue(s) {
		return fault{}
	}
	const rule = RuleBindingSelectorFormat
	const detail = "must be possible as the value of the pod label " + v1.BindingLabelKey + ": " + labelValueForm
	if value := bare(s); value != "" && isLabelValue(value) {
		return fault{rule, fmt.Sprintf("%s; use %q", detail, value)}
	}
	return fault{rule, detail}
}

func labelKeyFault(s string) fault {
	if len(validation.IsQualifiedName(s)) == 0 {
		return fault{}
	}
	return fault{RuleExceptionLabelKey, "must be the key of a label: " + labelValueForm + ", after a lower-case domain and a slash if need be"}
}

func labelValueFault(s string) fault {
	if isLabelValue(s) {
		return fault{}
	}
	return fault{RuleExceptionLabelValue, "must be possible as the value of a label: empty, or " + labelValueForm}
}

func isObjectName(s string) bool { return len(validation.IsDNS1123Subdomain(s)) == 0 }
func isNamespace(s string) bool  { return len(validation.IsDNS1123Label(s)) == 0 }
func isLabelValue(s string) bool { return len(validation.IsValidLabelValue(s)) == 0 }

// bare removes the white space and quotes around a value that was copied.
func bare(s string) string {
	return strings.Trim(s, " \t\r\n\"'`")
}
