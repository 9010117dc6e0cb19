package binding

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation"
)

// Tags are the binding metadata that a pod carries for people and selectors.
// The zero value means: no tags.
type Tags struct {
	// Binding and Identity are label values: the names in the first match.
	Binding, Identity string
	// Bindings is an annotation value: all matching bindings as namespace/name,
	// comma-separated, in binding order. Of very many the last are counted.
	Bindings string
}

// MaxBindingsLength is the longest value of Tags.Bindings, in bytes. All
// annotations of an object together may have 256 KiB, most of which belongs to
// others.
const MaxBindingsLength = 8 << 10

// Tags of a pod about which r was decided.
func (r Result) Tags() Tags {
	if len(r.Matches) == 0 {
		return Tags{}
	}
	first := r.Matches[0]
	return Tags{
		Binding:  LabelValue(first.Binding.Name),
		Identity: LabelValue(first.Identity.Name),
		Bindings: list(r.Matches),
	}
}

// list names the bindings, as many as MaxBindingsLength allows.
func list(matches []Match) string {
	const longestRest = len(",and 1000000000 more")
	var text strings.Builder
	for i, m := range matches {
		name := m.Binding.Namespace + "/" + m.Binding.Name
		if text.Len()+len(name)+1 > MaxBindingsLength-longestRest {
			return fmt.Sprintf("%s,and %d more", text.String(), len(matches)-i)
		}
		if i > 0 {
			text.WriteByte(',')
		}
		text.WriteString(name)
	}
	return text.String()
}

// LabelValue makes a label value of an object's name. Names may have 253
// characters and label values 63, so a longer name keeps its beginning and gets
// a hash of the whole, which keeps two long names apart.
func LabelValue(name string) string {
	const hashLen = 10
	if len(name) <= validation.LabelValueMaxLength {
		return name
	}
	sum := sha256.Sum256([]byte(name))
	head := strings.TrimRight(name[:validation.LabelValueMaxLength-hashLen-1], "-_.")
	return head + "-" + hex.EncodeToString(sum[:])[:hashLen]
}
