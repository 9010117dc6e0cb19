package controller

import (
	"context"
	"fmt"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	v1 "github.com/aad-pod-identity/aad-pod-identity/api/v1"
	"github.com/aad-pod-identity/aad-pod-identity/internal/access"
	"github.com/aad-pod-identity/aad-pod-identity/internal/binding"
	"github.com/aad-pod-identity/aad-pod-identity/internal/resourceid"
	"github.com/aad-pod-identity/aad-pod-identity/internal/uninstall"
	"github.com/aad-pod-identity/aad-pod-identity/internal/validation"
	"github.com/aad-pod-identity/aad-pod-identity/mic/assign"
)

// world reads the cluster. All but the named exceptions comes from caches, and
// objects that it returns must not be changed.
type world struct {
	cached client.Reader
	live   client.Reader
	// namespace of MIC.
	namespace       string
	forceNamespaced bool
	// mayUse, if set, says whether a service account may use an identity of
	// another namespace. It asks the API server, unless it did a moment ago.
	mayUse access.MayUse
}

// podKey is the pod of an assigned identity.
func podKey(a *v1.AzureAssignedIdentity) types.NamespacedName {
	return types.NamespacedName{Namespace: a.Spec.PodNamespace, Name: a.Spec.Pod}
}

// identityKey is the AzureIdentity of an assigned identity.
func identityKey(a *v1.AzureAssignedIdentity) types.NamespacedName {
	k := assign.KeyOf(a)
	return types.NamespacedName{Namespace: k.IdentityNamespace, Name: k.Identity}
}

// uninstalling says that the release is being removed: nothing is wanted any
// more.
func (w *world) uninstalling(ctx context.Context) (bool, error) {
	var marker corev1.ConfigMap
	err := w.cached.Get(ctx, types.NamespacedName{Namespace: w.namespace, Name: uninstall.Name}, &marker)
	if apierrors.IsNotFound(err) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("reading ConfigMap %s/%s: %w", w.namespace, uninstall.Name, err)
	}
	return uninstall.Active(marker.Data), nil
}

// pod returns a labelled pod, or nil.
func (w *world) pod(ctx context.Context, key types.NamespacedName) (*corev1.Pod, error) {
	var p corev1.Pod
	err := w.cached.Get(ctx, key, &p)
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading pod %s: %w", key, err)
	}
	return &p, nil
}

// matches decides which identities a pod gets.
func (w *world) matches(ctx context.Context, p *corev1.Pod) (binding.Result, error) {
	label := p.Labels[v1.BindingLabelKey]
	if label == "" {
		return binding.Result{}, nil
	}
	var list v1.AzureIdentityBindingList
	if err := w.cached.List(ctx, &list, client.MatchingFields{indexBindingSelector: label}); err != nil {
		return binding.Result{}, fmt.Errorf("listing bindings with selector %q: %w", label, err)
	}
	bindings := make([]*v1.AzureIdentityBinding, len(list.Items))
	for i := range list.Items {
		bindings[i] = &list.Items[i]
	}
	var failed error
	account := access.Account(p.Spec.ServiceAccountName)
	result := binding.ForPod(binding.Input{
		Pod:      binding.Pod{Namespace: p.Namespace, Name: p.Name, Label: label, ServiceAccount: account},
		Bindings: bindings,
		Identity: func(namespace, name string) *v1.AzureIdentity {
			id, err := w.identity(ctx, types.NamespacedName{Namespace: namespace, Name: name})
			if err != nil {
				failed = err
			}
			return id
		},
		Valid:           validation.StoredIdentity,
		ForceNamespaced: w.forceNamespaced,
		MayUse:          w.mayUse.For(ctx, p.Namespace, account),
		Has: func(id *v1.AzureIdentity) bool {
			current, err := w.assignedOfPod(ctx, client.ObjectKeyFromObject(p))
			if err != nil {
				failed = err
			}
			return slices.ContainsFunc(current, func(a *v1.AzureAssignedIdentity) bool { return gives(a, p, id) })
		},
	})
	if failed != nil {
		// "Not found" and "could not look" must not be confused: the former takes
		// identities away.
		return binding.Result{}, failed
	}
	return result, nil
}

// identity returns an AzureIdentity, or nil.
func (w *world) identity(ctx context.Context, key types.NamespacedName) (*v1.AzureIdentity, error) {
	var id v1.AzureIdentity
	err := w.cached.Get(ctx, key, &id)
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading AzureIdentity %s: %w", key, err)
	}
	return &id, nil
}

// identityInUse says whether there is an assigned identity of an identity.
func (w *world) identityInUse(ctx context.Context, key types.NamespacedName) (bool, error) {
	var list assignedList
	if err := w.cached.List(ctx, &list, client.MatchingFields{indexAssignedIdentity: key.String()}, client.Limit(1)); err != nil {
		return false, fmt.Errorf("listing assigned identities of %s: %w", key, err)
	}
	return len(list.Items) > 0, nil
}

// podsSelected says where there are pods with the label that a binding selects.
func (w *world) podsSelected(ctx context.Context, b *v1.AzureIdentityBinding) (podsSeen, error) {
	var seen podsSeen
	if b.Spec.Selector == "" {
		return seen, nil
	}
	for namespace, found := range map[string]*bool{b.Namespace: &seen.own, metav1.NamespaceAll: &seen.others} {
		var list corev1.PodList
		if err := w.cached.List(ctx, &list, client.InNamespace(namespace), client.MatchingFields{indexPodLabel: b.Spec.Selector}, client.Limit(1)); err != nil {
			return seen, fmt.Errorf("listing pods with label %q: %w", b.Spec.Selector, err)
		}
		*found = len(list.Items) > 0
	}
	return seen, nil
}

