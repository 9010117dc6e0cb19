package controller

import (
	"context"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/workqueue"
	"k8s.io/klog/v2"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	v1 "github.com/aad-pod-identity/aad-pod-identity/api/v1"
)

// mappers say which pods and places an event concerns. They look things up in
// caches only, which for a started manager does not fail; if it does the event
// is lost to the log and the next one, or the drift check, makes up for it.
type mappers struct {
	world *world
}

func (m *mappers) failed(ctx context.Context, err error) {
	klog.FromContext(ctx).Error(err, "Cannot tell whom an event concerns")
}

// podsLabelled returns the pods with a label value.
func (m *mappers) podsLabelled(ctx context.Context, value string) []reconcile.Request {
	if value == "" {
		return nil
	}
	return m.pods(ctx, client.MatchingFields{indexPodLabel: value})
}

func (m *mappers) pods(ctx context.Context, options ...client.ListOption) []reconcile.Request {
	var pods corev1.PodList
	if err := m.world.cached.List(ctx, &pods, options...); err != nil {
		m.failed(ctx, err)
		return nil
	}
	requests := make([]reconcile.Request, len(pods.Items))
	for i := range pods.Items {
		requests[i].NamespacedName = client.ObjectKeyFromObject(&pods.Items[i])
	}
	return requests
}

// podsOfBinding returns the pods that a binding selects.
func (m *mappers) podsOfBinding(ctx context.Context, b *v1.AzureIdentityBinding) []reconcile.Request {
	return m.podsLabelled(ctx, b.Spec.Selector)
}

// podsOfIdentity returns the pods that a binding gives an identity.
func (m *mappers) podsOfIdentity(ctx context.Context, id *v1.AzureIdentity) []reconcile.Request {
	var requests []reconcile.Request
	for _, b := range m.bindings(ctx, client.MatchingFields{indexBindingIdentity: id.Namespace + "/" + id.Name}) {
		requests = append(requests, m.podsOfBinding(ctx, &b)...)
	}
	return requests
}

func (m *mappers) bindings(ctx context.Context, options ...client.ListOption) []v1.AzureIdentityBinding {
	var list v1.AzureIdentityBindingList
	if err := m.world.cached.List(ctx, &list, options...); err != nil {
		m.failed(ctx, err)
	}
	return list.Items
}

// bindingsOfIdentity returns the bindings that name an identity.
func (m *mappers) bindingsOfIdentity(ctx context.Context, id *v1.AzureIdentity) []reconcile.Request {
	all := m.bindings(ctx, client.MatchingFields{indexBindingIdentity: id.Namespace + "/" + id.Name})
	requests := make([]reconcile.Request, len(all))
	for i := range all {
		requests[i].NamespacedName = client.ObjectKeyFromObject(&all[i])
	}
	return requests
}

// bindingsOfPod returns the bindings whose condition PodsMatched a pod may change:
// it came or it went.
func (m *mappers) bindingsOfPod(ctx context.Context, p *corev1.Pod, came bool) []reconcile.Request {
	label := labelOf(p)
	if label == "" {
		return nil
	}
	var requests []reconcile.Request
	all := m.bindings(ctx, client.MatchingFields{indexBindingSelector: label})
	for i := range all {
		if !came || !meta.IsStatusConditionTrue(all[i].Status.Conditions, v1.ConditionPodsMatched) {
			requests = append(requests, reconcile.Request{NamespacedName: client.ObjectKeyFromObject(&all[i])})
		}
	}
	return requests
}

// identityOfAssigned returns the identity whose condition InUse an assigned identity
// may change: it came or it went.
func (m *mappers) identityOfAssigned(ctx context.Context, a *v1.AzureAssignedIdentity, came bool) []reconcile.Request {
	id, err := m.world.identity(ctx, identityKey(a))
	if err != nil {
		m.failed(ctx, err)
	}
	if id == nil || (came && meta.IsStatusConditionTrue(id.Status.Conditions, v1.ConditionInUse)) {
		return nil
	}
	return []reconcile.Request{{NamespacedName: client.ObjectKeyFromObject(id)}}
}

