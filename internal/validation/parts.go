package validation

import (
	"bytes"
	stdjson "encoding/json"
	"errors"
	"maps"
	"reflect"
	"slices"
	"strings"

	"sigs.k8s.io/json"
)

// Parts of an object that are judged each by itself: what an update does not
// touch may be older than the rules, and is not judged again.
type Parts uint8

const (
	// PartSpec is the spec, together with the names of all fields of the object.
	PartSpec Parts = 1 << iota
	// PartBehavior is the annotation Behavior of an AzureIdentity, and what looks
	// like it.
	PartBehavior
	// PartMetadata is the names and types in what the API server reads as metadata.
	// It refuses or drops what it does not know before a webhook sees the object;
	// what is left may be known to an API server newer than these rules.
	PartMetadata
	// AllParts of an object that admission judges, as it is created.
	AllParts = PartSpec | PartBehavior
	// WrittenParts are those of an object that no API server has read yet.
	WrittenParts = AllParts | PartMetadata
)

// Changed returns the parts in which two objects, in JSON, differ. Fields of the
// spec with the value null count as absent.
func Changed(before, after []byte) (Parts, error) {
	a, err := apart(before)
	if err != nil {
		return 0, err
	}
	b, err := apart(after)
	if err != nil {
		return 0, err
	}
	var changed Parts
	if !sameValue(a.Spec, b.Spec) {
		changed |= PartSpec
	}
	if !bytes.Equal(a.Metadata.Annotations, b.Metadata.Annotations) && !maps.Equal(behaviorOf(a.Metadata.Annotations), behaviorOf(b.Metadata.Annotations)) {
		changed |= PartBehavior
	}
	return changed, nil
}

// Untouched is a cheap Changed for large objects: it reports whether an update
// leaves alone all that is judged, and says no where it would have to decode more
// than limit bytes to know.
func Untouched(before, after []byte, limit int) (bool, error) {
	a, err := apart(before)
	if err != nil {
		return false, err
	}
	b, err := apart(after)
	if err != nil {
		return false, err
	}
	was, is := a.Metadata.Annotations, b.Metadata.Annotations
	switch {
	case !bytes.Equal(a.Spec, b.Spec):
		return false, nil
	case bytes.Equal(was, is):
		return true, nil
	}
	return len(was)+len(is) <= limit && maps.Equal(behaviorOf(was), behaviorOf(is)), nil
}

// partsOf an object, undecoded.
type partsOf struct {
	Spec     stdjson.RawMessage `json:"spec"`
	Metadata struct {
		Annotations stdjson.RawMessage `json:"annotations"`
	} `json:"metadata"`
}

func apart(object []byte) (partsOf, error) {
	var parts partsOf
	if len(object) == 0 {
		return parts, errors.New("there is no object")
	}
	err := json.UnmarshalCaseSensitivePreserveInts(object, &parts)
	var mistyped *stdjson.UnmarshalTypeError
	switch {
	case err == nil:
		return parts, nil
	case errors.As(err, &mistyped):
		return parts, errors.New("the object or its metadata is no JSON object")
	default:
		return parts, notJSON(err)
	}
}

func sameValue(a, b stdjson.RawMessage) bool {
	return bytes.Equal(a, b) || reflect.DeepEqual(withoutNulls(valueOf(a)), withoutNulls(valueOf(b)))
}

// valueOf decodes a part; what is absent is null. The part was found in valid
// JSON, so that only a number too large for anything can fail to be decoded: its
// bytes stand for it then.
func valueOf(raw stdjson.RawMessage) any {
	if len(raw) == 0 {
		return nil
	}
	var value any
	if err := json.UnmarshalCaseSensitivePreserveInts(raw, &value); err != nil {
		return string(raw)
	}
	return value
}

// behaviorOf returns the annotations that are meant as Behavior.
func behaviorOf(raw stdjson.RawMessage) map[string]any {
	annotations, _ := valueOf(raw).(map[string]any)
	maps.DeleteFunc(annotations, func(key string, value any) bool {
		_, isText := value.(string)
		return !isText || !meansBehavior(key)
	})
	return annotations
}

// SameButCapitalisation reports whether the specs of two objects of a kind, in
// JSON, differ in nothing but the capitalisation of field names: what the upgrade
// of objects stored by releases before 1.6.0 changes.
func (v *Validator) SameButCapitalisation(kind string, a, b []byte) bool {
	k, ok := v.kinds[kind]
	if !ok {
		return false
	}
	objectA, _, errA := decode(a)
	objectB, _, errB := decode(b)
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
