package mutate

import (
	"strings"

	"gomodules.xyz/jsonpatch/v2"

	v1 "github.com/aad-pod-identity/aad-pod-identity/api/v1"
	"github.com/aad-pod-identity/aad-pod-identity/internal/binding"
)

// podMeta is the part of a pod that tags concern. Decoding no more keeps the
// call cheap, and a pod of a newer API version is handed on as it is.
type podMeta struct {
	Metadata struct {
		Name         string            `json:"name"`
		GenerateName string            `json:"generateName"`
		Labels       map[string]string `json:"labels"`
		Annotations  map[string]string `json:"annotations"`
	} `json:"metadata"`
}

// name returns the pod's name or, while it is yet to be generated, what it will
// begin with.
func (p *podMeta) name() string {
	if p.Metadata.Name != "" {
		return p.Metadata.Name
	}
	return p.Metadata.GenerateName + "*"
}

func (p *podMeta) label() string {
	return p.Metadata.Labels[v1.BindingLabelKey]
}

// patch returns what turns the pod's tags into the wanted ones; nothing if they
// are the same, so that a second call changes nothing.
func (p *podMeta) patch(want binding.Tags) []jsonpatch.Operation {
	ops := mapPatch("/metadata/labels", p.Metadata.Labels, []pair{
		{v1.PodBindingLabelKey, want.Binding},
		{v1.PodIdentityLabelKey, want.Identity},
	})
	return append(ops, mapPatch("/metadata/annotations", p.Metadata.Annotations, []pair{
		{v1.PodBindingsAnnotationKey, want.Bindings},
	})...)
}

// pair is a key and its wanted value; the empty value means: no such key.
type pair struct{ key, value string }

func mapPatch(path string, have map[string]string, want []pair) []jsonpatch.Operation {
	var ops []jsonpatch.Operation
	missing := have == nil
	for _, w := range want {
		value, present := have[w.key]
		keyPath := path + "/" + pointerEscaper.Replace(w.key)
		switch {
		case w.value == "" && present:
			ops = append(ops, jsonpatch.NewOperation("remove", keyPath, nil))
		case w.value == "" || present && value == w.value:
		case missing:
			// JSON patch cannot add a key to a map that is not there.
			ops = append(ops, jsonpatch.NewOperation("add", path, map[string]string{w.key: w.value}))
			missing = false
		default:
			ops = append(ops, jsonpatch.NewOperation("add", keyPath, w.value))
		}
	}
	return ops
}

// pointerEscaper escapes a key for a JSON pointer (RFC 6901).
var pointerEscaper = strings.NewReplacer("~", "~0", "/", "~1")
