package lint

import (
	"encoding/json"
	"fmt"

	yamlv3 "go.yaml.in/yaml/v3"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"sigs.k8s.io/yaml"

	"github.com/aad-pod-identity/aad-pod-identity/internal/validation"
)

// keyProblem is a finding about a key that the API server never sees as it was
// written.
type keyProblem struct {
	node    *yamlv3.Node
	finding *field.Error
}

// keyProblems returns what is wrong with the keys of an object that only the text
// shows: one that stands twice, of which the last counts, and one that YAML reads
// as something else than a string.
func keyProblems(n *yamlv3.Node) []keyProblem {
	return appendKeyProblems(nil, n, nil, map[*yamlv3.Node]bool{})
}

func appendKeyProblems(problems []keyProblem, n *yamlv3.Node, path *field.Path, seen map[*yamlv3.Node]bool) []keyProblem {
	if n = resolve(n); n == nil || seen[n] {
		return problems
	}
	seen[n] = true
	switch n.Kind {
	case yamlv3.SequenceNode:
		for i, element := range n.Content {
			problems = appendKeyProblems(problems, element, path.Index(i), seen)
		}
	case yamlv3.MappingNode:
		names := make(map[string]bool, len(n.Content)/2)
		for i := 0; i+1 < len(n.Content); i += 2 {
			key, value := n.Content[i], n.Content[i+1]
			if isMerge(key) {
				problems = appendKeyProblems(problems, value, path, seen)
				continue
			}
			child := path.Child(key.Value)
			if names[key.Value] {
				problems = append(problems, keyProblem{key, field.Forbidden(child, "written more than once: keep one").WithOrigin(validation.RuleFieldRepeated)})
			}
			names[key.Value] = true
			if read := readAs(key); read != key.Value {
				problems = append(problems, keyProblem{key, field.Invalid(child, key.Value, fmt.Sprintf("YAML reads this key as %q: put it in quotes", read))})
			}
			problems = appendKeyProblems(problems, value, child, seen)
		}
	}
	return problems
}

// readAs returns the key that kubectl sends for one in a file: without quotes, on
// is sent as true and 1.10 as 1.1.
func readAs(key *yamlv3.Node) string {
	if key.Kind != yamlv3.ScalarNode || key.Style != 0 || key.ShortTag() == "!!str" && !wordOfYAML11(key.Value) {
		return key.Value
	}
	object, err := yaml.YAMLToJSON([]byte(key.Value + ": 0"))
	var keys map[string]int
	if err != nil || json.Unmarshal(object, &keys) != nil {
		return key.Value
	}
	for read := range keys {
		return read
	}
	return key.Value
}

// wordOfYAML11 reports whether a word is a boolean in YAML 1.1 and none in 1.2.
func wordOfYAML11(s string) bool {
	switch s {
	case "y", "Y", "yes", "Yes", "YES", "on", "On", "ON", "n", "N", "no", "No", "NO", "off", "Off", "OFF":
		return true
	}
	return false
}
