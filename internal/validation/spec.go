package validation

import (
	"bytes"
	stdjson "encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"

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

// SameButCapitalisation reports whether the specs of two objects of a kind, in
// JSON, differ in nothing but the capitalisation of field names: what the upgrade
// of objects stored by releases before 1.6.0 changes.
func (v *Validator) SameButCapitalisation(kind string, a, b []byte) bool {
	k, ok := v.kinds[kind]
	if !ok {
		return false
	}
	objectA, errA := decode(a)
	objectB, errB := decode(b)
	if errA != nil || errB != nil {
		return false
	}
	k.schema.recapitalise(objectA)
	k.schema.recapitalise(objectB)
	return reflect.DeepEqual(withoutNulls(objectA["spec"]), withoutNulls(objectB["spec"]))
}

// recapitalise gives the fields of a value the names of the schema where only
// the capitalisation differs and the right name is not there as well.
func (n *node) recapitalise(v any) {
	switch v := v.(type) {
	case map[string]any:
		for _, name := range slices.Sorted(maps.Keys(v)) {
			right, ok := n.lower[strings.ToLower(name)]
			if _, taken := v[right]; ok && !taken {
				v[right] = v[name]
				delete(v, name)
			}
		}
		for name, field := range n.fields {
			field.recapitalise(v[name])
		}
	case []any:
		for _, element := range v {
			if n.elem != nil {
				n.elem.recapitalise(element)
			}
		}
	}
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
