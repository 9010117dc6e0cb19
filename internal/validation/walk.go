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
// decoded: misspelt fields get the name they were meant to have, values of a
// wrong type are removed. So one mistake is one finding, and the values are
// judged all the same.
type walker struct {
	findings field.ErrorList
	// mistyped holds the paths of the values that were removed.
	mistyped []string
}

// value checks v, which stands under path.
func (w *walker) value(n *node, v any, path func() *field.Path) (keep bool) {
	if v == nil { // null is the same as leaving the field out
		return true
	}
	switch n.shape {
	case shapeAny:
		return true
	case shapeObject:
		if object, ok := v.(map[string]any); ok {
			w.object(n, object, path)
			return true
		}
		return w.mistype(path(), v, "an object")
	case shapeMap:
		object, ok := v.(map[string]any)
		if !ok {
			return w.mistype(path(), v, "an object")
		}
		for _, key := range slices.Sorted(maps.Keys(object)) {
			if !w.value(n.elem, object[key], func() *field.Path { return path().Key(key) }) {
				delete(object, key)
			}
		}
		return true
	case shapeList:
		list, ok := v.([]any)
		if !ok {
			return w.mistype(path(), v, "a list")
		}
		for i := range list {
			if !w.value(n.elem, list[i], func() *field.Path { return path().Index(i) }) {
				list[i] = nil
			}
		}
		return true
	default:
		return w.scalar(n, v, path)
	}
}

// object checks the names of an object's fields, then their values.
func (w *walker) object(n *node, object map[string]any, path func() *field.Path) {
	var strange []string
	for name := range object {
		if _, ok := n.fields[name]; !ok {
			strange = append(strange, name)
		}
	}
	slices.Sort(strange)
	for _, name := range strange {
		w.strangeName(n, object, name, path())
	}
	for _, name := range n.names {
		if v, ok := object[name]; ok && !w.value(n.fields[name], v, func() *field.Path { return path().Child(name) }) {
			delete(object, name)
		}
	}
}

// strangeName says which known name was meant by one that is not known, and
// moves the value there unless one is there already.
func (w *walker) strangeName(n *node, object map[string]any, name string, path *field.Path) {
	v := object[name]
	delete(object, name)
	meant, miscapitalised := n.lower[strings.ToLower(name)]
	if !miscapitalised {
		meant = spelling.Nearest(name, n.names)
	}
	_, taken := object[meant]
	var detail string
	switch {
	case miscapitalised && taken:
		detail = fmt.Sprintf("miscapitalised, and %q is there as well: remove one", meant)
	case miscapitalised:
		detail = fmt.Sprintf("miscapitalised, use %q", meant)
	case meant != "":
		detail = fmt.Sprintf("unknown field, did you mean %q?", meant)
	default:
		detail = "unknown field"
	}
	w.findings = append(w.findings, field.Forbidden(path.Child(name), detail))
	if meant != "" && !taken {
		object[meant] = v
	}
}

func (w *walker) scalar(n *node, v any, path func() *field.Path) bool {
	switch n.shape {
	case shapeString:
		switch v.(type) {
		case string:
			return true
		case int64, float64, bool:
			return w.mistype(path(), v, "a string", "put it in quotes")
		}
		return w.mistype(path(), v, "a string")
	case shapeTime:
		s, ok := v.(string)
		if !ok {
			return w.mistype(path(), v, "a time in RFC 3339 format")
		}
		if _, err := time.Parse(time.RFC3339, s); err != nil {
			return w.remove(field.TypeInvalid(path(), v, "must be a time in RFC 3339 format, such as 2006-01-02T15:04:05Z"))
		}
		return true
	case shapeBoolean:
		if _, ok := v.(bool); ok {
			return true
		}
		return w.mistype(path(), v, "true or false")
	default:
		return w.integer(n, v, path)
	}
}

func (w *walker) integer(n *node, v any, path func() *field.Path) bool {
	switch v := v.(type) {
	case int64:
		if n.bits == 32 && (v < math.MinInt32 || v > math.MaxInt32) {
			return w.remove(field.TypeInvalid(path(), v, fmt.Sprintf("must be from %d to %d", math.MinInt32, math.MaxInt32)))
		}
		return true
	case float64:
		return w.remove(field.TypeInvalid(path(), v, "must be a whole number without decimal point or exponent"))
	case string:
		if _, err := strconv.ParseInt(v, 10, n.bits); err == nil {
			return w.mistype(path(), v, "a number", "remove the quotes")
		}
	}
	return w.mistype(path(), v, "a number")
}

// mistype records a value of a wrong JSON type.
func (w *walker) mistype(path *field.Path, v any, want string, advice ...string) bool {
	kind, bad := "null", v
	switch v.(type) {
	case string:
		kind = "a string"
	case int64, float64:
		kind = "a number"
	case bool:
		kind = "a boolean"
	case []any:
		kind, bad = "a list", field.OmitValueType{}
	case map[string]any:
		kind, bad = "an object", field.OmitValueType{}
	}
	detail := fmt.Sprintf("must be %s, not %s", want, kind)
	if len(advice) > 0 {
		detail += ": " + strings.Join(advice, ", ")
	}
	return w.remove(field.TypeInvalid(path, bad, detail))
}

func (w *walker) remove(finding *field.Error) bool {
	w.findings = append(w.findings, finding)
	w.mistyped = append(w.mistyped, finding.Field)
	return false
}

// without drops the findings about values that were removed: they are not
// missing but of a wrong type, which was said.
func (w *walker) without(findings field.ErrorList) field.ErrorList {
	return slices.DeleteFunc(findings, func(e *field.Error) bool {
		return slices.ContainsFunc(w.mistyped, func(path string) bool {
			return strings.HasPrefix(e.Field, path) && (len(e.Field) == len(path) || strings.ContainsRune(".[", rune(e.Field[len(path)])))
		})
	})
}
