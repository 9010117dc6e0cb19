package assign

import (
	"cmp"
	"slices"

	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	v1 "github.com/aad-pod-identity/aad-pod-identity/api/v1"
	"github.com/aad-pod-identity/aad-pod-identity/internal/binding"
	"github.com/aad-pod-identity/aad-pod-identity/internal/resourceid"
)

// DefaultNamespace is where the AzureAssignedIdentities of identities live that
// are not confined to their namespace, as in the 1.8 releases.
const DefaultNamespace = "default"

// Pod is what assignments depend on.
type Pod struct {
	Namespace, Name string
	UID             types.UID
	// Node the pod is scheduled to, "" if it is not yet.
	Node string
	// Finished: its containers ended and will not start again (phase Succeeded or
	// Failed), so it needs no tokens any more.
	Finished bool
	// Terminating: it has been deleted and is shutting down. It keeps what it has,
	// since it may need tokens to shut down, but gets nothing new.
	Terminating bool
}

// Input is everything a decision depends on.
type Input struct {
	// Pod is nil if there is none, or none with a label.
	Pod *Pod
	// NodeGone: the pod's node does not exist any more.
	NodeGone bool
	// Matches are the pod's identities in binding order.
	Matches []binding.Match
	// Undecided are identities that the pod may or may not use: nothing is done
	// for them, and what the pod has of them stays as it is.
	Undecided []binding.Match
	// Current are the pod's AzureAssignedIdentities, in any order.
	Current []*v1.AzureAssignedIdentity
	// Taken says that an object of another key has a name; may be nil.
	Taken func(namespace, name string) bool
	// ForceNamespaced confines every identity to pods of its own namespace.
	ForceNamespaced bool
}

// Plan is what to do for a pod. What is in none of the lists is right as it is,
// or is being deleted and has to go first.
type Plan struct {
	Create []*v1.AzureAssignedIdentity
	// Update are objects with another spec, labels or annotation than the stored ones.
	// The status is Created if the identity or node is another, else it stays.
	Update []*v1.AzureAssignedIdentity
	Delete []*v1.AzureAssignedIdentity
}