// podOfAssigned returns the pod of an assigned identity.
func (m *mappers) podOfAssigned(_ context.Context, a *v1.AzureAssignedIdentity) []reconcile.Request {
	return []reconcile.Request{{NamespacedName: podKey(a)}}
}

// podsOfNode returns the pods of a node.
func (m *mappers) podsOfNode(ctx context.Context, n *corev1.Node) []reconcile.Request {
	return m.pods(ctx, client.MatchingFields{indexPodNode: n.Name})
}

// podsOfMarker returns all pods and all that have assigned identities.
func (m *mappers) podsOfMarker(ctx context.Context, _ *corev1.ConfigMap) []reconcile.Request {
	requests := m.pods(ctx)
	var assigned assignedList
	if err := m.world.cached.List(ctx, &assigned); err != nil {
		m.failed(ctx, err)
	}
	for _, a := range assigned.Items {
		requests = append(requests, reconcile.Request{NamespacedName: podKey(a)})
	}
	return requests
}

// placeOfNode returns the place of a node, and the node itself for what was
// judged while it had none.
func (m *mappers) placeOfNode(_ context.Context, n *corev1.Node) []place {
	places := []place{{node: n.Name}}
	if t, err := targetOf(n); err == nil {
		places = append(places, place{target: t.Key()})
	}
	return places
}

// confirmAfter is how long it is waited before a target is looked at because something
// on it became Assigned: nearly always MIC itself has just said so, and of many pods
// that come at once each would cause a pass that changes nothing.
const confirmAfter = time.Second

// assignedEvents queues the places where assigned identities belong.
func (m *mappers) assignedEvents() handler.TypedEventHandler[*v1.AzureAssignedIdentity, place] {
	type queue = workqueue.TypedRateLimitingInterface[place]
	add := func(ctx context.Context, q queue, a *v1.AzureAssignedIdentity, changed bool) {
		p := m.placeNamed(ctx, a.Spec.NodeName)
		if changed || a.Status.Status != v1.AssignedIDAssigned || !a.DeletionTimestamp.IsZero() {
			q.Add(p)
			return
		}
		q.AddAfter(p, confirmAfter)
	}
	return handler.TypedFuncs[*v1.AzureAssignedIdentity, place]{
		CreateFunc: func(ctx context.Context, e event.TypedCreateEvent[*v1.AzureAssignedIdentity], q queue) {
			add(ctx, q, e.Object, false)
		},
		UpdateFunc: func(ctx context.Context, e event.TypedUpdateEvent[*v1.AzureAssignedIdentity], q queue) {
			changed := !equality.Semantic.DeepEqual(e.ObjectOld.Spec, e.ObjectNew.Spec)
			if changed { // it may have been elsewhere
				add(ctx, q, e.ObjectOld, changed)
			}
			add(ctx, q, e.ObjectNew, changed)
		},
		DeleteFunc: func(ctx context.Context, e event.TypedDeleteEvent[*v1.AzureAssignedIdentity], q queue) {
			add(ctx, q, e.Object, true)
		},
	}
}

func (m *mappers) placeNamed(ctx context.Context, node string) place {
	n, err := m.world.node(ctx, node)
	if err != nil {
		m.failed(ctx, err)
	}
	if n != nil {
		if t, err := targetOf(n); err == nil {
			return place{target: t.Key()}
		}
	}
	return place{node: node}
}

// placesOfMarker returns the places of all nodes.
func (m *mappers) placesOfMarker(ctx context.Context, _ *corev1.ConfigMap) []place {
	var nodes corev1.NodeList
	if err := m.world.cached.List(ctx, &nodes); err != nil {
		m.failed(ctx, err)
	}
	var places []place
	for i := range nodes.Items {
		places = append(places, m.placeOfNode(ctx, &nodes.Items[i])...)
	}
	return places
}

// Predicates drop changes that nothing here depends on. An update that changes
// nothing, as a resync sends, is dropped by all of them.

