package podindex

import (
	"slices"

	"k8s.io/apimachinery/pkg/types"

	v1 "github.com/aad-pod-identity/aad-pod-identity/api/v1"
	"github.com/aad-pod-identity/aad-pod-identity/internal/binding"
)

// bound is what the managed mode decides by, in which there is no MIC: somebody
// else assigns the identities, and a pod may use what a binding of its namespace
// gives it. Its maps are guarded by the index's lock.
type bound struct {
	bindings map[selection][]*v1.AzureIdentityBinding
	selects  map[types.NamespacedName]selection // AzureIdentityBinding -> where it is in bindings
	ids      map[types.NamespacedName]*v1.AzureIdentity
}

// selection is what a binding is looked up by.
type selection struct{ namespace, selector string }

// NewManaged makes an empty index of a node for the managed mode.
func NewManaged(node string) *Index {
	x := New(node)
	x.bound = &bound{
		bindings: map[selection][]*v1.AzureIdentityBinding{},
		selects:  map[types.NamespacedName]selection{},
		ids:      map[types.NamespacedName]*v1.AzureIdentity{},
	}
	return x
}

// Managed says whether the index is one for the managed mode.
func (x *Index) Managed() bool { return x.bound != nil }

// of returns the identities of a pod in binding order. The managed mode has none
// of other namespaces, so no right to use them is asked for.
func (b *bound) of(p *Pod) []*v1.AzureIdentity {
	label := p.Labels[v1.BindingLabelKey]
	bindings := b.bindings[selection{p.Namespace, label}]
	if len(bindings) == 0 {
		return nil
	}
	result := binding.ForPod(binding.Input{
		Pod:      binding.Pod{Namespace: p.Namespace, Name: p.Name, Label: label},
		Bindings: bindings, ForceNamespaced: true,
		Identity: func(namespace, name string) *v1.AzureIdentity {
			return b.ids[types.NamespacedName{Namespace: namespace, Name: name}]
		},
	})
	ids := make([]*v1.AzureIdentity, 0, len(result.Matches))
	for _, m := range result.Matches {
		ids = append(ids, m.Identity)
	}
	return ids
}

// SetBinding adds or replaces a binding of the managed mode.
func (x *Index) SetBinding(b *v1.AzureIdentityBinding) {
	x.mu.Lock()
	defer x.mu.Unlock()
	key := types.NamespacedName{Namespace: b.Namespace, Name: b.Name}
	x.bound.dropBinding(key)
	at := selection{b.Namespace, b.Spec.Selector}
	x.bound.bindings[at] = append(slices.Clone(x.bound.bindings[at]), b)
	x.bound.selects[key] = at
	x.gainedIn(b.Namespace)
}

// DeleteBinding forgets a binding of the managed mode.
func (x *Index) DeleteBinding(key types.NamespacedName) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.bound.dropBinding(key)
}

func (b *bound) dropBinding(key types.NamespacedName) {
	at, ok := b.selects[key]
	if !ok {
		return
	}
	delete(b.selects, key)
	left := slices.DeleteFunc(slices.Clone(b.bindings[at]), func(o *v1.AzureIdentityBinding) bool { return o.Name == key.Name })
	if len(left) == 0 {
		delete(b.bindings, at)
		return
	}
	b.bindings[at] = left
}

// SetIdentity adds or replaces an identity of the managed mode.
func (x *Index) SetIdentity(id *v1.AzureIdentity) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.bound.ids[types.NamespacedName{Namespace: id.Namespace, Name: id.Name}] = id
	x.gainedIn(id.Namespace)
}

// DeleteIdentity forgets an identity of the managed mode.
func (x *Index) DeleteIdentity(key types.NamespacedName) {
	x.mu.Lock()
	defer x.mu.Unlock()
	delete(x.bound.ids, key)
}
