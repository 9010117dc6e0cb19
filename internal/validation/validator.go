package validation

import (
	"errors"
	"fmt"
	"reflect"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"sigs.k8s.io/json"

	v1 "github.com/aad-pod-identity/aad-pod-identity/api/v1"
)

// Validator holds the compiled rules. It is safe for concurrent use.
type Validator struct {
	rules *structRules
	kinds map[string]kind
}

// kind is how objects of one kind are judged.
type kind struct {
	schema *node
	// status is set where status is a subresource: the status in a request for
	// the object itself is the stored one and not the user's to answer for.
	status bool
	// behavior is set where the annotation Behavior means something.
	behavior bool
	// judge the spec of an object that the walker has put in order.
	judge func(spec map[string]any) (field.ErrorList, []Warning, error)
}

// New compiles the rules.
func New() (*Validator, error) {
	rules, err := newStructRules()
	if err != nil {
		return nil, err
	}
	v := &Validator{rules: rules}
	identity := kindOf[v1.AzureIdentity](v.identitySpec, identityWarnings)
	identity.status, identity.behavior = true, true
	binding := kindOf[v1.AzureIdentityBinding](v.bindingSpec, nil)
	binding.status = true
	v.kinds = map[string]kind{
		v1.KindAzureIdentity:             identity,
		v1.KindAzureIdentityBinding:      binding,
		v1.KindAzureAssignedIdentity:     kindOf[v1.AzureAssignedIdentity](v.assignedSpec, nil),
		v1.KindAzurePodIdentityException: kindOf[v1.AzurePodIdentityException](v.exceptionSpec, nil),
	}
	return v, nil
}

// kindOf makes a kind from the Go type of its objects and the rules of its spec.
func kindOf[Object, Spec any](judge func(*Spec) field.ErrorList, warn func(*Spec) []Warning) kind {
	return kind{
		schema: schemaOf(reflect.TypeFor[Object]()),
		judge: func(spec map[string]any) (field.ErrorList, []Warning, error) {
			var typed Spec
			if err := runtime.DefaultUnstructuredConverter.FromUnstructured(spec, &typed); err != nil {
				return nil, nil, fmt.Errorf("converting the spec: %w", err)
			}
			findings := judge(&typed)
			if warn == nil {
				return findings, nil, nil
			}
			return findings, warn(&typed), nil
		},
	}
}

// Knows reports whether objects of a kind can be judged.
func (v *Validator) Knows(kind string) bool {
	_, ok := v.kinds[kind]
	return ok
}

// Raw returns everything that admission finds wrong with an object, in JSON: names
// of fields, types of values, then the rules of the kind. The rule
// behind a finding is [RulesOf] it. The error is for what is no object of a known
// kind at all.
func (v *Validator) Raw(kind string, raw []byte) (field.ErrorList, error) {
	verdict, err := v.Judge(kind, raw, AllParts, RejectCase)
	return verdict.Findings, err
}

// Judge returns what is wrong with the given parts of an object as it was
// written, in JSON, and what to warn about. The error is for what is no object of
// a known kind at all.
func (v *Validator) Judge(kind string, raw []byte, parts Parts, idCase IDCase) (Verdict, error) {
	k, ok := v.kinds[kind]
	if !ok {
		return Verdict{}, fmt.Errorf("kind %q is not known", kind)
	}
	object, repeated, err := decode(raw)
	if err != nil {
		return Verdict{}, err
	}
	var verdict Verdict
	if parts&PartSpec != 0 {
		verdict = k.spec(object, repeated, parts)
	}
	if parts&PartBehavior != 0 && k.behavior {
		verdict.Findings = append(verdict.Findings, behaviorFindings(annotationsOf(object))...)
	}
	verdict.applyCase(idCase)
	if len(verdict.Findings) > 0 {
		verdict.Warnings, verdict.ResourceID = nil, ""
	}
	return verdict, nil
}

// spec judges all of an object but its annotations, and its metadata only where
// that is one of the parts. It changes the object.
func (k kind) spec(object map[string]any, repeated field.ErrorList, parts Parts) Verdict {
	if k.status {
		delete(object, "status")
	}
	w := &walker{findings: repeated, metadata: parts&PartMetadata != 0}
	w.object(k.schema, object)
	spec, _ := object["spec"].(map[string]any)
	findings, warnings, err := k.judge(spec)
	if err != nil {
		// The walker knows all that can be wrong with a type; should it have
		// missed something, the object is refused nevertheless.
		return Verdict{Findings: append(w.findings, field.Invalid(field.NewPath("spec"), field.OmitValueType{}, "cannot be read").WithOrigin(RuleUnreadable)), More: w.more}
	}
	return Verdict{Findings: append(w.findings, w.without(findings)...), More: w.more, Warnings: warnings}
}

// decode returns an object and the fields that are written more than once, of
// which the last counts, here as in the API server.
func decode(raw []byte) (map[string]any, field.ErrorList, error) {
	if len(raw) == 0 {
		return nil, nil, errors.New("there is no object")
	}
	var value any
	strict, err := json.UnmarshalStrict(raw, &value, json.DisallowDuplicateFields)
	if err != nil {
		return nil, nil, notJSON(err)
	}
	object, ok := value.(map[string]any)
	if !ok {
		return nil, nil, fmt.Errorf("the object must be an object, not %s", jsonKind(value))
	}
	var repeated field.ErrorList
	for _, err := range strict {
		var f json.FieldError
		if errors.As(err, &f) {
			repeated = append(repeated, field.Forbidden(field.NewPath(f.FieldPath()), "written more than once: keep one").WithOrigin(RuleFieldRepeated))
		}
	}
	return object, repeated, nil
}

// notJSON says in our words why raw bytes could not be decoded.
func notJSON(err error) error {
	if syntax, offset := json.SyntaxErrorOffset(err); syntax {
		return fmt.Errorf("the object is not valid JSON at byte %d", offset)
	}
	// Any JSON can be decoded into an empty interface, unless a number is too large
	// for a float.
	return errors.New("the object holds a number that is too large")
}
