package resourceid

import (
	"errors"
	"regexp"
	"strings"
	"testing"
	"unicode/utf8"
)

// oracle states the rule a second time and in another way, so that a mistake
// would have to be made twice.
var oracle = regexp.MustCompile(`^/subscriptions/[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}` +
	`/resource[gG]roups/[-_().0-9A-Za-z\p{L}\p{Nd}]{0,89}[-_()0-9A-Za-z\p{L}\p{Nd}]` +
	`/providers/Microsoft\.ManagedIdentity/userAssignedIdentities/[0-9A-Za-z][-_0-9A-Za-z]{2,127}$`)

func FuzzParse(f *testing.F) {
	for _, seed := range []string{
		"", "/", "//", good, good[1:], good + "/", strings.ToUpper(good), `"` + good + `"`, strings.ReplaceAll(good, "/", "%2F"),
		strings.Replace(good, "resourcegroups", "resourcgroups", 1),
		strings.Replace(good, "/resourcegroups", "resourcegroups", 1),
		strings.Replace(good, "/resourcegroups/rg-1", "", 1),
		strings.Replace(good, "rg-1", "größe", 1),
		"https://portal.azure.com/#@t/resource" + good + "/overview",
		"/subscriptions/" + sub + "/resourceGroups/rg/providers/Microsoft.Compute/virtualMachineScaleSets/a/virtualMachines/0",
		"\xff\xfe/subscriptions/\x00",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, id string) {
		parsed, err := Parse(id)
		if want := utf8.ValidString(id) && oracle.MatchString(id); (err == nil) != want {
			t.Fatalf("Parse(%q): %v, the oracle says %v", id, err, want)
		}
		anyCase, anyErr := ParseAnyCase(id)
		if err == nil {
			if anyErr != nil || anyCase != parsed {
				t.Fatalf("ParseAnyCase(%q) = %+v, %v after Parse accepted it", id, anyCase, anyErr)
			}
			if !Equal(parsed.String(), id) {
				t.Fatalf("canonical form %q is another resource than %q", parsed, id)
			}
			if again, err := Parse(parsed.String()); err != nil || again != parsed {
				t.Fatalf("canonical form %q does not parse back: %v", parsed, err)
			}
			return
		}
		var e *Error
		if !errors.As(err, &e) || len(e.Defects) == 0 || e.ID != id {
			t.Fatalf("Parse(%q): the error lacks its parts: %#v", id, err)
		}
		if e.Suggestion != "" {
			if _, err := Parse(e.Suggestion); err != nil {
				t.Fatalf("Parse(%q) suggests %q: %v", id, e.Suggestion, err)
			}
		}
		if anyErr == nil && e.Suggestion != "" && !Equal(e.Suggestion, id) {
			t.Fatalf("%q differs only by case, yet %q is suggested", id, e.Suggestion)
		}
		if len(e.Error()) > 20000 {
			t.Fatalf("the message has %d bytes", len(e.Error()))
		}
	})
}

func FuzzParseProviderID(f *testing.F) {
	f.Add("")
	f.Add("azure:///subscriptions/s/resourceGroups/g/providers/Microsoft.Compute/virtualMachines/v")
	f.Add("AZURE:///subscriptions/s/resourceGroups/g/providers/Microsoft.Compute/virtualMachineScaleSets/p/virtualMachines/0")
	f.Fuzz(func(t *testing.T, id string) {
		c, err := ParseProviderID(id)
		if err != nil {
			return
		}
		provider := "azure://" + c.String()
		if c.Kind == VMSS {
			provider += "/virtualMachines/" + c.Instance
		}
		if again, err := ParseProviderID(provider); err != nil || again != c {
			t.Fatalf("%q parses to %+v, %q to %+v, %v", id, c, provider, again, err)
		}
		if !Equal(provider, id) {
			t.Fatalf("%q was read as %q", id, provider)
		}
	})
}