// ForPod decides about one pod.
func ForPod(in Input) Plan {
	var plan Plan
	desired := desired(in)
	current := slices.Clone(in.Current)
	// Of two objects with one key the older stays.
	slices.SortFunc(current, func(a, b *v1.AzureAssignedIdentity) int {
		return cmp.Or(a.CreationTimestamp.Compare(b.CreationTimestamp.Time), cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
	})
	have := map[Key]bool{}
	for _, c := range current {
		key := KeyOf(c)
		want, wanted := desired[key]
		switch {
		case !c.DeletionTimestamp.IsZero():
			// It cannot be kept, and its name is taken until it is gone. Its
			// deletion is an event that brings the pod back here.
			if wanted && c.Namespace == want.Namespace {
				have[key] = true
			}
		case in.undecided(c, key):
			have[key] = true
		case !wanted, have[key], c.Namespace != want.Namespace:
			plan.Delete = append(plan.Delete, c)
		default:
			have[key] = true
			if next, differs := merge(c, want); differs {
				plan.Update = append(plan.Update, next)
			}
		}
	}
	for _, m := range in.Matches {
		key := keyFor(in.Pod, m.Identity)
		want, wanted := desired[key]
		if !wanted || have[key] || in.Pod.Terminating {
			continue
		}
		have[key] = true
		want.Name = key.name(want.Namespace, in.Taken)
		plan.Create = append(plan.Create, want)
	}
	return plan
}

// undecided says whether an object of this very pod is for an identity that the
// pod may or may not use.
func (in Input) undecided(c *v1.AzureAssignedIdentity, key Key) bool {
	if !in.runs() {
		return false
	}
	if uid := c.Annotations[v1.PodUIDAnnotationKey]; uid != "" && uid != string(in.Pod.UID) {
		return false // a pod of the same name had it, perhaps with another service account
	}
	return slices.ContainsFunc(in.Undecided, func(m binding.Match) bool { return keyFor(in.Pod, m.Identity) == key })
}

// runs says whether there is a pod that needs identities.
func (in Input) runs() bool {
	return in.Pod != nil && in.Pod.Node != "" && !in.Pod.Finished && !in.NodeGone
}

func keyFor(p *Pod, id *v1.AzureIdentity) Key {
	if p == nil {
		return Key{}
	}
	return Key{PodNamespace: p.Namespace, Pod: p.Name, IdentityNamespace: id.Namespace, Identity: id.Name}
}

// desired returns what the pod must have, without names.
func desired(in Input) map[Key]*v1.AzureAssignedIdentity {
	if !in.runs() {
		return nil
	}
	all := make(map[Key]*v1.AzureAssignedIdentity, len(in.Matches))
	for _, m := range in.Matches {
		key := keyFor(in.Pod, m.Identity)
		if _, twice := all[key]; !twice {
			all[key] = object(in, m)
		}
	}
	return all
}

func object(in Input, m binding.Match) *v1.AzureAssignedIdentity {
	namespace := DefaultNamespace
	if binding.Namespaced(m.Identity, in.ForceNamespaced) {
		namespace = m.Identity.Namespace
	}
	return &v1.AzureAssignedIdentity{
		TypeMeta: metav1.TypeMeta{APIVersion: v1.GroupVersion.String(), Kind: v1.KindAzureAssignedIdentity},
		ObjectMeta: metav1.ObjectMeta{
			Namespace:   namespace,
			Labels:      map[string]string{v1.NodeNameLabelKey: in.Pod.Node},
			Annotations: map[string]string{v1.PodUIDAnnotationKey: string(in.Pod.UID)},
			// Before the first effect, or a delete would leak the identity on the VM.
			Finalizers: []string{v1.AssignedIdentityFinalizer},
		},
		Spec: v1.AzureAssignedIdentitySpec{
			AzureIdentityRef: identityRef(m.Identity),
			AzureBindingRef:  bindingRef(m.Binding),
			Pod:              in.Pod.Name,
			PodNamespace:     in.Pod.Namespace,
			NodeName:         in.Pod.Node,
		},
		Status: v1.AzureAssignedIdentityStatus{Status: v1.AssignedIDCreated, AvailableReplicas: 1},
	}
}

// identityRef is the copy that the object carries: what tells the identity
// apart, the annotation that older NMIs read, and the spec.
func identityRef(id *v1.AzureIdentity) *v1.AzureIdentity {
	ref := &v1.AzureIdentity{
		TypeMeta:   metav1.TypeMeta{APIVersion: v1.GroupVersion.String(), Kind: v1.KindAzureIdentity},
		ObjectMeta: metav1.ObjectMeta{Namespace: id.Namespace, Name: id.Name, UID: id.UID, ResourceVersion: id.ResourceVersion},
		Spec:       *id.Spec.DeepCopy(),
	}
	if v, ok := id.Annotations[v1.BehaviorAnnotationKey]; ok {
		ref.Annotations = map[string]string{v1.BehaviorAnnotationKey: v}
	}
	return ref
}

func bindingRef(b *v1.AzureIdentityBinding) *v1.AzureIdentityBinding {
	return &v1.AzureIdentityBinding{
		TypeMeta:   metav1.TypeMeta{APIVersion: v1.GroupVersion.String(), Kind: v1.KindAzureIdentityBinding},
		ObjectMeta: metav1.ObjectMeta{Namespace: b.Namespace, Name: b.Name, UID: b.UID, ResourceVersion: b.ResourceVersion},
		Spec:       *b.Spec.DeepCopy(),
	}
}

// merge returns current with the desired spec, label, annotation and finalizer,
// and whether that is a change. Copies are compared by uid and spec: a change of
// an identity's status or metadata must not rewrite the objects of all its pods.
func merge(current, want *v1.AzureAssignedIdentity) (*v1.AzureAssignedIdentity, bool) {
	cs, ws := current.Spec, want.Spec
	sameIdentity := cs.AzureIdentityRef != nil && cs.AzureIdentityRef.UID == ws.AzureIdentityRef.UID &&
		equality.Semantic.DeepEqual(cs.AzureIdentityRef.Spec, ws.AzureIdentityRef.Spec) &&
		cs.AzureIdentityRef.Annotations[v1.BehaviorAnnotationKey] == ws.AzureIdentityRef.Annotations[v1.BehaviorAnnotationKey]
	sameBinding := cs.AzureBindingRef != nil && cs.AzureBindingRef.UID == ws.AzureBindingRef.UID &&
		equality.Semantic.DeepEqual(cs.AzureBindingRef.Spec, ws.AzureBindingRef.Spec)
	sameMeta := current.Labels[v1.NodeNameLabelKey] == want.Labels[v1.NodeNameLabelKey] &&
		current.Annotations[v1.PodUIDAnnotationKey] == want.Annotations[v1.PodUIDAnnotationKey] &&
		slices.Contains(current.Finalizers, v1.AssignedIdentityFinalizer)
	if sameIdentity && sameBinding && sameMeta && cs.NodeName == ws.NodeName {
		return nil, false
	}
	next := current.DeepCopy()
	if next.Labels == nil {
		next.Labels = map[string]string{}
	}
	next.Labels[v1.NodeNameLabelKey] = want.Labels[v1.NodeNameLabelKey]
	if next.Annotations == nil {
		next.Annotations = map[string]string{}
	}
	next.Annotations[v1.PodUIDAnnotationKey] = want.Annotations[v1.PodUIDAnnotationKey]
	if !slices.Contains(next.Finalizers, v1.AssignedIdentityFinalizer) {
		next.Finalizers = append(next.Finalizers, v1.AssignedIdentityFinalizer)
	}
	next.Spec.AzureIdentityRef, next.Spec.AzureBindingRef = ws.AzureIdentityRef, ws.AzureBindingRef
	next.Spec.NodeName = ws.NodeName
	if cs.NodeName != ws.NodeName || !sameAssignment(cs.AzureIdentityRef, ws.AzureIdentityRef) {
		next.Status.Status = v1.AssignedIDCreated
		next.Status.Conditions = nil
	}
	return next, true
}

// sameAssignment reports whether two copies of an identity need the same thing
// of the VM.
func sameAssignment(a, b *v1.AzureIdentity) bool {
	return a != nil && b != nil && a.Spec.Type == b.Spec.Type && resourceid.Equal(a.Spec.ResourceID, b.Spec.ResourceID)
}
