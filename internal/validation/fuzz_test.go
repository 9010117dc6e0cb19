package validation

import (
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	v1 "github.com/aad-pod-identity/aad-pod-identity/api/v1"
)

// FuzzJudge feeds objects to the rules: nothing panics, every finding is in the
// table of rules with its text, the same object gets the same answer, and the
// policies about the capitalisation of resource IDs differ in nothing else.
func FuzzJudge(f *testing.F) {
	for _, m := range readManifests(f) {
		f.Add(uint8(slices.Index(allKinds, m.kind)), m.object)
	}
	for _, c := range rawCases() {
		f.Add(uint8(slices.Index(allKinds, c.kind)), []byte(c.object))
	}
	v, tab := newValidator(f), newTable(f)
	f.Fuzz(func(t *testing.T, kindIndex uint8, object []byte) {
		kind := allKinds[int(kindIndex)%len(allKinds)]
		strict, err := v.Judge(kind, object, AllParts, RejectCase)
		if err != nil {
			if findings, again := v.Raw(kind, object); again == nil || len(findings) > 0 {
				t.Fatalf("an error, then %v, %v", findings, again)
			}
			return
		}
		for _, finding := range strict.Findings {
			tab.finding(t, kind, finding)
		}
		for _, w := range strict.Warnings {
			tab.hasText(t, w.Rule, kind, w.Text, true)
		}
		if strict.ResourceID != "" {
			t.Fatalf("it would store %q", strict.ResourceID)
		}
		again, err := v.Raw(kind, object)
		if diff := cmp.Diff(messages(strict.Findings), messages(again)); err != nil || diff != "" {
			t.Fatalf("the second time: %v\n%s", err, diff)
		}
		for _, idCase := range []IDCase{WarnCase, CanonicalizeCase} {
			checkLenient(t, v, kind, object, strict, idCase)
		}
	})
}

// checkLenient holds what a lenient policy makes of an object.
func checkLenient(t *testing.T, v *Validator, kind string, object []byte, strict Verdict, idCase IDCase) {
	t.Helper()
	lenient, err := v.Judge(kind, object, AllParts, idCase)
	if err != nil {
		t.Fatal(err)
	}
	if len(lenient.Findings) == len(strict.Findings) {
		if lenient.ResourceID != "" || len(lenient.Warnings) != len(strict.Warnings) {
			t.Fatalf("%s: %+v", idCase, lenient)
		}
		return
	}
	if len(lenient.Findings) > 0 {
		if len(lenient.Findings) != len(strict.Findings)-1 || lenient.ResourceID != "" || len(lenient.Warnings) > 0 {
			t.Fatalf("%s: %+v", idCase, lenient)
		}
		return
	}
	warning := lenient.Warnings[len(lenient.Warnings)-1]
	if kind != v1.KindAzureIdentity || len(strict.Findings) != 1 || warning.Rule != RuleResourceIDMiscapitalised {
		t.Fatalf("%s: %v instead of %v", idCase, lenient.Findings, strict.Findings)
	}
	if (idCase == CanonicalizeCase) != (lenient.ResourceID != "") {
		t.Fatalf("%s: stores %q", idCase, lenient.ResourceID)
	}
}
