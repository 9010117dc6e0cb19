package validation

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/aad-pod-identity/aad-pod-identity/internal/spelling"
)

// walker compares an object with the schema of its kind. It collects what is
// wrong with names and types, and brings the object into a state that can be
// converted: misspelt fields get the name they were meant to have, values of a
// wrong type are removed. So one mistake is one finding, and the values are
// judged all the same.
type walker struct {
	// metadata of objects is looked into as well.
	metadata bool
	findings field.ErrorList
	// more are the findings beyond maxFindings, which are only counted.
	more int
	// mistyped holds the paths of the values that were removed.
	mistyped map[string]bool
	// path leads to the value that is looked at. It becomes a field.Path only for
	// a finding: most objects have none.
	path []step
	// replacement is set by what returns replace.
	replacement any
}

// maxFindings is how many findings about names and types are worked out: nobody
// reads more, and a small object can hold a hundred thousand mistakes.
const maxFindings = 1000

// full counts a finding and reports whether there are enough of them already.
func (w *walker) full() bool {
	if len(w.findings) < maxFindings {
		return false
	}
	w.more++
	return true
}

// step of a path: a field, a key of a map, or an index of a list.
type step struct {
	kind  stepKind
	name  string
	index int
}

type stepKind int

const (
	stepField stepKind = iota
	stepKey
	stepIndex
)

// outcome of looking at a value: what its parent does with it.
type outcome int

const (
	keep outcome = iota
	drop
	replace
)

// at is the path of the value that is looked at.
func (w *walker) at() *field.Path {
	var path *field.Path
	for _, s := range w.path {
		switch s.kind {
		case stepKey:
			path = path.Key(s.name)
		case stepIndex:
			path = path.Index(s.index)
		default:
			path = path.Child(s.name)
		}
	}
	return path
}

func (w *walker) below(s step, n *node, v any) outcome {
	w.path = append(w.path, s)
	o := w.value(n, v)
	w.path = w.path[:len(w.path)-1]
	return o
}

// value checks v, which stands at the walker's path.
func (w *walker) value(n *node, v any) outcome {
	if v == nil {
		if n.nullable || n.shape == shapeAny {
			return keep
		}
		return w.mistype(n, v)
	}
	if n.metadata && !w.metadata {
		return keep
	}
	switch n.shape {
	case shapeAny:
		return keep
	case shapeObject:
		if object, ok := v.(map[string]any); ok {
			w.object(n, object)
			return keep
		}
	case shapeMap:
		if object, ok := v.(map[string]any); ok {
			w.entries(n, object)
			return keep
		}
	case shapeList:
		if list, ok := v.([]any); ok {
			w.elements(n, list)
			return keep
		}
	case shapeString:
		if _, ok := v.(string); ok {
			return keep
		}
	case shapeBoolean:
		if _, ok := v.(bool); ok {
			return keep
		}
	case shapeTime:
		if s, ok := v.(string); ok {
			return w.time(s)
		}
	case shapeInteger:
		return w.integer(n, v)
	}
	return w.mistype(n, v)
}

// object checks the names of an object's fields, then their values.
func (w *walker) object(n *node, object map[string]any) {
	known := 0
	for name := range object {
		if _, ok := n.fields[name]; ok {
			known++
		}
	}
	if known < len(object) {
		w.strangeNames(n, object)
	}
	for _, name := range n.names {
		v, ok := object[name]
		if !ok {
			continue
		}
		switch w.below(step{kind: stepField, name: name}, n.fields[name], v) {
		case drop:
			delete(object, name)
		case replace:
			object[name] = w.replacement
		}
	}
}

// entries checks the values of a map. One of a wrong type leaves its key, which
// is judged all the same.
func (w *walker) entries(n *node, object map[string]any) {
	// Maps have no order, findings have one.
	for _, key := range slices.Sorted(maps.Keys(object)) {
		switch w.below(step{kind: stepKey, name: key}, n.elem, object[key]) {
		case drop:
			object[key] = nil
		case replace:
			object[key] = w.replacement
		}
	}
}

// elements checks those of a list. One of a wrong type keeps its place, so that
// the others keep their indexes.
func (w *walker) elements(n *node, list []any) {
	for i := range list {
		switch w.below(step{kind: stepIndex, index: i}, n.elem, list[i]) {
		case drop:
			list[i] = nil
		case replace:
			list[i] = w.replacement
		}
	}
}

// strangeNames says of each name that is not known which known one was meant,
// and moves the value there unless one is there already.
func (w *walker) strangeNames(n *node, object map[string]any) {
	for _, name := range slices.Sorted(maps.Keys(object)) {
		if _, known := n.fields[name]; known {
			continue
		}
		v := object[name]
		delete(object, name)
		meant, miscapitalised := n.lower[strings.ToLower(name)]
		full := w.full()
		if !miscapitalised && !full {
			meant = spelling.Nearest(name, n.names)
		}
		_, taken := object[meant]
		if meant != "" && !taken {
			object[meant] = v
		}
		if full {
			continue
		}
		finding := field.Forbidden(w.at().Child(name), "unknown field").WithOrigin(RuleFieldUnknown)
		switch {
		case miscapitalised && taken:
			finding.Detail, finding.Origin = fmt.Sprintf("miscapitalised, and %q is there as well: remove one", meant), RuleFieldTwice
		case miscapitalised:
			finding.Detail, finding.Origin = fmt.Sprintf("miscapitalised, use %q", meant), RuleFieldMiscapitalised
		case meant != "":
			finding.Detail, finding.Origin = fmt.Sprintf("unknown field, did you mean %q?", meant), RuleFieldMisspelt
		}
		w.findings = append(w.findings, finding)
	}
}

