package validation

import (
	"encoding/json"
	"reflect"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// shape is what JSON a Go type is written as.
type shape int

const (
	shapeAny shape = iota // encoded by its own method: not looked into
	shapeObject
	shapeMap
	shapeList
	shapeString
	shapeTime
	shapeInteger
	shapeBoolean
)

// node is the JSON schema of a Go type, as far as names and types go. It is
// derived from the type, so that there is no second list of field names.
type node struct {
	shape shape
	// fields of an object by JSON name, and the names by their lower case.
	fields map[string]*node
	names  []string
	lower  map[string]string
	// elem of a list or map.
	elem *node
	// bits of an integer.
	bits int
	// nullable values may be null, which is the same as leaving them out; the
	// API server's schema says the same.
	nullable bool
	// metadata is set for the metadata of an object, also of one that stands in
	// another: the API server reads it by itself.
	metadata bool
}

// schemaOf derives the schema of a Go type.
func schemaOf(t reflect.Type) *node {
	return derive(t, map[reflect.Type]*node{})
}

func derive(t reflect.Type, seen map[reflect.Type]*node) *node {
	if t.Kind() == reflect.Pointer {
		return derive(t.Elem(), seen).orNull()
	}
	if n, ok := seen[t]; ok {
		return n
	}
	n := &node{}
	seen[t] = n
	switch {
	case t == reflect.TypeFor[metav1.Time](), t == reflect.TypeFor[metav1.MicroTime]():
		n.shape, n.nullable = shapeTime, true
		return n
	case reflect.PointerTo(t).Implements(reflect.TypeFor[json.Unmarshaler]()):
		return n
	}
	switch t.Kind() {
	case reflect.Struct:
		n.shape = shapeObject
		n.fields = make(map[string]*node)
		addFields(n, t, seen)
		n.lower = make(map[string]string, len(n.fields))
		for name := range n.fields {
			n.names = append(n.names, name)
			n.lower[strings.ToLower(name)] = name
		}
		slices.Sort(n.names)
		if t == reflect.TypeFor[metav1.ObjectMeta]() {
			// The API server reads metadata itself, and takes null for absent; the copies
			// in our specs have no schema.
			for name, field := range n.fields {
				n.fields[name] = field.orNull()
			}
		}
	case reflect.Map:
		n.shape, n.elem = shapeMap, derive(t.Elem(), seen)
	case reflect.Slice:
		n.shape, n.elem, n.nullable = shapeList, derive(t.Elem(), seen), true
	case reflect.String:
		n.shape = shapeString
	case reflect.Bool:
		n.shape = shapeBoolean
	case reflect.Int, reflect.Int32, reflect.Int64:
		n.shape, n.bits = shapeInteger, t.Bits()
	}
	return n
}

// orNull is the node of a value that may be null. The Go types of our objects do
// not contain themselves, so that n is complete.
func (n *node) orNull() *node {
	c := *n
	c.nullable = true
	return &c
}

// addFields adds the fields of a struct and of those embedded in it without a
// name of their own.
func addFields(n *node, t reflect.Type, seen map[reflect.Type]*node) {
	for f := range fieldsOf(t) {
		name := jsonName(f)
		if f.Anonymous && name == "" {
			addFields(n, f.Type, seen)
		} else if name != "-" && f.IsExported() {
			field := derive(f.Type, seen)
			if f.Anonymous && f.Type == reflect.TypeFor[metav1.ObjectMeta]() {
				own := *field
				own.metadata, field = true, &own
			}
			n.fields[name] = field
		}
	}
}

func fieldsOf(t reflect.Type) func(func(reflect.StructField) bool) {
	return func(yield func(reflect.StructField) bool) {
		for i := range t.NumField() {
			if !yield(t.Field(i)) {
				return
			}
		}
	}
}

// jsonName returns the name of a field in JSON; "" for an inlined struct.
func jsonName(f reflect.StructField) string {
	name, options, _ := strings.Cut(f.Tag.Get("json"), ",")
	if name == "" && !f.Anonymous && !strings.Contains(options, "inline") {
		return f.Name
	}
	return name
}
