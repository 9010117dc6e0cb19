package resourceid

import (
	"errors"
	"strings"
	"testing"
)

const (
	sub  = "0f3c5e2a-91b7-4d1e-8c57-2b1f6a9d4e30"
	good = "/subscriptions/" + sub + "/resourcegroups/rg-1/providers/Microsoft.ManagedIdentity/userAssignedIdentities/demo"
)

func TestParse(t *testing.T) {
	tests := map[string]struct {
		id   string
		want Identity
	}{
		"the canonical form":                           {good, Identity{sub, "rg-1", "demo"}},
		"resourceGroups as the portal prints it":       {strings.Replace(good, "resourcegroups", "resourceGroups", 1), Identity{sub, "rg-1", "demo"}},
		"values keep their capitalisation":             {strings.NewReplacer("rg-1", "RG-1", "demo", "Demo", sub, strings.ToUpper(sub)).Replace(good), Identity{strings.ToUpper(sub), "RG-1", "Demo"}},
		"a resource group with all allowed characters": {strings.Replace(good, "rg-1", "a_(b)-c.D9", 1), Identity{sub, "a_(b)-c.D9", "demo"}},
		"a resource group in another script":           {strings.Replace(good, "rg-1", "größe-数", 1), Identity{sub, "größe-数", "demo"}},
		"a resource group of 90 characters":            {strings.Replace(good, "rg-1", strings.Repeat("ü", 90), 1), Identity{sub, strings.Repeat("ü", 90), "demo"}},
		"an identity name of 128 characters":           {strings.Replace(good, "demo", strings.Repeat("n", 128), 1), Identity{sub, "rg-1", strings.Repeat("n", 128)}},
		"an identity name of 3 characters":             {strings.Replace(good, "demo", "a_-", 1), Identity{sub, "rg-1", "a_-"}},
		"a resource group named like a fixed segment":  {strings.Replace(good, "rg-1", "providers", 1), Identity{sub, "providers", "demo"}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			got, err := Parse(tt.id)
			if err != nil || got != tt.want {
				t.Fatalf("Parse(%q) = %+v, %v; want %+v", tt.id, got, err, tt.want)
			}
			if !Equal(got.String(), tt.id) {
				t.Errorf("canonical form %q is another resource than %q", got, tt.id)
			}
			if got.Key() != Key(tt.id) {
				t.Errorf("Key() = %q, want %q", got.Key(), Key(tt.id))
			}
		})
	}
}

