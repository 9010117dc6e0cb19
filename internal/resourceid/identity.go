package resourceid

import (
	"strings"
)

// Pattern is the form of an identity's resource ID as messages print it.
const Pattern = "/subscriptions/<subid>/resourcegroups/<resourcegroup>/providers/Microsoft.ManagedIdentity/userAssignedIdentities/<name>"

// ExpectedType is the resource type of a user-assigned managed identity.
const ExpectedType = identityProvider + "/" + identityType

const (
	identityProvider = "Microsoft.ManagedIdentity"
	identityType     = "userAssignedIdentities"

	// portalGroups is the other accepted spelling of "resourcegroups": the
	// portal and most of ARM print it, the identity API prints the former.
	portalGroups = "resourceGroups"
)

// Positions of the segments in an ID.
const (
	segSubscriptions = iota
	segSubscription
	segGroups
	segGroup
	segProviders
	segProvider
	segType
	segName
	segmentCount
)

// fixed holds the segments that are the same in every ID; "" where a value
// stands.
var fixed = [segmentCount]string{
	segSubscriptions: "subscriptions",
	segGroups:        "resourcegroups",
	segProviders:     "providers",
	segProvider:      identityProvider,
	segType:          identityType,
}

// Identity is the parsed resource ID of a user-assigned managed identity. The
// values keep the capitalisation they were written in.
type Identity struct {
	// Subscription is a GUID.
	Subscription string
	// ResourceGroup is the name of the resource group.
	ResourceGroup string
	// Name is the name of the identity.
	Name string
}

// String returns the canonical ID: the fixed segments as in [Pattern], the
// values as they were written.
func (i Identity) String() string {
	return "/subscriptions/" + i.Subscription + "/resourcegroups/" + i.ResourceGroup +
		"/providers/" + ExpectedType + "/" + i.Name
}

// Key is [Key] of the canonical ID.
func (i Identity) Key() string {
	return Key(i.String())
}

// Parse parses the resource ID of a user-assigned managed identity in exactly
// the form of [Pattern]; "resourcegroups" may be written "resourceGroups". The
// error is an [*Error].
func Parse(id string) (Identity, error) {
	return parse(id, false)
}

// ParseAnyCase is [Parse] for IDs that are already stored or come from Azure:
// the fixed segments may have any capitalisation. The error is an [*Error].
func ParseAnyCase(id string) (Identity, error) {
	return parse(id, true)
}

func parse(id string, anyCase bool) (Identity, error) {
	if parsed, ok := match(id, anyCase); ok {
		return parsed, nil
	}
	return Identity{}, diagnose(id)
}

// match is the rule itself, without a word on what is wrong: the path that
// every good ID takes. It allocates nothing.
func match(id string, anyCase bool) (Identity, bool) {
	if len(id) > maxLength || !strings.HasPrefix(id, "/") {
		return Identity{}, false
	}
	var segments [segmentCount]string
	rest := id[1:]
	for i := range segments {
		segment, after, more := strings.Cut(rest, "/")
		if more == (i == segmentCount-1) {
			return Identity{}, false
		}
		segments[i], rest = segment, after
	}
	for i, want := range fixed {
		if want == "" || segments[i] == want || i == segGroups && segments[i] == portalGroups {
			continue
		}
		if !anyCase || !equalFoldASCII(segments[i], want) {
			return Identity{}, false
		}
	}
	if !IsGUID(segments[segSubscription]) || groupProblem(segments[segGroup]) != "" || nameProblem(segments[segName]) != "" {
		return Identity{}, false
	}
	return Identity{
		Subscription:  segments[segSubscription],
		ResourceGroup: segments[segGroup],
		Name:          segments[segName],
	}, true
}