func podChanges() predicate.TypedPredicate[*corev1.Pod] {
	return predicate.TypedFuncs[*corev1.Pod]{UpdateFunc: func(e event.TypedUpdateEvent[*corev1.Pod]) bool {
		return podChangeMatters(e.ObjectOld, e.ObjectNew)
	}}
}

func bindingChanges() predicate.TypedPredicate[*v1.AzureIdentityBinding] {
	return predicate.TypedFuncs[*v1.AzureIdentityBinding]{UpdateFunc: func(e event.TypedUpdateEvent[*v1.AzureIdentityBinding]) bool {
		return !equality.Semantic.DeepEqual(e.ObjectOld.Spec, e.ObjectNew.Spec) || e.ObjectOld.UID != e.ObjectNew.UID ||
			e.ObjectOld.DeletionTimestamp.IsZero() != e.ObjectNew.DeletionTimestamp.IsZero()
	}}
}

func identityChanges() predicate.TypedPredicate[*v1.AzureIdentity] {
	return predicate.TypedFuncs[*v1.AzureIdentity]{UpdateFunc: func(e event.TypedUpdateEvent[*v1.AzureIdentity]) bool {
		return !equality.Semantic.DeepEqual(e.ObjectOld.Spec, e.ObjectNew.Spec) || e.ObjectOld.UID != e.ObjectNew.UID ||
			e.ObjectOld.Annotations[v1.BehaviorAnnotationKey] != e.ObjectNew.Annotations[v1.BehaviorAnnotationKey] ||
			e.ObjectOld.DeletionTimestamp.IsZero() != e.ObjectNew.DeletionTimestamp.IsZero()
	}}
}

// described lets all through that may make an object's own conditions untrue.
func described[O client.Object]() predicate.TypedPredicate[O] {
	return predicate.TypedFuncs[O]{UpdateFunc: func(e event.TypedUpdateEvent[O]) bool {
		return e.ObjectOld.GetResourceVersion() != e.ObjectNew.GetResourceVersion()
	}}
}

func nodeChanges() predicate.TypedPredicate[*corev1.Node] {
	return predicate.TypedFuncs[*corev1.Node]{UpdateFunc: func(e event.TypedUpdateEvent[*corev1.Node]) bool {
		return e.ObjectOld.Spec.ProviderID != e.ObjectNew.Spec.ProviderID || e.ObjectOld.UID != e.ObjectNew.UID
	}}
}

func markerChanges() predicate.TypedPredicate[*corev1.ConfigMap] {
	return predicate.TypedFuncs[*corev1.ConfigMap]{UpdateFunc: func(e event.TypedUpdateEvent[*corev1.ConfigMap]) bool {
		return !equality.Semantic.DeepEqual(e.ObjectOld.Data, e.ObjectNew.Data)
	}}
}

func assignedChanges() predicate.TypedPredicate[*v1.AzureAssignedIdentity] {
	return described[*v1.AzureAssignedIdentity]()
}

// labelChanges lets pods through that begin or end to ask for something.
func labelChanges() predicate.TypedPredicate[*corev1.Pod] {
	return predicate.TypedFuncs[*corev1.Pod]{UpdateFunc: func(e event.TypedUpdateEvent[*corev1.Pod]) bool {
		return labelOf(e.ObjectOld) != labelOf(e.ObjectNew)
	}}
}

// assignedComesAndGoes lets no change through: an object keeps its identity.
func assignedComesAndGoes() predicate.TypedPredicate[*v1.AzureAssignedIdentity] {
	return predicate.TypedFuncs[*v1.AzureAssignedIdentity]{UpdateFunc: func(e event.TypedUpdateEvent[*v1.AzureAssignedIdentity]) bool {
		return identityKey(e.ObjectOld) != identityKey(e.ObjectNew)
	}}
}

// keys of requests, for logs.
func podName(r *reconcile.Request) types.NamespacedName {
	if r == nil {
		return types.NamespacedName{}
	}
	return r.NamespacedName
}