func TestParseAllocatesNothingForAGoodID(t *testing.T) {
	if n := testing.AllocsPerRun(100, func() {
		if _, err := Parse(good); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestParseAnyCaseTakesWhatTheOldRuleTook(t *testing.T) {
	for _, id := range []string{good, strings.ToLower(good), strings.ToUpper(good)} {
		got, err := ParseAnyCase(id)
		if err != nil {
			t.Errorf("ParseAnyCase(%q): %v", id, err)
		}
		if !Equal(got.String(), good) {
			t.Errorf("ParseAnyCase(%q) = %q", id, got)
		}
	}
	for _, id := range []string{"", "x" + good, good + "/", strings.Replace(good, "providers", "provider", 1)} {
		if _, err := ParseAnyCase(id); err == nil {
			t.Errorf("ParseAnyCase(%q) accepts it", id)
		}
	}
}

// The whole message of every class of defect, as it follows the ID in
// kubectl's output.
func TestDefects(t *testing.T) {
	replace := func(from, to string) string {
		if !strings.Contains(good, from) {
			t.Fatalf("%q is not in the ID", from)
		}
		return strings.Replace(good, from, to, 1)
	}
	tests := map[string]struct {
		id         string
		detail     string // without the suggestion
		suggestion string
	}{
		"empty":                   {"", `is empty`, ""},
		"only white space":        {" \n", `white space around the ID; is empty`, ""},
		"only slashes":            {"//", `slash at the end; "/subscriptions/<subid>/resourcegroups/<resourcegroup>/providers/Microsoft.ManagedIdentity/userAssignedIdentities/<name>" is missing`, ""},
		"miscapitalised group":    {replace("resourcegroups", "RESOURCEGROUPS"), `segment "RESOURCEGROUPS" is miscapitalised, use "resourcegroups" or "resourceGroups"`, good},
		"miscapitalised provider": {replace("Microsoft.ManagedIdentity", "Microsoft.managedidentity"), `segment "Microsoft.managedidentity" is miscapitalised, use "Microsoft.ManagedIdentity"`, good},
		"miscapitalised type":     {replace("userAssignedIdentities", "userassignedidentities"), `segment "userassignedidentities" is miscapitalised, use "userAssignedIdentities"`, good},
		"everything in capitals": {strings.ToUpper(good), `segment "SUBSCRIPTIONS" is miscapitalised, use "subscriptions"; segment "RESOURCEGROUPS" is miscapitalised, use "resourcegroups" or "resourceGroups"; segment "PROVIDERS" is miscapitalised, use "providers"; ` +
			`segment "MICROSOFT.MANAGEDIDENTITY" is miscapitalised, use "Microsoft.ManagedIdentity"; segment "USERASSIGNEDIDENTITIES" is miscapitalised, use "userAssignedIdentities"`,
			"/subscriptions/" + strings.ToUpper(sub) + "/resourcegroups/RG-1/providers/Microsoft.ManagedIdentity/userAssignedIdentities/DEMO"},
		"resourcgroups (#1088)":                    {replace("resourcegroups", "resourcgroups"), `segment "resourcgroups" is misspelt, use "resourcegroups"`, good},
		"a swap of letters and a capital":          {replace("subscriptions", "Subscritpions"), `segment "Subscritpions" is misspelt, use "subscriptions"`, good},
		"the singular of the type":                 {replace("userAssignedIdentities", "userAssignedIdentity"), `segment "userAssignedIdentity" is misspelt, use "userAssignedIdentities"`, good},
		"no leading slash":                         {good[1:], `no slash at the beginning`, good},
		"trailing slash":                           {good + "/", `slash at the end`, good},
		"two trailing slashes":                     {good + "//", `slash at the end`, good},
		"two slashes in a row":                     {replace("/providers", "//providers"), `two slashes in a row`, good},
		"two slashes at the beginning":             {"/" + good, `two slashes in a row`, good},
		"missing slash after a fixed segment":      {replace("subscriptions/", "subscriptions"), `no slash between "subscriptions" and "` + sub + `"`, good},
		"missing slash before a fixed segment":     {replace("/resourcegroups", "resourcegroups"), `no slash between "` + sub + `" and "resourcegroups"`, good},
		"missing slash after the provider":         {replace("Identity/user", "Identityuser"), `no slash between "Microsoft.ManagedIdentity" and "userAssignedIdentities"`, good},
		"missing slash and leading slash (#556)":   {replace("/subscriptions/", "subscriptions"), `no slash at the beginning; no slash between "subscriptions" and "` + sub + `"`, good},
		"missing slash before providers":           {replace("rg-1/providers", "rg-1providers"), `no slash between "rg-1" and "providers"`, good},
		"white space around":                       {"  " + good + "\n", `white space around the ID`, good},
		"white space in a segment":                 {replace("/rg-1/", "/ rg-1/"), `white space in segment " rg-1"`, good},
		"a zero-width space":                       {good + "\u200b", `white space around the ID`, good},
		"white space within a name":                {replace("demo", "de mo"), `identity name "de mo" contains ' '; letters, digits, - and _ are allowed`, ""},
		"quotes":                                   {`"` + good + `"`, `quotes are part of the ID`, good},
		"quotes and white space":                   {` '` + good + ` '`, `white space around the ID; quotes are part of the ID`, good},
		"percent-encoded":                          {strings.ReplaceAll(good, "/", "%2F"), `percent-encoded`, good},
		"a percent sign":                           {replace("demo", "demo%"), `percent-encoded, and not decodable; identity name "demo%" contains '%'; letters, digits, - and _ are allowed`, ""},
		"backslashes":                              {strings.ReplaceAll(good, "/", `\`), `backslash in place of a slash`, good},
		"a URL":                                    {"https://management.azure.com" + good + "?api-version=2023-01-31", `"https://management.azure.com" before /subscriptions; "?api-version=2023-01-31" is no part of an ID`, good},
		"junk before":                              {"id=" + good, `"id=" before /subscriptions`, good},
		"no resource group (#230)":                 {replace("/resourcegroups/rg-1", ""), `"/resourcegroups/<resourcegroup>" is missing`, ""},
		"no resource group segment":                {replace("/resourcegroups", ""), `segment "resourcegroups" is missing`, good},
		"two slashes missing":                      {strings.NewReplacer(sub+"/", sub, "/providers", "providers").Replace(good), `no slash between "` + sub + `" and "resourcegroups"; no slash between "rg-1" and "providers"`, good},
		"slashes missing around a value":           {strings.NewReplacer("/rg-1/", "rg-1").Replace(good), `no slash between "resourcegroups" and "rg-1providers"; no slash between "rg-1" and "providers"`, good},
		"two fixed segments missing":               {strings.NewReplacer("/subscriptions", "", "/providers", "").Replace(good), `segment "subscriptions" is missing; segment "providers" is missing`, good},
		"a slash and a fixed segment missing":      {strings.NewReplacer("/resourcegroups", "", "providers/", "providers").Replace(good), `segment "resourcegroups" is missing; no slash between "providers" and "Microsoft.ManagedIdentity"`, good},
		"a slash too many and one missing":         {strings.Replace(good, "/providers", "providers", 1) + "/", `slash at the end; no slash between "rg-1" and "providers"`, good},
		"a slash too many and no name":             {"/" + strings.TrimSuffix(good, "/demo"), `two slashes in a row; "/<name>" is missing`, ""},
		"copied from JSON":                         {`"id": "` + good + `",`, `quotes are part of the ID; "id\": \"" before /subscriptions; "\"," after the ID`, good},
		"the end of a sentence":                    {good + ".", `"." after the ID`, good},
		"percent-encoded twice":                    {strings.ReplaceAll(good, "/", "%252F"), `percent-encoded`, good},
		"a zero-width space within a name":         {replace("demo", "de\u200bmo"), `white space in segment "de\u200bmo"`, good},
		"a line break within a fixed segment":      {replace("userAssigned", "userAssigned\n  "), `white space in segment "userAssigned\n  Identities"`, good},
		"no name of the resource group":            {replace("/rg-1", ""), `"/<resourcegroup>" is missing`, ""},
		"empty subscription, as of a template":     {replace(sub, ""), `subscription is empty, must be a GUID`, ""},
		"empty name":                               {strings.TrimSuffix(good, "demo"), `identity name is empty`, ""},
		"no name":                                  {strings.TrimSuffix(good, "/demo"), `"/<name>" is missing`, ""},
		"the resource group alone":                 {"/subscriptions/" + sub + "/resourceGroups/rg-1", `"/providers/Microsoft.ManagedIdentity/userAssignedIdentities/<name>" is missing`, ""},
		"the name alone":                           {"demo", `no slash at the beginning; "/subscriptions" is missing; "/resourcegroups/<resourcegroup>/providers/Microsoft.ManagedIdentity/userAssignedIdentities/<name>" is missing`, ""},
		"a virtual machine":                        {"/subscriptions/" + sub + "/resourceGroups/rg-1/providers/Microsoft.Compute/virtualMachines/demo", `resource type "Microsoft.Compute/virtualMachines" must be "Microsoft.ManagedIdentity/userAssignedIdentities"`, ""},
		"an instance of a scale set":               {"/subscriptions/" + sub + "/resourceGroups/rg-1/providers/Microsoft.Compute/virtualMachineScaleSets/demo/virtualMachines/0", `resource type "Microsoft.Compute/virtualMachineScaleSets" must be "Microsoft.ManagedIdentity/userAssignedIdentities"`, ""},
		"a system-assigned identity":               {replace("userAssignedIdentities", "systemAssignedIdentities"), `resource type "Microsoft.ManagedIdentity/systemAssignedIdentities" must be "Microsoft.ManagedIdentity/userAssignedIdentities"`, ""},
		"another provider":                         {replace("Microsoft.ManagedIdentity", "Microsoft.Identity"), `resource type "Microsoft.Identity/userAssignedIdentities" must be "Microsoft.ManagedIdentity/userAssignedIdentities"`, ""},
		"a child resource":                         {good + "/federatedIdentityCredentials/x", `"/federatedIdentityCredentials/x" is too much`, good},
		"the address of the portal":                {"https://portal.azure.com/#@contoso.com/resource" + good + "/overview", `"https://portal.azure.com/#@contoso.com/resource" before /subscriptions; "/overview" is too much`, good},
		"two IDs":                                  {good + " " + good, `white space in segment "demo "; "/subscriptions/` + sub + `/resourcegroups/rg-1/providers/Microsoft.ManagedIdentity/userAssignedIdentities/demo" is too much`, ""},
		"a segment too many in the middle":         {replace("rg-1", "rg/1"), `"/1" is too much`, ""},
		"a wrong fixed segment":                    {replace("resourcegroups", "groups"), `segment "groups" must be "resourcegroups"`, ""},
		"subscription by name":                     {replace(sub, "production"), `subscription "production" is not a GUID`, ""},
		"subscription with a letter beyond f":      {replace("0f3c", "0g3c"), `subscription "` + strings.Replace(sub, "0f3c", "0g3c", 1) + `" is not a GUID`, ""},
		"subscription in braces":                   {replace(sub, "{"+sub+"}"), `subscription "{` + sub + `}" is not a GUID`, good},
		"subscription without hyphens":             {replace(sub, strings.ReplaceAll(sub, "-", "")), `subscription "` + strings.ReplaceAll(sub, "-", "") + `" is not a GUID`, good},
		"resource group with a bad character":      {replace("rg-1", "rg:1"), `resource group "rg:1" contains ':'; letters, digits and _ ( ) - . are allowed`, ""},
		"resource group that ends in a period":     {replace("rg-1", "rg."), `resource group "rg." ends in a period`, ""},
		"resource group too long":                  {replace("rg-1", strings.Repeat("r", 91)), `resource group "` + strings.Repeat("r", 91) + `" has 91 characters, at most 90 are allowed`, ""},
		"name too short":                           {replace("demo", "de"), `identity name "de" has 2 characters, must have 3 to 128`, ""},
		"name too long":                            {replace("demo", strings.Repeat("n", 129)), `identity name "` + strings.Repeat("n", 129) + `" has 129 characters, must have 3 to 128`, ""},
		"name that begins with a hyphen":           {replace("demo", "-demo"), `identity name "-demo" must begin with a letter or digit`, ""},
		"name with a dot":                          {replace("demo", "de.mo"), `identity name "de.mo" contains '.'; letters, digits, - and _ are allowed`, ""},
		"Kelvin sign in place of a K":              {replace("demo", "\u212aey"), "identity name \"\u212aey\" contains '\u212a'; letters, digits, - and _ are allowed", ""},
		"too long":                                 {good + strings.Repeat("x", 1024), `has 1159 bytes, at most 1024 are allowed`, ""},
		"several mistakes of which one has no fix": {replace("resourcegroups/rg-1", "ResourceGroups/rg 1"), `segment "ResourceGroups" is miscapitalised, use "resourcegroups" or "resourceGroups"; resource group "rg 1" contains ' '; letters, digits and _ ( ) - . are allowed`, ""},
		"several mistakes that all have one":       {" " + replace("resourcegroups", "ResourceGroups") + "/", `white space around the ID; slash at the end; segment "ResourceGroups" is miscapitalised, use "resourcegroups" or "resourceGroups"`, good},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			_, err := Parse(tt.id)
			var e *Error
			if !errors.As(err, &e) {
				t.Fatalf("Parse(%q) = %v, want an *Error", tt.id, err)
			}
			want := tt.detail
			if tt.suggestion != "" {
				want += `; use "` + tt.suggestion + `"`
			}
			if got := e.Detail(); got != want {
				t.Errorf("Parse(%q)\n got %s\nwant %s", tt.id, got, want)
			}
			if e.Suggestion != tt.suggestion {
				t.Errorf("suggestion %q, want %q", e.Suggestion, tt.suggestion)
			}
		})
	}
}

func TestOnlyMiscapitalised(t *testing.T) {
	for id, want := range map[string]bool{
		strings.ToLower(good): true,
		strings.ToUpper(good): true,
		strings.Replace(good, "resourcegroups/rg-1", "RESOURCEGROUPS/RG-1", 1):                     true,
		strings.Replace(good, "resourcegroups", "RESOURCEGROUPS", 1) + "/":                         false,
		strings.Replace(good, "resourcegroups", "resourcgroups", 1):                                false,
		strings.NewReplacer("resourcegroups", "RESOURCEGROUPS", "demo", "d").Replace(good):         false,
		strings.NewReplacer("resourcegroups", "resourceGroups", "providers", "P").Replace(good):    false,
		strings.NewReplacer("providers", "Providers", "Microsoft", "microsoft").Replace(good) + "": true,
	} {
		_, err := Parse(id)
		var e *Error
		if !errors.As(err, &e) {
			t.Fatalf("Parse(%q) = %v, want an *Error", id, err)
		}
		if got := e.OnlyMiscapitalised(); got != want {
			t.Errorf("%q: %v, want %v: %v", id, got, want, e)
		}
		if want && !Equal(e.Suggestion, id) {
			t.Errorf("%q is another resource than %q", e.Suggestion, id)
		}
	}
}

func TestErrorKeepsTheClassicText(t *testing.T) {
	_, err := Parse("")
	if got, want := err.Error(), `Invalid resource id: "", must match /subscriptions/<subid>/resourcegroups/<resourcegroup>/providers/Microsoft.ManagedIdentity/userAssignedIdentities/<name>`; got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	_, err = Parse("/x")
	if got, want := err.Error(), `Invalid resource id: "/x", must match `+Pattern+`: `; !strings.HasPrefix(got, want) {
		t.Errorf("got  %s\nwant %s…", got, want)
	}
}

func TestErrorOfAHugeIDIsShort(t *testing.T) {
	_, err := Parse("/subscriptions/" + strings.Repeat("ü/", 1<<20))
	if n := len(err.Error()); n > 1000 {
		t.Errorf("the message has %d bytes", n)
	}
}

func TestEqual(t *testing.T) {
	tests := map[string]struct {
		a, b string
		want bool
	}{
		"the same":                      {good, good, true},
		"another capitalisation (#269)": {good, strings.ToUpper(good), true},
		"the portal's spelling":         {good, strings.Replace(good, "resourcegroups", "resourceGroups", 1), true},
		"letters of other scripts":      {"/rg/GRÖSSE", "/rg/grösse", true},
		"another name":                  {good, good + "2", false},
		"the Kelvin sign is no k":       {"/rg/\u212a", "/rg/k", false},
		"a dotted capital I is no i":    {"/rg/\u0130", "/rg/i", false},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			if got := Equal(tt.a, tt.b); got != tt.want {
				t.Errorf("Equal(%q, %q) = %v", tt.a, tt.b, got)
			}
			if got := Key(tt.a) == Key(tt.b); got != tt.want {
				t.Errorf("keys %q and %q", Key(tt.a), Key(tt.b))
			}
		})
	}
}
