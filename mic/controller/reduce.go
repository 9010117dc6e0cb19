package controller

import (
	"maps"
	"slices"
	"strings"
	"unique"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/lru"

	v1 "github.com/aad-pod-identity/aad-pod-identity/api/v1"
)

// maxShared is how many different values of a kind are shared between objects of the
// caches. There are about as many as identities, nodes and deployments in use; with
// more than that, some are held twice.
const maxShared = 8192

// reducer makes the objects of the caches small: they keep what is read, and what
// many have in common they hold together. So nobody may change a cached object, not
// even a map in it. Objects are reduced in place: client-go does it twice to those of
// a first list, and would hold two copies of them all.
type reducer struct{ maps, identities, bindings *lru.Cache }

func newReducer() *reducer {
	return &reducer{maps: lru.New(maxShared), identities: lru.New(maxShared), bindings: lru.New(maxShared)}
}

// pod keeps what assignments, tags and the readiness gate depend on.
func (r *reducer) pod(o any) (any, error) {
	p, ok := o.(*corev1.Pod)
	if !ok {
		return o, nil
	}
	reduced := corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: intern(p.Namespace), Name: p.Name, UID: p.UID, ResourceVersion: p.ResourceVersion,
			DeletionTimestamp: p.DeletionTimestamp,
			Labels:            r.shared(keep(p.Labels, v1.BindingLabelKey, v1.PodBindingLabelKey, v1.PodIdentityLabelKey)),
			Annotations:       r.shared(keep(p.Annotations, v1.PodBindingsAnnotationKey)),
		},
		Spec:   corev1.PodSpec{NodeName: intern(p.Spec.NodeName), ServiceAccountName: intern(p.Spec.ServiceAccountName)},
		Status: corev1.PodStatus{Phase: intern(p.Status.Phase)},
	}
	if gated(p) {
		reduced.Spec.ReadinessGates = []corev1.PodReadinessGate{{ConditionType: v1.PodConditionIdentityAssigned}}
		if c := gateCondition(p); c != nil {
			reduced.Status.Conditions = []corev1.PodCondition{*c}
		}
	}
	*p = reduced
	return p, nil
}

// node keeps the name of the VM behind a node.
func (r *reducer) node(o any) (any, error) {
	n, ok := o.(*corev1.Node)
	if !ok {
		return o, nil
	}
	*n = corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: intern(n.Name), UID: n.UID, ResourceVersion: n.ResourceVersion},
		Spec:       corev1.NodeSpec{ProviderID: n.Spec.ProviderID},
	}
	return n, nil
}

// assigned keeps all but managed fields, since MIC writes these objects as a whole.
// The copies of identity and binding in them are the same for many pods.
func (r *reducer) assigned(o any) (any, error) {
	a, ok := o.(*v1.AzureAssignedIdentity)
	if !ok {
		return o, nil
	}
	a.ManagedFields = nil
	a.APIVersion, a.Kind = intern(a.APIVersion), intern(a.Kind)
	a.Namespace = intern(a.Namespace)
	a.Labels = r.shared(a.Labels)
	a.Spec.NodeName, a.Spec.PodNamespace = intern(a.Spec.NodeName), intern(a.Spec.PodNamespace)
	a.Spec.AzureIdentityRef = share(r.identities, a.Spec.AzureIdentityRef)
	a.Spec.AzureBindingRef = share(r.bindings, a.Spec.AzureBindingRef)
	a.Status.Status = intern(a.Status.Status)
	for i := range a.Finalizers {
		a.Finalizers[i] = intern(a.Finalizers[i])
	}
	for i := range a.Status.Conditions {
		c := &a.Status.Conditions[i]
		c.Type, c.Status, c.Reason, c.Message = intern(c.Type), intern(c.Status), intern(c.Reason), intern(c.Message)
	}
	return a, nil
}

// intern returns the one copy of a text.
func intern[T ~string](s T) T { return T(unique.Make(string(s)).Value()) }

// copied is the copy of an identity or binding that an assigned identity holds.
type copied interface {
	*v1.AzureIdentity | *v1.AzureIdentityBinding
	metav1.Object
}

// share returns an equal object that was seen before, if there is one.
func share[T copied](seen *lru.Cache, o T) T {
	if o == nil {
		return nil
	}
	key := string(o.GetUID()) + "/" + o.GetResourceVersion()
	if known, ok := seen.Get(key); ok {
		if same, ok := known.(T); ok && equality.Semantic.DeepEqual(same, o) {
			return same
		}
	}
	seen.Add(key, o)
	return o
}

// shared returns the one copy of a map.
func (r *reducer) shared(m map[string]string) map[string]string {
	if len(m) == 0 {
		return nil
	}
	// Neither keys nor values of labels and annotations begin to look like this.
	var key strings.Builder
	for _, k := range slices.Sorted(maps.Keys(m)) {
		key.WriteString(k + "\x00" + m[k] + "\x00")
	}
	if known, ok := r.maps.Get(key.String()); ok {
		if same, ok := known.(map[string]string); ok && maps.Equal(same, m) {
			return same
		}
	}
	r.maps.Add(key.String(), m)
	return m
}

func keep(all map[string]string, keys ...string) map[string]string {
	var kept map[string]string
	for _, k := range keys {
		if v, ok := all[k]; ok {
			if kept == nil {
				kept = make(map[string]string, len(keys))
			}
			kept[k] = v
		}
	}
	return kept
}
