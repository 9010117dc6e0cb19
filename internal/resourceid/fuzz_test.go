package resourceid

import (
	"errors"
	"regexp"
	"strings"
	"testing"
	"unicode/utf8"
)

// The oracle states the rule a second time and in another way, so that a mistake
// would have to be made twice: one anchored expression for the form, and counts
// for the lengths.
var (
	oracleForm = regexp.MustCompile(`^/([A-Za-z]+)/([0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12})/([A-Za-z]+)/([-_().0-9A-Za-z\p{L}\p{Nd}]*[-_()0-9A-Za-z\p{L}\p{Nd}])` +
		`/([A-Za-z]+)/([A-Za-z.]+)/([A-Za-z]+)/([0-9A-Za-z][-_0-9A-Za-z]*)$`)
	oracleFixed  = map[int]string{1: "subscriptions", 3: "resourcegroups", 5: "providers", 6: "Microsoft.ManagedIdentity", 7: "userAssignedIdentities"}
	oraclePortal = "resourceGroups"
)

// judgement of the oracle about an ID: strict, as in Parse; anyCase, as in
// ParseAnyCase; and the ID in the right capitalisation if it is good for the
// latter.
type judgement struct {
	strict, anyCase bool
	canonical       string
}

func oracle(id string) judgement {
	m := oracleForm.FindStringSubmatch(id)
	if m == nil || !utf8.ValidString(id) || utf8.RuneCountInString(m[4]) > 90 || len(m[8]) < 3 || len(m[8]) > 128 {
		return judgement{}
	}
	j := judgement{strict: true, anyCase: true}
	for i, want := range oracleFixed {
		if m[i] == want || i == 3 && m[i] == oraclePortal {
			continue
		}
		j.strict = false
		if !strings.EqualFold(m[i], want) {
			return judgement{}
		}
		m[i] = want
	}
	j.canonical = "/" + strings.Join(m[1:], "/")
	return j
}

// FuzzParse feeds any text to the parser: it never panics, never accepts what
// the oracle refuses, and proposes nothing that it would not accept itself.
func FuzzParse(f *testing.F) {
	for _, seed := range []string{
		"", "/", "//", good, good[1:], good + "/", strings.ToUpper(good), `"` + good + `"`, strings.ReplaceAll(good, "/", "%2F"),
		strings.Replace(good, "resourcegroups", "resourcgroups", 1),
		strings.Replace(good, "/resourcegroups", "resourcegroups", 1),
		strings.Replace(good, "/resourcegroups/rg-1", "", 1),
		strings.Replace(good, "rg-1", "größe", 1),
		strings.Replace(good, "subscriptions", "\u017fubscriptions", 1),
		"https://portal.azure.com/#@t/resource" + good + "/overview",
		"/subscriptions/" + sub + "/resourceGroups/rg/providers/Microsoft.Compute/virtualMachineScaleSets/a/virtualMachines/0",
		"\xff\xfe/subscriptions/\x00",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, id string) {
		want := oracle(id)
		parsed, err := Parse(id)
		if (err == nil) != want.strict {
			t.Fatalf("Parse(%q): %v, the oracle says %+v", id, err, want)
		}
		anyCase, anyErr := ParseAnyCase(id)
		if (anyErr == nil) != want.anyCase {
			t.Fatalf("ParseAnyCase(%q): %v, the oracle says %+v", id, anyErr, want)
		}
		if anyErr == nil && !Equal(anyCase.String(), id) {
			t.Fatalf("canonical form %q is another resource than %q", anyCase, id)
		}
		if err == nil {
			if anyCase != parsed {
				t.Fatalf("ParseAnyCase(%q) = %+v after Parse gave %+v", id, anyCase, parsed)
			}
			if again, err := Parse(parsed.String()); err != nil || again != parsed {
				t.Fatalf("canonical form %q does not parse back: %v", parsed, err)
			}
			return
		}
		checkError(t, id, err, want)
	})
}