func (w *walker) time(s string) outcome {
	if _, err := time.Parse(time.RFC3339, s); err != nil {
		return w.remove(RuleTypeTime, s, func() string { return "must be a time in RFC 3339 format, such as 2006-01-02T15:04:05Z" })
	}
	return keep
}

// integer also takes a whole number that is written as a fraction, as the API
// server does.
func (w *walker) integer(n *node, v any) outcome {
	var whole int64
	switch v := v.(type) {
	case int64:
		if n.bits == 64 || v >= math.MinInt32 && v <= math.MaxInt32 {
			return keep
		}
		return w.outOfRange(n, v)
	case float64:
		if v != math.Trunc(v) {
			return w.remove(RuleTypeWholeNumber, v, func() string { return "must be a whole number" })
		}
		if limit := math.Ldexp(1, n.bits-1); v < -limit || v >= limit {
			return w.outOfRange(n, v)
		}
		whole = int64(v)
	case string:
		var err error
		if whole, err = strconv.ParseInt(v, 10, n.bits); err != nil {
			return w.mistype(n, v)
		}
		// It is clear what was meant: the rest is judged by it.
		if !w.full() {
			w.findings = append(w.findings, field.TypeInvalid(w.at(), v, "must be a number, not a string: remove the quotes").WithOrigin(RuleTypeNumber))
		}
	default:
		return w.mistype(n, v)
	}
	w.replacement = whole
	return replace
}

func (w *walker) outOfRange(n *node, v any) outcome {
	least, most := int64(math.MinInt64), int64(math.MaxInt64)
	if n.bits == 32 {
		least, most = math.MinInt32, math.MaxInt32
	}
	return w.remove(RuleTypeRange, v, func() string { return fmt.Sprintf("must be from %d to %d", least, most) })
}

// mistype removes a value of a wrong JSON type.
func (w *walker) mistype(n *node, v any) outcome {
	want := wantedTypes[n.shape]
	kind := jsonKind(v)
	quote := false
	switch v.(type) {
	case int64, float64, bool:
		quote = n.shape == shapeString
	case map[string]any, []any, nil:
		v = field.OmitValueType{}
	}
	return w.remove(want.rule, v, func() string {
		detail := fmt.Sprintf("must be %s, not %s", want.name, kind)
		if quote {
			detail += ": put it in quotes"
		}
		return detail
	})
}

// wantedTypes are the JSON types in the words of messages.
var wantedTypes = map[shape]struct{ name, rule string }{
	shapeObject:  {"an object", RuleTypeObject},
	shapeMap:     {"an object", RuleTypeObject},
	shapeList:    {"a list", RuleTypeList},
	shapeString:  {"a string", RuleTypeString},
	shapeTime:    {"a time in RFC 3339 format", RuleTypeTime},
	shapeInteger: {"a number", RuleTypeNumber},
	shapeBoolean: {"true or false", RuleTypeBoolean},
}

// jsonKind names the JSON type of a decoded value.
func jsonKind(v any) string {
	switch v.(type) {
	case string:
		return "a string"
	case int64, float64:
		return "a number"
	case bool:
		return "a boolean"
	case []any:
		return "a list"
	case map[string]any:
		return "an object"
	}
	return "null"
}

// remove drops the value that is looked at, which breaks a rule about types.
func (w *walker) remove(rule string, v any, detail func() string) outcome {
	at := w.at()
	if w.mistyped == nil {
		w.mistyped = make(map[string]bool)
	}
	w.mistyped[at.String()] = true
	if !w.full() {
		w.findings = append(w.findings, field.TypeInvalid(at, v, detail()).WithOrigin(rule))
	}
	return drop
}

// without drops the findings about values that were removed: they are not
// missing but of a wrong type, which was said. Nor is it known then which fields
// an identity needs, if it is its type that was removed.
func (w *walker) without(findings field.ErrorList) field.ErrorList {
	if len(w.mistyped) == 0 {
		return findings
	}
	noType := w.mistyped["spec.type"]
	return slices.DeleteFunc(findings, func(e *field.Error) bool {
		return noType && dependsOnType(e) || w.removed(e.Field)
	})
}

// removed reports whether the value at a path, or one around it, was removed.
func (w *walker) removed(path string) bool {
	for i, r := range path {
		if (r == '.' || r == '[') && w.mistyped[path[:i]] {
			return true
		}
	}
	return w.mistyped[path]
}
