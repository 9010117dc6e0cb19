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
	// ReasonUseForbidden: the pod's service account may not use the identity,
	// which is of another namespace.
	ReasonUseForbidden = "UseForbidden"
	// ReasonUseUnknown: whether it may could not be found out.
	ReasonUseUnknown = "UseUnknown"
)

// VerbUse is the RBAC verb that an AzureIdentity of another namespace is used by,
// where the cluster demands it.
const VerbUse = "use"

// Pod is what matching needs to know of a pod.
type Pod struct {
	Namespace, Name string
	// Label is the value of the pod's label aadpodidbinding, "" if it has none.
	Label string
	// ServiceAccount is the name of the pod's service account; it matters to
	// Input.MayUse alone.
	ServiceAccount string
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
	// MayUse, if set, says whether the pod's service account has VerbUse on an
	// identity. It is asked about identities of other namespaces than the pod's
	// alone, and last. An error means that it is not known.
	MayUse func(*v1.AzureIdentity) (bool, error)
	// Has, if set, says whether the pod has an identity now. It is asked when
	// MayUse is not known.
	Has func(*v1.AzureIdentity) bool
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
	// Unreviewed: the identity is of another namespace and missing or invalid, so
	// that nobody could say whether the pod may use it (Input.MayUse).
	Unreviewed bool
}

// Result is the decision about one pod.
type Result struct {
	// Matches are in binding order; the first is the pod's default identity.
	Matches []Match
	// Skipped are in binding order.
	Skipped []Skip
	// Undecided are those of Skipped with ReasonUseUnknown. The pod must not get
	// what it does not have, nor lose what it has, by a question that nobody
	// answered.
	Undecided []Match
}

// Foreign says whether the decision depends on a right to use an identity of
// another namespace than the pod's, which can be given and taken away without
// any of our objects being changed.
func (r Result) Foreign(podNamespace string) bool {
	return slices.ContainsFunc(r.Matches, func(m Match) bool { return m.Identity.Namespace != podNamespace }) ||
		slices.ContainsFunc(r.Skipped, func(s Skip) bool { return s.Reason == ReasonUseForbidden || s.Reason == ReasonUseUnknown })
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
			if skip.Reason == ReasonUseUnknown {
				// It holds its name if the pod has it, which else would have two of one
				// name. If not, it does not: a stranger's binding must not take away an
				// identity that is the pod's.
				if in.Has != nil && in.Has(m.Identity) {
					seen[m.Identity.Name] = m.Identity
				}
				r.Undecided = append(r.Undecided, m)
			}
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
	skip := func(reason, format string, a ...any) *Skip {
		return &Skip{Binding: b, Reason: reason, Message: fmt.Sprintf(format, a...)}
	}
	name := b.Namespace + "/" + b.Spec.AzureIdentity
	foreign := b.Namespace != in.Pod.Namespace
	otherNamespace := func() *Skip {
		return skip(ReasonOtherNamespace, "AzureIdentity %s is for pods of namespace %s only, pod %s/%s is in another", name, b.Namespace, in.Pod.Namespace, in.Pod.Name)
	}
	// What cannot concern the pod comes first: whoever waits for identities that
	// are missing or invalid must not wait for those of strangers.
	if foreign && in.ForceNamespaced {
		return Match{}, otherNamespace()
	}
	unusable := func(reason, format string, a ...any) *Skip {
		s := skip(reason, format, a...)
		s.Unreviewed = foreign && in.MayUse != nil
		return s
	}
	id := in.Identity(b.Namespace, b.Spec.AzureIdentity)
	if id == nil || !id.DeletionTimestamp.IsZero() {
		return Match{}, unusable(ReasonIdentityNotFound, "AzureIdentity %s of AzureIdentityBinding %s/%s does not exist", name, b.Namespace, b.Name)
	}
	if foreign && Namespaced(id, in.ForceNamespaced) {
		return Match{}, otherNamespace()
	}
	if in.Valid != nil {
		if err := in.Valid(id); err != nil {
			return Match{}, unusable(ReasonIdentityInvalid, "AzureIdentity %s is invalid: %v", name, err)
		}
	}
	if first, ok := seen[id.Name]; ok {
		if first.Namespace == id.Namespace {
			return Match{}, skip(ReasonSameIdentity, "pod %s/%s has AzureIdentity %s by an earlier AzureIdentityBinding already", in.Pod.Namespace, in.Pod.Name, name)
		}
		return Match{}, skip(ReasonSameName, "pod %s/%s has AzureIdentity %s/%s already, so %s of the same name is not used", in.Pod.Namespace, in.Pod.Name, first.Namespace, first.Name, name)
	}
	m := Match{Binding: b, Identity: id}
	if in.MayUse == nil || !foreign {
		return m, nil
	}
	account := in.Pod.Namespace + "/" + in.Pod.ServiceAccount
	switch allowed, err := in.MayUse(id); {
	case err != nil:
		return m, skip(ReasonUseUnknown, "whether service account %s may use AzureIdentity %s is not known, so pod %s/%s gets nothing new by it: %v", account, name, in.Pod.Namespace, in.Pod.Name, err)
	case !allowed:
		return Match{}, skip(ReasonUseForbidden, "service account %s of pod %s/%s may not use AzureIdentity %s of another namespace; a Role of namespace %s would have to say {apiGroups: [%q], resources: [\"azureidentities\"], resourceNames: [%q], verbs: [%q]}",
			account, in.Pod.Namespace, in.Pod.Name, name, id.Namespace, v1.GroupName, id.Name, VerbUse)
	}
	return m, nil
}

// Namespaced says whether an identity is confined to pods of its own namespace,
// by the cluster-wide setting or by its annotation.
func Namespaced(id *v1.AzureIdentity, force bool) bool {
	return force || strings.EqualFold(id.Annotations[v1.BehaviorAnnotationKey], v1.BehaviorNamespaced)
}
