package validation

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	v1 "github.com/aad-pod-identity/aad-pod-identity/api/v1"
	"github.com/aad-pod-identity/aad-pod-identity/internal/resourceid"
)

var update = flag.Bool("update", false, "write docs/validation-rules.md anew")

const rulesFile = "../../docs/validation-rules.md"

// Rules of which no manifest can be applied to a cluster without something else:
// kubectl refuses a field that is there twice, and two warnings depend on other
// objects.
var withoutManifest = []string{RuleFieldRepeated, RuleBindingIdentityAbsent, RuleBindingTwice}

// table is the rules by ID, with what was seen of them.
type table struct {
	rules map[string]Rule
	// forms are the expressions of texts.
	forms map[string]*regexp.Regexp
	// seen texts, by rule and text.
	seen map[string]bool
}

func newTable(t testing.TB) *table {
	t.Helper()
	tab := &table{rules: make(map[string]Rule), forms: make(map[string]*regexp.Regexp), seen: make(map[string]bool)}
	for _, r := range Rules() {
		if _, twice := tab.rules[r.ID]; twice {
			t.Errorf("rule %s is listed twice", r.ID)
		}
		if r.ID == "" || len(r.Kinds) == 0 || r.Field == "" || len(r.Texts) == 0 || r.Example == "" || r.Message == "" {
			t.Errorf("rule %q lacks something: %+v", r.ID, r)
		}
		tab.rules[r.ID] = r
		for _, text := range r.Texts {
			tab.forms[text] = form(text)
		}
	}
	return tab
}

var placeholder = regexp.MustCompile(`\\\{[^}]*\\\}`)

// form is the expression that texts of a rule match.
func form(text string) *regexp.Regexp {
	return regexp.MustCompile(`(?s)^` + placeholder.ReplaceAllString(regexp.QuoteMeta(text), `.+`) + `$`)
}

// hasText asserts that a message is one that the rule has.
func (tab *table) hasText(t *testing.T, id, kind, message string, warning bool) {
	t.Helper()
	r, ok := tab.rules[id]
	if !ok {
		t.Errorf("%q is of rule %q, which the table does not have", message, id)
		return
	}
	if !slices.Contains(r.Kinds, kind) || r.Warning != warning {
		t.Errorf("%q about a %s, warning %v, is of rule %+v", message, kind, warning, r)
	}
	matched := false
	for _, text := range r.Texts {
		if tab.forms[text].MatchString(message) {
			tab.seen[id+": "+text], matched = true, true
		}
	}
	if !matched {
		t.Errorf("rule %s has no text for %q", id, message)
	}
}

// finding asserts that a finding is in the table with all that it says.
func (tab *table) finding(t *testing.T, kind string, f *field.Error) {
	t.Helper()
	rules := RulesOf(f)
	if !strings.HasPrefix(rules[0], resourceIDPrefix) || f.Type == field.ErrorTypeRequired {
		tab.hasText(t, rules[0], kind, f.Detail, false)
		return
	}
	id, _ := f.BadValue.(string)
	_, err := resourceid.Parse(id)
	var defects *resourceid.Error
	if !errors.As(err, &defects) {
		t.Errorf("%v has the rules of a resource ID that is good", f)
		return
	}
	var parts, broken []string
	for _, d := range defects.Defects {
		rule := resourceIDRule(d.Problem)
		tab.hasText(t, rule, kind, d.Message, false)
		parts = append(parts, d.Message)
		if !slices.Contains(broken, rule) {
			broken = append(broken, rule)
		}
	}
	if defects.Suggestion != "" {
		parts = append(parts, fmt.Sprintf("use %q", defects.Suggestion))
	}
	if diff := cmp.Diff(strings.Join(parts, "; "), f.Detail); diff != "" {
		t.Errorf("the message is not made of the texts of the rules (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(broken, rules); diff != "" {
		t.Errorf("rules of %v (-want +got):\n%s", f, diff)
	}
}

// TestTableAndCodeAgree holds the table of rules against what the code says:
// every message is one of its rule's, every text of a rule is said, and every
// rule has a manifest that breaks it, with the example and message of the table.
func TestTableAndCodeAgree(t *testing.T) {
	v, tab := newValidator(t), newTable(t)
	shown := make(map[string]bool)
	exemplary := make(map[string]bool)
	for _, m := range readManifests(t) {
		verdict, err := v.Judge(m.kind, m.object, AllParts, RejectCase)
		if err != nil {
			t.Fatal(err)
		}
		say := func(id, message string) {
			shown[id] = true
			if r := tab.rules[id]; message == r.Message && contains(m.text, r.Example) {
				exemplary[id] = true
			}
		}
		for _, f := range verdict.Findings {
			tab.finding(t, m.kind, f)
			for _, id := range RulesOf(f) {
				say(id, f.Error())
			}
		}
		for _, w := range verdict.Warnings {
			tab.hasText(t, w.Rule, m.kind, w.Text, true)
			say(w.Rule, w.String())
		}
	}
	for name, c := range rawCases() {
		findings, err := v.Raw(c.kind, []byte(c.object))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		for _, f := range findings {
			tab.finding(t, c.kind, f)
		}
	}
	binding := &v1.AzureIdentityBinding{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "twin"}, Spec: v1.AzureIdentityBindingSpec{AzureIdentity: "demo", Selector: "web"}}
	for _, w := range []Warning{IdentityAbsent("default", "demo"), BindingTwice(binding)} {
		tab.hasText(t, w.Rule, v1.KindAzureIdentityBinding, w.Text, true)
		if want := tab.rules[w.Rule].Message; w.String() != want {
			t.Errorf("rule %s says %q, its example %q", w.Rule, w, want)
		}
	}
	for _, r := range Rules() {
		exempt := slices.Contains(withoutManifest, r.ID)
		switch {
		case !exempt && !shown[r.ID]:
			t.Errorf("rule %s has no manifest in %s", r.ID, manifestDir)
		case !exempt && !exemplary[r.ID]:
			t.Errorf("no manifest in %s has the example of rule %s with its message:\n%s\n%s", manifestDir, r.ID, r.Example, r.Message)
		case exempt && shown[r.ID]:
			t.Errorf("rule %s has a manifest after all", r.ID)
		}
		for _, text := range r.Texts {
			if !tab.seen[r.ID+": "+text] {
				t.Errorf("rule %s never says %q", r.ID, text)
			}
		}
	}
}

// contains reports whether all lines of an example are in a manifest.
func contains(text, example string) bool {
	lines := strings.Split(text, "\n")
	for wanted := range strings.Lines(example) {
		if !slices.ContainsFunc(lines, func(line string) bool { return strings.TrimSpace(line) == strings.TrimSpace(wanted) }) {
			return false
		}
	}
	return true
}

// TestDocs holds that docs/validation-rules.md has the rules as they are.
func TestDocs(t *testing.T) {
	want := document()
	if *update {
		if err := os.WriteFile(rulesFile, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	got, err := os.ReadFile(rulesFile)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(strings.Split(want, "\n"), strings.Split(string(got), "\n")); diff != "" {
		t.Errorf("%s is not what the rules say; go test ./internal/validation -update writes it anew\n%s", rulesFile, diff)
	}
}
