package validation

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/aad-pod-identity/aad-pod-identity/internal/resourceid"
)

// IDCase says what becomes of a resource ID whose sole defect is the
// capitalisation of its fixed segments. Azure ignores it.
type IDCase string

const (
	// RejectCase refuses the object: the message holds the right ID.
	RejectCase IDCase = "reject"
	// WarnCase admits the object as it is, with a warning that holds the right ID.
	WarnCase IDCase = "warn"
	// CanonicalizeCase admits the object with the right ID in place of the one
	// that was written.
	CanonicalizeCase IDCase = "canonicalize"
)

// IDCases are all there are.
func IDCases() []IDCase {
	return []IDCase{RejectCase, WarnCase, CanonicalizeCase}
}

// ParseIDCase returns the policy of that name. The error says which there are.
func ParseIDCase(name string) (IDCase, error) {
	if c := IDCase(name); slices.Contains(IDCases(), c) {
		return c, nil
	}
	return "", fmt.Errorf("must be %s, %s or %s", RejectCase, WarnCase, CanonicalizeCase)
}

// Verdict is what the rules say about an object.
type Verdict struct {
	// Findings, if any, refuse the object; nothing else is said then.
	Findings field.ErrorList
	// More is how many findings there are besides Findings, which holds a thousand
	// about names and types at most.
	More int
	// Warnings are about what is legal and surely unwanted.
	Warnings []Warning
	// ResourceID, if not empty, is what spec.resourceID is to become before the
	// object is stored. Only [CanonicalizeCase] sets it.
	ResourceID string
}

// Warning is about what is legal and surely unwanted.
type Warning struct {
	// Rule is the ID of the rule.
	Rule string
	// Field is the JSON path.
	Field string
	// Text says what is unwanted.
	Text string
}

// String is what kubectl prints after "Warning: ".
func (w Warning) String() string {
	if w.Field == "" {
		return w.Text
	}
	return w.Field + ": " + w.Text
}

// applyCase turns the finding about a resource ID that is only miscapitalised
// into what the policy wants.
func (v *Verdict) applyCase(idCase IDCase) {
	if idCase != WarnCase && idCase != CanonicalizeCase {
		return
	}
	i := slices.IndexFunc(v.Findings, func(f *field.Error) bool { return f.Origin == RuleResourceIDMiscapitalised })
	if i < 0 {
		return
	}
	finding := v.Findings[i]
	id, _ := finding.BadValue.(string)
	_, err := resourceid.Parse(id)
	var defects *resourceid.Error
	if !errors.As(err, &defects) || !defects.OnlyMiscapitalised() {
		return
	}
	v.Findings = slices.Delete(v.Findings, i, i+1)
	warning := Warning{Rule: RuleResourceIDMiscapitalised, Field: finding.Field, Text: finding.Detail}
	if idCase == CanonicalizeCase {
		v.ResourceID = defects.Suggestion
		warning.Text = strings.TrimSuffix(defects.Detail(), fmt.Sprintf("use %q", defects.Suggestion)) + fmt.Sprintf("stored as %q", defects.Suggestion)
	}
	v.Warnings = append(v.Warnings, warning)
}

// RulesOf returns the IDs of the rules that a finding is of: one, but for a
// resource ID with several defects.
func RulesOf(finding *field.Error) []string {
	return strings.Split(finding.Origin, ",")
}
