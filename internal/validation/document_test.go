package validation

import (
	"fmt"
	"slices"
	"strings"
)

const documentHead = `# Validation rules

What the webhook checks in the objects of this project, and what it says. All mistakes of an object come in one answer, each with the
path of its field; ` + "`kubectl apply`" + ` prints one a line. The table is made from the code (` + "`internal/validation`" + `); each rule has a manifest in
` + "`test/manifests/invalid`" + ` (warnings: ` + "`test/manifests/valid`" + `) that breaks it.

- {x} in a text stands for something of the object. ` + "`*`" + ` in a path is any field, key or index.
- A message is the path, the kind of mistake (` + "`Required value`, `Invalid value: <what was written>`, `Forbidden`" + `) and the text.
- **An update is not judged by what it leaves alone.** If it does not touch ` + "`spec`" + `, the spec passes whatever it looks like: labels, finalizers and
  status of objects that older releases stored can be written. The annotation ` + "`aadpodidentity.k8s.io/Behavior`" + ` is judged when it, or what looks
  like it, is created or changed. A delete always passes.
- **Capitalisation of resource IDs**: ` + "`webhook.resourceIDCase`" + ` of the chart (flag ` + "`--resource-id-case`" + `) says what becomes of an ID whose only
  mistakes are of the rule ` + "`resource-id-miscapitalised`" + `. ` + "`reject`" + ` (default) refuses it; ` + "`warn`" + ` admits it with a warning that holds the right ID;
  ` + "`canonicalize`" + ` stores the right ID in its place, and says so in a warning. Only the segments that are the same in every ID count: names
  are the user's. ` + "`resourcegroups`" + ` and ` + "`resourceGroups`" + ` are both right in every mode. Wherever IDs are compared later, case is ignored.
- An object of more than 512 KiB as JSON, metadata included, is refused unread (` + "`Request entity too large`" + `), unless an update leaves alone what
  would be judged.
- What the API server itself refuses comes in its words: a field name at the top level (` + "`Spec`" + `), a field that is written twice, a type that
  ` + "`kubectl apply --server-side`" + ` cannot merge.
`

// document is docs/validation-rules.md.
func document() string {
	var b strings.Builder
	b.WriteString(documentHead)
	for _, group := range []struct {
		title string
		rules []Rule
	}{
		{"Names of fields", nameRules},
		{"JSON types", typeRules},
		{"AzureIdentity", identityTable},
		{"Resource ID of an AzureIdentity of type 0", resourceIDTable},
		{"AzureIdentityBinding, AzurePodIdentityException, AzureAssignedIdentity", otherTable},
	} {
		fmt.Fprintf(&b, "\n## %s\n\n", group.title)
		b.WriteString("| rule | where | text | example | what is said of it |\n|---|---|---|---|---|\n")
		for _, r := range group.rules {
			where := code(r.Field)
			if !slices.Equal(r.Kinds, allKinds) {
				where = strings.Join(r.Kinds, ", ") + "<br>" + strings.ReplaceAll(where, ", ", "`, `")
			}
			id := code(r.ID)
			if r.Warning {
				id += " (warning)"
			}
			fmt.Fprintf(&b, "| %s | %s | %s | %s | %s |\n", id, where, lines(r.Texts), lines(strings.Split(r.Example, "\n")), code(r.Message))
		}
	}
	return b.String()
}

func lines(texts []string) string {
	cells := make([]string, len(texts))
	for i, text := range texts {
		cells[i] = code(text)
	}
	return strings.Join(cells, "<br>")
}

// code is text in a cell of a table. What is longer than a screen is cut.
func code(text string) string {
	const longest = 600
	if len(text) > longest {
		text = text[:longest/2] + " … " + text[len(text)-longest/2:]
	}
	text = strings.ReplaceAll(text, "|", `\|`)
	if strings.Contains(text, "`") {
		return "`` " + text + " ``"
	}
	return "`" + text + "`"
}
