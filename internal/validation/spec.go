package validation

import (
	"bytes"
	stdjson "encoding/json"
	"fmt"
	"reflect"

	"sigs.k8s.io/json"
)

// SameSpec reports whether two objects, in JSON, have the same spec. Fields with
// the value null count as absent.
func SameSpec(a, b []byte) (bool, error) {
	specA, err := specOf(a)
	if err != nil {
		return false, err
	}
	specB, err := specOf(b)
	if err != nil {
		return false, err
	}
	if bytes.Equal(specA, specB) {
		return true, nil
	}
	var valueA, valueB any
	if err := unmarshalOptional(specA, &valueA); err != nil {
		return false, err
	}
	if err := unmarshalOptional(specB, &valueB); err != nil {
		return false, err
	}
	return reflect.DeepEqual(withoutNulls(valueA), withoutNulls(valueB)), nil
}

// SameButSpelling reports whether two objects of a kind, in JSON, differ in
// nothing but the spelling of field names: what the upgrade of objects stored by
// releases before 1.6.0 changes.
func (v *Validator) SameButSpelling(kind string, a, b []byte) bool {
	k, ok := v.kinds[kind]
	if !ok {
		return false
	}
	objectA, wA, errA := k.walk(a)
	objectB, wB, errB := k.walk(b)
	if errA != nil || errB != nil || len(wA.mistyped) > 0 || len(wB.mistyped) > 0 {
		return false
	}
	return reflect.DeepEqual(withoutNulls(objectA["spec"]), withoutNulls(objectB["spec"]))
}

func specOf(object []byte) (stdjson.RawMessage, error) {
	var parts struct {
		Spec stdjson.RawMessage `json:"spec"`
	}
	if err := json.UnmarshalCaseSensitivePreserveInts(object, &parts); err != nil {
		return nil, fmt.Errorf("decoding the spec: %w", err)
	}
	return parts.Spec, nil
}

func unmarshalOptional(raw []byte, into *any) error {
	if len(raw) == 0 {
		return nil
	}
	if err := json.UnmarshalCaseSensitivePreserveInts(raw, into); err != nil {
		return fmt.Errorf("decoding the spec: %w", err)
	}
	return nil
}

func encode(object map[string]any) ([]byte, error) {
	raw, err := stdjson.Marshal(object)
	if err != nil {
		return nil, fmt.Errorf("encoding the object: %w", err)
	}
	return raw, nil
}

// withoutNulls removes the fields of objects whose value is null. Elements of
// lists stay.
func withoutNulls(v any) any {
	switch v := v.(type) {
	case map[string]any:
		for key, value := range v {
			if value == nil {
				delete(v, key)
			} else {
				withoutNulls(value)
			}
		}
	case []any:
		for _, value := range v {
			withoutNulls(value)
		}
	}
	return v
}
