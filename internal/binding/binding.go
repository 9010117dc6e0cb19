// Package binding decides which identities a pod gets, in which order, and why
// not. It is the one place that knows: webhook asks it for the pod's tags, MIC
// for the assignments, NMI in managed mode for the pod's rights. It is pure: it
// works on objects its callers fetched.
package binding

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	v1 "github.com/aad-pod-identity/aad-pod-identity/api/v1"
)

// Reasons why a binding whose selector matches gives the pod nothing.
const (
	// ReasonIdentityNotFound: the binding's namespace has no identity of that name.
	ReasonIdentityNotFound = v1.ReasonIdentityNotFound
	// ReasonIdentityInvalid: the identity breaks a rule.
	ReasonIdentityInvalid = v1.ReasonIdentityInvalid
	// ReasonOtherNamespace: the identity is confined to its own namespace and
	// the pod lives in another.
	ReasonOtherNamespace = "OtherNamespace"
	// ReasonSameIdentity: an earlier binding gives the pod the same identity.
	ReasonSameIdentity = "SameIdentity"
	// ReasonSameName: an earlier binding gives the pod an identity of the same
	// name in another namespace; the first wins
	// (Azure/aad-pod-identity#1065).
	ReasonSameName = "SameName"
)

// Pod is what matching needs to know of a pod.
type Pod struct {
	Namespace, Name string
	// Label is the value of the pod's label aadpodidbinding, "" if it has none.
	Label string
}

// Input is everything a decision depends on.
type Input struct {
	Pod Pod
	// Bindings of all namespaces, in any order. Those whose selector does not
	// equal the pod's label are ignored, so a caller may pass all or an indexed
	// subset.
	Bindings []*v1.AzureIdentityBinding
	// Identity returns an identity, or nil if there is none of that name.
	Identity func(namespace, name string) *v1.AzureIdentity
	// Valid, if set, says what is wrong with an identity; one that is wrong is
	// skipped.
	Valid func(*v1.AzureIdentity) error
	// ForceNamespaced confines every identity to pods of its own namespace.
	ForceNamespaced bool
}

// Match is a binding that gives the pod an identity.
type Match struct {
	Binding  *v1.AzureIdentityBinding
	Identity *v1.AzureIdentity
}

// Skip is a binding whose selector matches and that nevertheless gives the pod
// nothing.
type Skip struct {
	Binding *v1.AzureIdentityBinding
	// Reason is one of the constants of this package.
	Reason string
	// Message says it to a person, with the names.
	Message string
}

// Result is the decision about one pod.
type Result struct {
	// Matches are in binding order; the first is the pod's default identity.
	Matches []Match
	// Skipped are in binding order.
	Skipped []Skip
}

// ForPod decides which identities a pod gets. Bindings apply in the order of
// their namespace, then name. A selector equals a label only with the same case,
// and an empty one equals nothing.
func ForPod(in Input) Result {
	var r Result
	if in.Pod.Label == "" {
		return r
	}
	seen := make(map[string]*v1.AzureIdentity) // by identity name
	for _, b := range selected(in.Bindings, in.Pod.Label) {
		m, skip := decide(in, b, seen)
		if skip != nil {
			r.Skipped = append(r.Skipped, *skip)
			continue
		}
		seen[m.Identity.Name] = m.Identity
		r.Matches = append(r.Matches, m)
	}
	return r
}

func selected(all []*v1.AzureIdentityBinding, label string) []*v1.AzureIdentityBinding {
	var s []*v1.AzureIdentityBinding
	for _, b := range all {
		if b.Spec.Selector == label && b.DeletionTimestamp.IsZero() {
			s = append(s, b)
		}
	}
	slices.SortFunc(s, Compare)
	return s
}

// Compare orders bindings by namespace, then name.
func Compare(a, b *v1.AzureIdentityBinding) int {
	return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
}

func decide(in Input, b *v1.AzureIdentityBinding, seen map[string]*v1.AzureIdentity) (Match, *Skip) {
	skip := func(reason, format string, a ...any) (Match, *Skip) {
		return Match{}, &Skip{Binding: b, Reason: reason, Message: fmt.Sprintf(format, a...)}
	}
	name := b.Namespace + "/" + b.Spec.AzureIdentity
	id := in.Identity(b.Namespace, b.Spec.AzureIdentity)
	if id == nil || !id.DeletionTimestamp.IsZero() {
		return skip(ReasonIdentityNotFound, "AzureIdentity %s of AzureIdentityBinding %s/%s does not exist", name, b.Namespace, b.Name)
	}
	if in.Valid != nil {
		if err := in.Valid(id); err != nil {
			return skip(ReasonIdentityInvalid, "AzureIdentity %s is invalid: %v", name, err)
		}
	}
	if Namespaced(id, in.ForceNamespaced) && id.Namespace != in.Pod.Namespace {
		return skip(ReasonOtherNamespace, "AzureIdentity %s is for pods of namespace %s only, pod %s/%s is in another", name, id.Namespace, in.Pod.Namespace, in.Pod.Name)
	}
	if first, ok := seen[id.Name]; ok {
		if first.Namespace == id.Namespace {
			return skip(ReasonSameIdentity, "pod %s/%s has AzureIdentity %s by an earlier AzureIdentityBinding already", in.Pod.Namespace, in.Pod.Name, name)
		}
		return skip(ReasonSameName, "pod %s/%s has AzureIdentity %s/%s already, so %s of the same name is not used", in.Pod.Namespace, in.Pod.Name, first.Namespace, first.Name, name)
	}
	return Match{Binding: b, Identity: id}, nil
}

// Namespaced says whether an identity is confined to pods of its own namespace,
// by the cluster-wide setting or by its annotation.
func Namespaced(id *v1.AzureIdentity, force bool) bool {
	return force || strings.EqualFold(id.Annotations[v1.BehaviorAnnotationKey], v1.BehaviorNamespaced)
}
