package mutate

import (
	"strings"

	"gomodules.xyz/jsonpatch/v2"
	"k8s.io/apimachinery/pkg/api/validation"

	v1 "github.com/aad-pod-identity/aad-pod-identity/api/v1"
	"github.com/aad-pod-identity/aad-pod-identity/internal/binding"
)

// podMeta is the part of a pod that is read here. Decoding no more keeps the
// call cheap, and a pod of a newer API version is handed on as it is.
type podMeta struct {
	Metadata struct {
		Name         string            `json:"name"`
		GenerateName string            `json:"generateName"`
		Labels       map[string]string `json:"labels"`
		Annotations  map[string]string `json:"annotations"`
	} `json:"metadata"`
	Spec struct {
		ServiceAccountName string          `json:"serviceAccountName"`
		ReadinessGates     []readinessGate `json:"readinessGates"`
	} `json:"spec"`
}

type readinessGate struct {
	ConditionType string `json:"conditionType"`
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

// labelled says whether the pod carries the label, be it empty.
func (p *podMeta) labelled() bool {
	_, ok := p.Metadata.Labels[v1.BindingLabelKey]
	return ok
}

func (p *podMeta) gated() bool {
	for _, g := range p.Spec.ReadinessGates {
		if g.ConditionType == v1.PodConditionIdentityAssigned {
			return true
		}
	}
	return false
}

// wanted is what a pod is to carry. The zero value takes the tags off and leaves
// the rest.
type wanted struct {
	// label is a value for the binding label; "" leaves the label as it is.
	label string
	tags  binding.Tags
	// gate adds the readiness gate, which the pod does not have. None is ever
	// removed: what the pod's author wrote stays.
	gate bool
}

// patch returns what makes the pod carry what is wanted; nothing if it does, so
// that a second call changes nothing.
func (p *podMeta) patch(want wanted) []jsonpatch.Operation {
	labels := []pair{
		{v1.PodBindingLabelKey, want.tags.Binding},
		{v1.PodIdentityLabelKey, want.tags.Identity},
	}
	if want.label != "" {
		labels = append(labels, pair{v1.BindingLabelKey, want.label})
	}
	ops := mapPatch("/metadata/labels", p.Metadata.Labels, labels)
	ops = append(ops, mapPatch("/metadata/annotations", p.Metadata.Annotations, []pair{
		{v1.PodBindingsAnnotationKey, p.fitting(want.tags.Bindings)},
	})...)
	if want.gate {
		ops = append(ops, p.addGate())
	}
	return ops
}

// fitting returns the annotation's value, or nothing if the pod's other
// annotations leave no room: it would be refused for a value it did not ask for.
func (p *podMeta) fitting(value string) string {
	size := len(v1.PodBindingsAnnotationKey) + len(value)
	for k, v := range p.Metadata.Annotations {
		if k != v1.PodBindingsAnnotationKey {
			size += len(k) + len(v)
		}
	}
	if size > validation.TotalAnnotationSizeLimitB {
		return ""
	}
	return value
}

func (p *podMeta) addGate() jsonpatch.Operation {
	gate := readinessGate{ConditionType: v1.PodConditionIdentityAssigned}
	if len(p.Spec.ReadinessGates) == 0 {
		return jsonpatch.NewOperation("add", "/spec/readinessGates", []readinessGate{gate})
	}
	return jsonpatch.NewOperation("add", "/spec/readinessGates/-", gate)
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
