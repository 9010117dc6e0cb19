package lint

import (
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/aad-pod-identity/aad-pod-identity/internal/resourceid"
	"github.com/aad-pod-identity/aad-pod-identity/internal/validation"
)

// linter judges one file after the other.
type linter struct {
	rules  *validation.Validator
	idCase validation.IDCase
	report report
	// name of the file at hand.
	name string
}

// judge adds what is wrong with an object to the report. Written is the kind as
// it is in the file; findings are those about the kind itself.
func (l *linter) judge(o object, written string, findings field.ErrorList) {
	l.report.objects++
	var verdict validation.Verdict
	if o.kind == "" {
		o.kind = written
	} else {
		var err error
		verdict, err = l.rules.Judge(o.kind, o.raw, validation.WrittenParts, l.idCase)
		if err != nil {
			verdict.Findings = field.ErrorList{{Type: field.ErrorTypeInternal, Detail: err.Error()}}
		}
		findings = append(findings, verdict.Findings...)
		findings = append(findings, metadata(o.raw, findings)...)
	}
	before := l.report.errors
	for _, f := range findings {
		if f.Origin == validation.RuleFieldUnknown && under(f.Field, "metadata") && !o.has(f.Field) {
			l.unknownMetadata(o, f)
			continue
		}
		l.refused(o, f, o.place(f.Field))
	}
	for _, p := range keyProblems(o.node) {
		if !slices.ContainsFunc(findings, func(f *field.Error) bool { return f.Field == p.finding.Field && f.Origin == p.finding.Origin }) {
			l.refused(o, p.finding, o.doc.placeOf(p.node))
		}
	}
	l.leftOut(o, verdict.More, l.report.errors > before)
	if l.report.errors > before {
		l.report.faulty++
	}
	for _, w := range verdict.Warnings {
		f := l.finding(o, SeverityWarning, w.Field, o.place(w.Field))
		f.Message, f.Suggestion, f.Rules = w.Text, quoted(w.Text), []string{w.Rule}
		if w.Rule == validation.RuleResourceIDMiscapitalised && verdict.ResourceID != "" {
			f.Suggestion = verdict.ResourceID
		}
		l.report.add(f)
	}
}

// place is where the file shows a field, or the nearest field around it.
func (o object) place(path string) place {
	if n := locate(o.node, path); n != nil {
		return o.doc.placeOf(n)
	}
	return o.doc.placeOf(o.node)
}

// has reports whether the object itself has a key. The path of the key "metadata.x"
// looks like that of x in the metadata.
func (o object) has(key string) bool {
	var keys map[string]json.RawMessage
	if err := json.Unmarshal(o.raw, &keys); err != nil {
		return false // what is no object has no keys
	}
	_, ok := keys[key]
	return ok
}

// finding begins a finding about a field of an object.
func (l *linter) finding(o object, severity Severity, path string, where place) Finding {
	return Finding{
		File: l.name, Line: where.line, Column: where.column, Severity: severity,
		Kind: o.kind, Namespace: o.namespace, Name: o.name, Field: path,
	}
}

// refused adds a finding for which the object would be refused.
func (l *linter) refused(o object, e *field.Error, where place) {
	f := l.finding(o, SeverityError, e.Field, where)
	f.Message, f.Suggestion = e.ErrorBody(), suggestion(e)
	if e.Origin != "" {
		f.Rules = validation.RulesOf(e)
	}
	l.report.add(f)
}

// unknownMetadata adds a warning about a field of the metadata, which belongs to the
// API server: a newer one may know fields that are not known here.
func (l *linter) unknownMetadata(o object, e *field.Error) {
	f := l.finding(o, SeverityWarning, e.Field, o.place(e.Field))
	f.Message, f.Rules = "unknown field: an API server that does not know it either refuses or drops it", validation.RulesOf(e)
	l.report.add(f)
}

// leftOut adds how many findings about an object were only counted.
func (l *linter) leftOut(o object, count int, refused bool) {
	if count == 0 {
		return
	}
	severity := SeverityWarning
	if refused {
		severity = SeverityError
	}
	f := l.finding(o, severity, "", o.place(""))
	f.Message, f.LeftOut = fmt.Sprintf("%d further findings about this object are left out", count), count
	l.report.add(f)
}

// suggestion returns what to write instead, a name or a value, if there is
// exactly one; else "".
func suggestion(e *field.Error) string {
	value, _ := e.BadValue.(string)
	var id *resourceid.Error
	if e.Field == "spec.resourceID" {
		// Its text also says what to write instead of a single segment.
		if _, err := resourceid.Parse(value); errors.As(err, &id) {
			return id.Suggestion
		}
	}
	return quoted(e.Detail)
}

// instead is how the rules end a text that says what to write.
var instead = regexp.MustCompile(`(?:use|did you mean) ("(?:[^"\\]|\\.)*")\??$`)

func quoted(text string) string {
	m := instead.FindStringSubmatch(text)
	if m == nil {
		return ""
	}
	s, err := strconv.Unquote(m[1])
	if err != nil {
		return ""
	}
	return s
}

// metadata returns what the API server itself says about the metadata of an
// object, in its words. The webhook leaves that to it.
func metadata(raw []byte, known field.ErrorList) field.ErrorList {
	path := field.NewPath("metadata")
	if slices.ContainsFunc(known, func(f *field.Error) bool { return under(f.Field, path.String()) }) {
		return nil // one of them may be the reason for what would be said here
	}
	var object struct {
		Metadata metav1.ObjectMeta `json:"metadata"`
	}
	if err := json.Unmarshal(raw, &object); err != nil {
		return nil // what is wrong with a type, the rules have said
	}
	// Whoever applies it gives it a namespace, and the API server a name that is to
	// be generated.
	if object.Metadata.Namespace == "" {
		object.Metadata.Namespace = metav1.NamespaceDefault
	}
	if object.Metadata.Name == "" && object.Metadata.GenerateName != "" {
		object.Metadata.Name = "generated"
	}
	return apivalidation.ValidateObjectMeta(&object.Metadata, true, apivalidation.NameIsDNSSubdomain, path)
}

// under reports whether a path is another one or below it.
func under(path, parent string) bool {
	rest, ok := strings.CutPrefix(path, parent)
	return ok && (rest == "" || rest[0] == '.' || rest[0] == '[')
}
