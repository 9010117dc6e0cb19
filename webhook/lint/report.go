package lint

import (
	"bufio"
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
)

// Severity of a finding.
type Severity string

const (
	// SeverityError is for what admission, the API server or kubectl refuses.
	SeverityError Severity = "error"
	// SeverityWarning is for what is accepted and likely unwanted.
	SeverityWarning Severity = "warning"
)

// Finding is something wrong with an object or a file: an element of the output
// of --output json.
type Finding struct {
	// File as it was named, "-" for standard input; Line and Column count from 1.
	File   string `json:"file"`
	Line   int    `json:"line"`
	Column int    `json:"column"`
	// Severity is "error" or "warning".
	Severity Severity `json:"severity"`
	// Kind, Namespace and Name of the object; all are empty for a file that is no
	// YAML, and Namespace where none is written.
	Kind      string `json:"kind"`
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
	// Field is the JSON path of the field; empty for what concerns no field.
	Field string `json:"field"`
	// Message is the rule's text, as kubectl prints it after the field.
	Message string `json:"message"`
	// Rules are the IDs of the rules behind it, several if a resource ID has
	// several defects; none for what only YAML, kubectl or the API server minds.
	Rules []string `json:"rules,omitempty"`
	// Suggestion is what to write instead, if that is known.
	Suggestion string `json:"suggestion,omitempty"`
	// LeftOut is how many findings about the object are not among the others, which
	// are a thousand about names and types at most.
	LeftOut int `json:"leftOut,omitempty"`
}

// String is the finding on one line, in the form of a compiler's message.
func (f Finding) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s:%d: ", f.File, f.Line)
	if f.Severity == SeverityWarning {
		b.WriteString("warning: ")
	}
	if f.Kind != "" {
		name := f.Name
		if f.Namespace != "" {
			name = f.Namespace + "/" + name
		}
		fmt.Fprintf(&b, "%s: ", strings.TrimSuffix(f.Kind+" "+name, " "))
	}
	if f.Field != "" {
		b.WriteString(f.Field + ": ")
	}
	b.WriteString(f.Message)
	return oneLine.Replace(b.String())
}

// oneLine keeps a name with a line break from breaking the line.
var oneLine = strings.NewReplacer("\n", `\n`, "\r", `\r`)

// report is the outcome of a run.
type report struct {
	findings []Finding
	// errors and warnings among the findings.
	errors, warnings int
	// files that were read, objects of our kinds in them, faulty ones of these
	// (admission would refuse them), and other values.
	files, objects, faulty, others int
}

func (r *report) add(f Finding) {
	r.findings = append(r.findings, f)
	count := max(1, f.LeftOut)
	if f.Severity == SeverityError {
		r.errors += count
	} else {
		r.warnings += count
	}
}

// write prints the findings, those of a file in the order of its lines.
func (r *report) write(w io.Writer, output string) error {
	order := map[string]int{}
	for _, f := range r.findings {
		if _, ok := order[f.File]; !ok {
			order[f.File] = len(order)
		}
	}
	slices.SortStableFunc(r.findings, func(a, b Finding) int {
		return cmp.Or(cmp.Compare(order[a.File], order[b.File]), cmp.Compare(a.Line, b.Line))
	})
	if output == outputJSON {
		encoder := json.NewEncoder(w)
		encoder.SetEscapeHTML(false) // texts hold <name>
		encoder.SetIndent("", "  ")
		return encoder.Encode(append([]Finding{}, r.findings...))
	}
	buffered := bufio.NewWriter(w)
	for _, f := range r.findings {
		fmt.Fprintln(buffered, f)
	}
	return buffered.Flush()
}

// summary is the closing line.
func (r *report) summary() string {
	s := fmt.Sprintf("%s checked, %d with errors", counted(r.objects, "object"), r.faulty)
	s += fmt.Sprintf("; %s, %s", counted(r.errors, "error"), counted(r.warnings, "warning"))
	return s + fmt.Sprintf("; %s of other kinds ignored; %s read", counted(r.others, "object"), counted(r.files, "file"))
}

func counted(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