// gives says whether an assigned identity is there to stay and gives a pod an
// identity. One of another pod of that name, which may have run on another node,
// does not; objects of the 1.8 releases do not tell the pods of one name apart.
func gives(a *v1.AzureAssignedIdentity, p *corev1.Pod, id *v1.AzureIdentity) bool {
	key := assign.Key{PodNamespace: p.Namespace, Pod: p.Name, IdentityNamespace: id.Namespace, Identity: id.Name}
	uid := a.Annotations[v1.PodUIDAnnotationKey]
	return assign.KeyOf(a) == key && a.DeletionTimestamp.IsZero() && a.Spec.NodeName == p.Spec.NodeName && (uid == "" || uid == string(p.UID))
}

// assignedOfPod returns the assigned identities of a pod.
func (w *world) assignedOfPod(ctx context.Context, key types.NamespacedName) ([]*v1.AzureAssignedIdentity, error) {
	near, err := w.assigned(ctx, indexAssignedPod, podBucket(key))
	return slices.DeleteFunc(near, func(a *v1.AzureAssignedIdentity) bool { return podKey(a) != key }), err
}

// assignedOnNode returns the assigned identities of a node's pods.
func (w *world) assignedOnNode(ctx context.Context, node string) ([]*v1.AzureAssignedIdentity, error) {
	return w.assigned(ctx, indexAssignedNode, node)
}

func (w *world) assigned(ctx context.Context, index, value string) ([]*v1.AzureAssignedIdentity, error) {
	var list assignedList
	if err := w.cached.List(ctx, &list, client.MatchingFields{index: value}); err != nil {
		return nil, fmt.Errorf("listing assigned identities by %s %q: %w", index, value, err)
	}
	return list.Items, nil
}

// taken says whether a name belongs to another key.
func (w *world) taken(ctx context.Context, key func(*v1.AzureAssignedIdentity) bool) func(namespace, name string) bool {
	return func(namespace, name string) bool {
		var a v1.AzureAssignedIdentity
		err := w.cached.Get(ctx, types.NamespacedName{Namespace: namespace, Name: name}, &a)
		// An error other than "not found" leaves the question to the API server,
		// which refuses a second object of the name.
		return err == nil && !key(&a)
	}
}

// node returns a node, or nil.
func (w *world) node(ctx context.Context, name string) (*corev1.Node, error) {
	var n corev1.Node
	err := w.cached.Get(ctx, types.NamespacedName{Name: name}, &n)
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading node %s: %w", name, err)
	}
	return &n, nil
}

// nodeGone says whether a node does not exist. A node that the cache lacks may
// merely be new, so the API server has the last word.
func (w *world) nodeGone(ctx context.Context, name string) (bool, error) {
	if name == "" {
		return false, nil
	}
	n, err := w.node(ctx, name)
	if n != nil || err != nil {
		return false, err
	}
	err = w.live.Get(ctx, types.NamespacedName{Name: name}, &corev1.Node{})
	if apierrors.IsNotFound(err) {
		return true, nil
	}
	if err != nil {
		return false, fmt.Errorf("reading node %s: %w", name, err)
	}
	return false, nil
}

// nodesOf returns the nodes of a target.
func (w *world) nodesOf(ctx context.Context, target string) ([]corev1.Node, error) {
	var list corev1.NodeList
	if err := w.cached.List(ctx, &list, client.MatchingFields{indexNodeTarget: target}); err != nil {
		return nil, fmt.Errorf("listing nodes of %s: %w", target, err)
	}
	return list.Items, nil
}

// neededByPods returns the resource IDs that the pods of nodes need, straight from
// pods, bindings and identities: those of pods that are to have them, and all that
// must not be taken off.
func (w *world) neededByPods(ctx context.Context, nodes []corev1.Node) (want, keep []string, err error) {
	wanted, kept := map[string]bool{}, map[string]bool{}
	add := func(to map[string]bool, matches []binding.Match) {
		for _, m := range matches {
			if m.Identity.Spec.Type == v1.UserAssignedMSI {
				to[m.Identity.Spec.ResourceID] = true
			}
		}
	}
	for i := range nodes {
		var pods corev1.PodList
		if err := w.cached.List(ctx, &pods, client.MatchingFields{indexPodNode: nodes[i].Name}); err != nil {
			return nil, nil, fmt.Errorf("listing pods of node %s: %w", nodes[i].Name, err)
		}
		for j := range pods.Items {
			p := &pods.Items[j]
			if finished(p) {
				continue
			}
			result, err := w.matches(ctx, p)
			if err != nil {
				return nil, nil, err
			}
			add(kept, result.Matches)
			add(kept, result.Undecided) // what may be the pod's right is not taken off either
			if p.DeletionTimestamp.IsZero() {
				add(wanted, result.Matches)
			}
		}
	}
	return slices.Collect(maps.Keys(wanted)), slices.Collect(maps.Keys(kept)), nil
}

func finished(p *corev1.Pod) bool {
	return p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed
}

// assignPod is the pod as package assign sees it.
func assignPod(p *corev1.Pod) *assign.Pod {
	if p == nil {
		return nil
	}
	return &assign.Pod{
		Namespace: p.Namespace, Name: p.Name, UID: p.UID, Node: p.Spec.NodeName,
		Finished: finished(p), Terminating: !p.DeletionTimestamp.IsZero(),
	}
}

// targetOf returns the VM or scale set of a node, or why it has none.
func targetOf(n *corev1.Node) (resourceid.Compute, error) {
	t, err := resourceid.ParseProviderID(n.Spec.ProviderID)
	if err != nil {
		return t, fmt.Errorf("node %s: %w", n.Name, err)
	}
	t.Instance = ""
	return t, nil
}
