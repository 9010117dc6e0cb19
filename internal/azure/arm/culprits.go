package arm

import (
	"net/url"
	"regexp"
	"strings"
)

// identityID finds resource IDs of identities in a text. Resource groups may
// contain parentheses and periods; ARM separates several IDs by commas. The
// slashes may be escaped: a resource provider quotes the JSON of the identity
// service inside its own.
var identityID = regexp.MustCompile(`(?i)/subscriptions/[^/'",\s\\]+/resourceGroups/[^/'",\s\\]+/providers/Microsoft\.ManagedIdentity/userAssignedIdentities/[A-Za-z0-9_-]+`)

// notFoundIdentity is the form of ARM's ResourceNotFound, which has no resource
// ID: type and name, then the group.
var notFoundIdentity = regexp.MustCompile(`(?i)'Microsoft\.ManagedIdentity/userAssignedIdentities/([A-Za-z0-9_-]+)' under resource group '([^']+)'`)

// identityIDs returns the IDs in a text, each once. One without subscription,
// because the text had none, has an asterisk in its place.
func identityIDs(text string) []string {
	text = strings.ReplaceAll(text, `\/`, "/")
	if strings.Contains(strings.ToLower(text), "%2fsubscriptions%2f") {
		if plain, err := url.PathUnescape(text); err == nil {
			text = plain
		}
	}
	found := identityID.FindAllString(text, -1)
	for _, m := range notFoundIdentity.FindAllStringSubmatch(text, -1) {
		found = append(found, anySubscription+m[2]+"/providers/Microsoft.ManagedIdentity/userAssignedIdentities/"+m[1])
	}
	var ids []string
	seen := map[string]bool{}
	for _, id := range found {
		if key := strings.ToLower(id); !seen[key] {
			seen[key] = true
			ids = append(ids, id)
		}
	}
	return ids
}

const anySubscription = "/subscriptions/*/resourceGroups/"

// Blames says whether one of the IDs that ARM named is the given one. The
// comparison ignores case, as ARM does.
func Blames(named []string, id string) bool {
	for _, n := range named {
		if strings.EqualFold(n, id) {
			return true
		}
		rest, partial := strings.CutPrefix(n, anySubscription)
		if _, group, ok := strings.Cut(strings.ToLower(id), "/resourcegroups/"); partial && ok && strings.EqualFold(rest, group) {
			return true
		}
	}
	return false
}
