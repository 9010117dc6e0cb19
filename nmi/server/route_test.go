package server

import (
	"strings"
	"testing"
)

func TestClassify(t *testing.T) {
	tests := map[string]route{
		"/metadata/identity/oauth2/token":             routeToken,
		"/metadata/identity/oauth2/token/":            routeToken,
		"/METADATA/identity/oauth2/token":             routeToken,
		"/Metadata/identity/oauth2/token/x":           routeToken,
		"/metadata/identity//oauth2/token":            routeInvalid,
		"/metadata/identity\\oauth2\\token":           routeInvalid,
		"/metadata/identity/x/oauth2/./token":         routeInvalid,
		"/metadata/Identity/oauth2/token":             routeInvalid,
		"/metadata/identity/OAUTH2/Token":             routeInvalid,
		"//metadata/identity/oauth2/token":            routeInvalid,
		"/./metadata/identity/oauth2/token":           routeInvalid,
		"/metadata/instance/../identity/oauth2/token": routeInvalid,
		"/metadata/identity%2foauth2%2ftoken":         routeInvalid, // was encoded twice
		"/metadata/identity%252foauth2/token":         routeInvalid,
		"/metadata/iden%74ity/oauth2/token":           routeInvalid,
		"/metadata/identity/oauth2\n/token":           routeInvalid,
		"/metadata/identity/oauth2/%74oken/%zz":       routeInvalid, // one broken escape hides no other
		"/metadata/%69nstance/%":                      routeInvalid,
		"/metadata/identity/oauth2/%u0074oken":        routeInvalid, // as IIS encodes
		"/metadata/identity/oauth2/\uff54oken":        routeInvalid, // full width
		"/metadata/identity/oauth2/\xc1\xb4oken":      routeInvalid, // overlong
		"/metadata/identity/issue\u00adcredential":    routeInvalid,
		"/metadata/scheduled events":                  routeInvalid,
		"/host/token":                                 routeHost,
		"/host/token/":                                routeHost,
		"/HOST/token":                                 routeProxy,
		"/metadata/instance":                          routeInstance,
		"/metadata/instance/compute":                  routeInstance,
		"/METADATA/instance":                          routeInstance,
		"/metadata//instance":                         routeInstance,
		"/metadata/./instance":                        routeInstance,
		"/metadata/x/../instance":                     routeInstance,
		"/metadata/Instance":                          routeInstance,
		"/metadata/%69nstance":                        routeInstance,
		"/metadata/identity/info":                     routeProxy,
		"/METADATA/identity/info/":                    routeProxy,
		"/metadata/identity/issuecredential":          routeIdentity,
		"/Metadata/Identity/IssueCredential":          routeIdentity,
		"/metadata/identity/getplatformmetadata":      routeIdentity,
		"/metadata/identity/credential":               routeIdentity,
		"/metadata/x/../identity/issuecredential":     routeIdentity,
		"/metadata//%69dentity/issuecredential":       routeIdentity,
		"/metadata/identity/issuecredential/../info":  routeIdentity,
		"/metadata/identity/info/../issuecredential":  routeIdentity,
		"/metadata/attested/document":                 routeProxy,
		"/metadata/scheduledevents":                   routeProxy,
		"/metadata":                                   routeProxy,
		"/":                                           routeProxy,
		"":                                            routeProxy,
		"/x/instance":                                 routeProxy,
		"/metadata/token":                             routeProxy,
	}
	for path, want := range tests {
		t.Run(path, func(t *testing.T) {
			if got := classify(path); got != want {
				t.Errorf("classify(%q) = %v, want %v", path, got, want)
			}
		})
	}
}

func FuzzClassify(f *testing.F) {
	f.Add("/metadata/identity/oauth2/token")
	f.Add("/%6detadata/%2e%2e/identity/oauth2/token")
	f.Fuzz(func(t *testing.T, path string) {
		rt := classify(path)
		if rt == routeProxy && (tokenLike.MatchString(normalise(path)) || identityLike.MatchString(normalise(path)) && !strings.HasSuffix(strings.TrimSuffix(path, "/"), "/identity/info")) {
			t.Errorf("%q is passed on", path)
		}
	})
}

func TestResourceLabel(t *testing.T) {
	tests := map[string]struct{ in, want string }{
		"no token request":      {"", ""},
		"a well-known resource": {"https://vault.azure.net", "https://vault.azure.net"},
		"its trailing slash":    {"https://management.azure.com/", "https://management.azure.com/"},
		"its capitals":          {"HTTPS://Vault.Azure.net", "https://vault.azure.net"},
		"anything else":         {"https://vault.azure.net/x", "other"},
		"two slashes":           {"https://vault.azure.net//", "other"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			if got := resourceLabel(tc.in); got != tc.want {
				t.Errorf("got %q, want %q", got, tc.want)
			}
		})
	}
}

func TestHarmless(t *testing.T) {
	if got := harmless("a\nE0101 forged\x1b[31mé"); got != "a?E0101?forged?[31m?" {
		t.Errorf("got %q", got)
	}
}
