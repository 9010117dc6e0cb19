package validation

import (
	"errors"
	"fmt"
	"reflect"

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
	// decode and judge an object that the walker has put in order.
	judge func(object []byte) (field.ErrorList, error)
}

// New compiles the rules.
func New() (*Validator, error) {
	rules, err := newStructRules()
	if err != nil {
		return nil, err
	}
	v := &Validator{rules: rules}
	v.kinds = map[string]kind{
		v1.KindAzureIdentity:             kindOf(true, v.Identity),
		v1.KindAzureIdentityBinding:      kindOf(true, v.Binding),
		v1.KindAzureAssignedIdentity:     kindOf(false, v.AssignedIdentity),
		v1.KindAzurePodIdentityException: kindOf(false, v.Exception),
	}
	return v, nil
}

func kindOf[T any](status bool, judge func(*T) field.ErrorList) kind {
	return kind{
		schema: schemaOf(reflect.TypeFor[T]()),
		status: status,
		judge: func(object []byte) (field.ErrorList, error) {
			var typed T
			// Not encoding/json: it would take "ResourceID" for "resourceID".
			if err := json.UnmarshalCaseSensitivePreserveInts(object, &typed); err != nil {
				return nil, err
			}
			return judge(&typed), nil
		},
	}
}

// Knows reports whether objects of a kind can be judged.
func (v *Validator) Knows(kind string) bool {
	_, ok := v.kinds[kind]
	return ok
}

// Raw returns everything that is wrong with an object as it was written, in
// JSON: names of fields, types of values, then the rules of the kind. The error
// is for what is no object of a known kind at all.
func (v *Validator) Raw(kind string, raw []byte) (field.ErrorList, error) {
	k, ok := v.kinds[kind]
	if !ok {
		return nil, fmt.Errorf("kind %q is not known", kind)
	}
	object, err := decode(raw)
	if err != nil {
		return nil, err
	}
	_, hasStatus := object["status"]
	if k.status {
		delete(object, "status")
	}
	w := &walker{}
	w.object(k.schema, object, func() *field.Path { return nil })
	if len(w.findings) > 0 || k.status && hasStatus {
		// Something was renamed or removed.
		if raw, err = encode(object); err != nil {
			return nil, err
		}
	}
	findings, err := k.judge(raw)
	if err != nil {
		// The walker knows all that can be wrong with a type; should it have
		// missed something, the object is refused nevertheless.
		return append(w.findings, field.Invalid(field.NewPath("spec"), field.OmitValueType{}, err.Error())), nil
	}
	return append(w.findings, w.without(findings)...), nil
}

func decode(raw []byte) (map[string]any, error) {
	var object map[string]any
	if err := json.UnmarshalCaseSensitivePreserveInts(raw, &object); err != nil {
		return nil, fmt.Errorf("decoding the object: %w", err)
	}
	if object == nil {
		return nil, errors.New("decoding the object: it is null")
	}
	return object, nil
}
