package lint

import (
	"encoding/json"
	"slices"
	"strconv"
	"strings"

	yamlv3 "go.yaml.in/yaml/v3"
	"k8s.io/apimachinery/pkg/util/validation/field"

	v1 "github.com/aad-pod-identity/aad-pod-identity/api/v1"
	"github.com/aad-pod-identity/aad-pod-identity/internal/spelling"
)

// object is one object of our kinds, or one that was surely meant to be.
type object struct {
	doc document
	// raw is the object in JSON.
	raw []byte
	// node has the positions; nil if they cannot be had.
	node *yamlv3.Node
	// kind by whose rules it is judged; namespace and name as written, "" if they
	// are not strings.
	kind, namespace, name string
}

// file finds the objects in a file and judges them.
func (l *linter) file(name string, text []byte) {
	l.report.files++
	l.name = name
	for _, doc := range split(text) {
		raw, root, syntax := doc.parse()
		if syntax != nil {
			l.report.add(Finding{File: name, Line: doc.inFile(syntax.line), Column: 1, Severity: SeverityError, Message: syntax.text})
			continue
		}
		l.value(doc, raw, root)
	}
}

// value judges a value if it is one of our objects, or those in it if it is a
// list of objects.
func (l *linter) value(doc document, raw []byte, node *yamlv3.Node) {
	if string(raw) == "null" { // nothing but comments
		return
	}
	var fields map[string]json.RawMessage
	if json.Unmarshal(raw, &fields) != nil {
		l.report.others++ // no object at all, such as a list of values
		return
	}
	apiVersion, kind := stringIn(fields, "apiVersion"), stringIn(fields, "kind")
	var items []json.RawMessage
	if strings.HasSuffix(kind, "List") && json.Unmarshal(fields["items"], &items) == nil {
		nodes := elements(node, "items")
		for i, item := range items {
			var n *yamlv3.Node
			if i < len(nodes) {
				n = nodes[i]
			}
			l.value(doc, item, n)
		}
		return
	}
	meant, findings := classify(apiVersion, kind)
	if meant == "" && len(findings) == 0 {
		l.report.others++
		return
	}
	var metadata map[string]json.RawMessage
	_ = json.Unmarshal(fields["metadata"], &metadata) // what is wrong with it is a finding of the rules
	o := object{doc: doc, raw: raw, node: node, kind: meant, namespace: stringIn(metadata, "namespace"), name: stringIn(metadata, "name")}
	if o.name == "" {
		o.name = stringIn(metadata, "generateName")
	}
	l.judge(o, kind, findings)
}

// stringIn returns the string in a field, whose name may be miscapitalised; ""
// if there is none.
func stringIn(fields map[string]json.RawMessage, name string) string {
	value, ok := fields[name]
	for other, v := range fields {
		if !ok && strings.EqualFold(other, name) {
			value = v
		}
	}
	var s string
	_ = json.Unmarshal(value, &s)
	return s
}

// kinds that are judged.
var kinds = []string{v1.KindAzureAssignedIdentity, v1.KindAzureIdentity, v1.KindAzureIdentityBinding, v1.KindAzurePodIdentityException}

// classify says by the rules of which of our kinds an object is to be judged,
// and what is wrong with the two fields that say so. An object that is none of
// our business has neither.
func classify(apiVersion, kind string) (meant string, findings field.ErrorList) {
	group, _, _ := strings.Cut(apiVersion, "/")
	if !spelling.IsTypo(group, v1.GroupName) {
		if apiVersion == "" && slices.Contains(kinds, kind) {
			return kind, field.ErrorList{field.Required(field.NewPath("apiVersion"), v1.GroupVersion.String())}
		}
		return "", nil
	}
	if apiVersion != v1.GroupVersion.String() {
		findings = append(findings, field.Invalid(field.NewPath("apiVersion"), apiVersion, "unknown version; use "+strconv.Quote(v1.GroupVersion.String())))
	}
	switch i := slices.IndexFunc(kinds, func(k string) bool { return strings.EqualFold(k, kind) }); {
	case i < 0:
		meant = spelling.Nearest(kind, kinds)
	default:
		meant = kinds[i]
	}
	path := field.NewPath("kind")
	switch {
	case kind == "":
		findings = append(findings, field.Required(path, "one of "+strings.Join(kinds, ", ")))
	case meant == "":
		findings = append(findings, field.NotSupported(path, kind, kinds))
	case strings.EqualFold(meant, kind) && meant != kind:
		findings = append(findings, field.Invalid(path, kind, "miscapitalised, use "+strconv.Quote(meant)))
	case meant != kind:
		findings = append(findings, field.Invalid(path, kind, "unknown kind, did you mean "+strconv.Quote(meant)+"?"))
	}
	return meant, findings
}
