package lint

import (
	"strconv"
	"strings"

	yamlv3 "go.yaml.in/yaml/v3"

	"github.com/aad-pod-identity/aad-pod-identity/internal/spelling"
)

// pair is a field of a mapping.
type pair struct{ key, value *yamlv3.Node }

// pairs returns the fields of a mapping, those merged into it with "<<" first:
// of two fields of one name the last one counts.
func pairs(n *yamlv3.Node) []pair {
	return mergedPairs(n, map[*yamlv3.Node]bool{})
}

func mergedPairs(n *yamlv3.Node, seen map[*yamlv3.Node]bool) []pair {
	if n = resolve(n); n == nil || seen[n] {
		return nil
	}
	seen[n] = true
	var merged, own []pair
	switch n.Kind {
	case yamlv3.SequenceNode: // of a merge; an earlier element has precedence
		for i := len(n.Content) - 1; i >= 0; i-- {
			merged = append(merged, mergedPairs(n.Content[i], seen)...)
		}
	case yamlv3.MappingNode:
		for i := 0; i+1 < len(n.Content); i += 2 {
			if isMerge(n.Content[i]) {
				merged = append(merged, mergedPairs(n.Content[i+1], seen)...)
			} else {
				own = append(own, pair{n.Content[i], n.Content[i+1]})
			}
		}
	}
	return append(merged, own...)
}

func isMerge(key *yamlv3.Node) bool { return key.ShortTag() == "!!merge" }

// resolve follows an alias to what it stands for.
func resolve(n *yamlv3.Node) *yamlv3.Node {
	for n != nil && n.Kind == yamlv3.AliasNode {
		n = n.Alias
	}
	return n
}

// elements returns the elements of the list in a field; none if the positions
// cannot be had.
func elements(n *yamlv3.Node, name string) []*yamlv3.Node {
	if f := follow(n, name, found{}); f.rest == "" && f.value != nil && f.value.Kind == yamlv3.SequenceNode {
		return f.value.Content
	}
	return nil
}

// locate returns the node that shows where the field is that a finding is about:
// the key of a field, the element of a list. Where the field is missing it is
// that of the nearest field around it, and nil for none.
func locate(n *yamlv3.Node, path string) *yamlv3.Node {
	return follow(n, path, found{}).mark
}

// found is how far a path could be followed.
type found struct {
	// mark shows where the value is in the text.
	mark, value *yamlv3.Node
	// rest of the path, which was not found.
	rest string
}

// follow goes down a path as field.Path prints it: names after dots, keys and
// indices in brackets. Names and keys may hold dots and brackets themselves, so
// the path is read by the help of what is there. The rules judge a misspelt field
// under the name that was meant, so if there is no field of exactly the name, one
// of another capitalisation is taken, else one with a typing mistake.
func follow(n *yamlv3.Node, path string, so found) found {
	n = resolve(n)
	so.value, so.rest = n, path
	path = strings.TrimPrefix(path, ".")
	if path == "" || n == nil {
		return so
	}
	if n.Kind == yamlv3.SequenceNode {
		index, rest, _ := strings.Cut(strings.TrimPrefix(path, "["), "]")
		if i, err := strconv.Atoi(index); err == nil && i >= 0 && i < len(n.Content) {
			return follow(n.Content[i], rest, found{mark: n.Content[i]})
		}
	}
	if n.Kind != yamlv3.MappingNode {
		return so
	}
	for _, same := range []func(key, path string) (string, bool){exactly, anyCase, nearly} {
		best := so
		for _, p := range pairs(n) {
			if rest, ok := same(p.key.Value, path); ok {
				if f := follow(p.value, rest, found{mark: p.key}); best.mark == so.mark || len(f.rest) <= len(best.rest) {
					best = f
				}
			}
		}
		if best.mark != so.mark {
			return best
		}
	}
	return so
}

// The functions below compare a key with the first step of a path and return
// what follows it.

func exactly(key, path string) (string, bool) {
	return step(key, path, func(a, b string) bool { return a == b })
}

func anyCase(key, path string) (string, bool) {
	return step(key, path, strings.EqualFold)
}

func step(key, path string, equal func(a, b string) bool) (string, bool) {
	if bracketed := "[" + key + "]"; len(path) >= len(bracketed) && equal(path[:len(bracketed)], bracketed) {
		return path[len(bracketed):], true
	}
	if len(path) < len(key) || !equal(path[:len(key)], key) {
		return "", false
	}
	rest := path[len(key):]
	return rest, rest == "" || rest[0] == '.' || rest[0] == '['
}

func nearly(key, path string) (string, bool) {
	name := path
	if end := strings.IndexAny(path, ".["); end >= 0 {
		name = path[:end]
	}
	return path[len(name):], spelling.IsTypo(key, name)
}
