package token

import (
	"fmt"
	"net/url"
	"slices"
	"strings"

	"github.com/aad-pod-identity/aad-pod-identity/internal/azure/cloud"
)

// DefaultAuthority is where service principals sign in whose AzureIdentity has no
// adEndpoint.
const DefaultAuthority = "https://login.microsoftonline.com/"

// partnerAuthority is the second authority of the China cloud.
const partnerAuthority = "https://login.partner.microsoftonline.cn/"

// Authorities are the hosts that credentials may be sent to. Admission judges
// adEndpoint by the same list; it is judged again before a credential leaves,
// since an object can be older than the policy, or the policy removed.
type Authorities struct{ hosts []string }

// NewAuthorities allows the authorities of Azure's clouds, and further hosts
// written as in a URL: with the port if it is another than 443.
func NewAuthorities(further []string) (Authorities, error) {
	var a Authorities
	for _, known := range append(cloud.KnownAuthorities(), partnerAuthority) {
		u, err := url.Parse(known)
		if err != nil {
			return Authorities{}, fmt.Errorf("authority %q: %w", known, err)
		}
		a.hosts = append(a.hosts, u.Host)
	}
	for _, host := range further {
		u, err := url.Parse("https://" + host)
		if err != nil || host == "" || u.Host != host || u.Hostname() == "" {
			return Authorities{}, fmt.Errorf("%q is not a host, such as adfs.example.com or 10.0.0.4:8443", host)
		}
		a.hosts = append(a.hosts, canonicalHost(u))
	}
	return a, nil
}

// Allows says whether a credential may be sent to a URL.
func (a Authorities) Allows(u *url.URL) bool {
	return u.Scheme == "https" && u.User == nil && slices.Contains(a.hosts, canonicalHost(u))
}

// resolve returns the authority host of an adEndpoint, for azidentity, or says why
// no credential is sent there.
func (a Authorities) resolve(endpoint string) (string, *Error) {
	if endpoint == "" {
		endpoint = DefaultAuthority
	}
	u, err := url.Parse(endpoint)
	if err != nil || !a.Allows(u) {
		return "", &Error{
			Refused: true, Code: "invalid_authority",
			Description: fmt.Sprintf("adEndpoint %q of the AzureIdentity is neither an authority of Azure's clouds nor one of allowedAuthorityHosts", endpoint),
		}
	}
	// The 1.8 releases resolved the tenant against adEndpoint as a browser does a
	// relative link, which drops what stands after the last slash of its path. What
	// is left of the path would be taken for the tenant.
	if at := strings.LastIndexByte(u.Path, '/'); at > 0 {
		return "", &Error{
			Refused: true, Code: "invalid_authority",
			Description: fmt.Sprintf("adEndpoint %q of the AzureIdentity has a path, for which there is no place: the tenant follows the host", endpoint),
		}
	}
	return "https://" + canonicalHost(u) + "/", nil
}

func canonicalHost(u *url.URL) string { return strings.TrimSuffix(strings.ToLower(u.Host), ":443") }