// checkError holds what is promised of the error about a refused ID.
func checkError(t *testing.T, id string, err error, want judgement) {
	t.Helper()
	var e *Error
	if !errors.As(err, &e) || len(e.Defects) == 0 || e.ID != id {
		t.Fatalf("Parse(%q): the error lacks its parts: %#v", id, err)
	}
	if e.Suggestion != "" && !oracle(e.Suggestion).strict {
		t.Fatalf("Parse(%q) suggests %q, which the oracle refuses", id, e.Suggestion)
	}
	if e.OnlyMiscapitalised() != want.anyCase {
		t.Fatalf("Parse(%q): only miscapitalised %v, the oracle says %+v", id, e.OnlyMiscapitalised(), want)
	}
	if want.anyCase && e.Suggestion != want.canonical {
		t.Fatalf("Parse(%q) suggests %q, the oracle %q", id, e.Suggestion, want.canonical)
	}
	if len(e.Error()) > 20000 {
		t.Fatalf("the message has %d bytes", len(e.Error()))
	}
}

// spoilers each give a good ID one defect, or one more, that has exactly one
// correction.
var spoilers = []func(id string, at int) string{
	func(id string, _ int) string { return id + "/" },
	func(id string, _ int) string { return id[1:] },
	func(id string, _ int) string { return " " + id + "\n" },
	func(id string, _ int) string { return `"` + id + `"` },
	func(id string, _ int) string { return id + "," },
	func(id string, _ int) string { return "https://management.azure.com" + id },
	func(id string, _ int) string { return id + "?api-version=2023-01-31" },
	func(id string, _ int) string { return strings.ReplaceAll(id, "/", "%2F") },
	func(id string, _ int) string { return strings.ReplaceAll(id, "/", `\`) },
	func(id string, at int) string { return id[:slash(id, at)] + "/" + id[slash(id, at):] },
	func(id string, _ int) string { return id + "/federatedIdentityCredentials/x" },
	func(id string, at int) string { return changeFixed(id, at, strings.ToUpper) },
	func(id string, at int) string {
		return changeFixed(id, at, func(s string) string { return s[:2] + s[3:] })
	},
	func(id string, at int) string {
		return changeFixed(id, at, func(s string) string { return s[:2] + " " + s[2:] })
	},
}

// slash is the place of the slash with number at.
func slash(id string, at int) int {
	place := 0
	for range at%8 + 1 {
		if next := strings.Index(id[place+1:], "/"); next >= 0 {
			place += 1 + next
		}
	}
	return place
}

func changeFixed(id string, at int, change func(string) string) string {
	segments := strings.Split(id, "/")
	if places := []int{1, 3, 5, 6, 7}; len(segments) == 9 {
		i := places[at%len(places)]
		segments[i] = change(segments[i])
	}
	return strings.Join(segments, "/")
}

// FuzzCorrection spoils good IDs: the correction is proposed.
func FuzzCorrection(f *testing.F) {
	f.Add("rg-1", "demo", uint8(0), uint8(0))
	f.Add("größe", "a_-", uint8(9), uint8(3))
	f.Add("providers", "userAssignedIdentities", uint8(12), uint8(1))
	f.Fuzz(func(t *testing.T, group, name string, spoiler, at uint8) {
		id := "/subscriptions/" + sub + "/resourcegroups/" + group + "/providers/Microsoft.ManagedIdentity/userAssignedIdentities/" + name
		if !oracle(id).strict {
			t.Skip()
		}
		bad := spoilers[int(spoiler)%len(spoilers)](id, int(at))
		_, err := Parse(bad)
		var e *Error
		if !errors.As(err, &e) {
			t.Fatalf("Parse(%q) = %v, want an *Error", bad, err)
		}
		if e.Suggestion != id {
			t.Fatalf("Parse(%q): %v\nsuggests %q, want %q", bad, err, e.Suggestion, id)
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
