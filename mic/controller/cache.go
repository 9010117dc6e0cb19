package controller

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/selection"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	v1 "github.com/aad-pod-identity/aad-pod-identity/api/v1"
	"github.com/aad-pod-identity/aad-pod-identity/internal/resourceid"
	"github.com/aad-pod-identity/aad-pod-identity/internal/uninstall"
)

// Scheme returns a scheme with the kinds that MIC works with.
func Scheme() (*runtime.Scheme, error) {
	s := runtime.NewScheme()
	if err := clientgoscheme.AddToScheme(s); err != nil {
		return nil, fmt.Errorf("registering Kubernetes kinds: %w", err)
	}
	if err := v1.AddToScheme(s); err != nil {
		return nil, fmt.Errorf("registering %s kinds: %w", v1.GroupName, err)
	}
	return s, nil
}

// Indexes of the caches.
const (
	indexPodLabel         = "aadpodidbinding"    // pods that have not finished by label value
	indexPodNode          = "spec.nodeName"      // pods by node
	indexBindingSelector  = "spec.selector"      // bindings by selector
	indexBindingIdentity  = "spec.azureIdentity" // bindings by namespace/identity
	indexAssignedPod      = "pod"                // assigned identities by namespace/pod
	indexAssignedNode     = "spec.nodename"      // assigned identities by node
	indexAssignedIdentity = "identity"           // assigned identities by namespace/identity
	indexNodeTarget       = "target"             // nodes by key of VM or scale set
)

// cacheOptions limit the caches to what MIC reads: pods that carry the label,
// the one ConfigMap that says that the release is being removed, and of each
// object the fields that matter. Objects are not copied on reading, so nobody
// may change them in place.
func cacheOptions(namespace string) (cache.Options, error) {
	labelled, err := labels.NewRequirement(v1.BindingLabelKey, selection.Exists, nil)
	if err != nil {
		return cache.Options{}, fmt.Errorf("selector of labelled pods: %w", err)
	}
	shared := ptr.To(true)
	return cache.Options{
		DefaultTransform: cache.TransformStripManagedFields(),
		ByObject: map[client.Object]cache.ByObject{
			&corev1.Pod{}:               {Label: labels.NewSelector().Add(*labelled), Transform: reducePod, UnsafeDisableDeepCopy: shared},
			&corev1.Node{}:              {Transform: reduceNode, UnsafeDisableDeepCopy: shared},
			&v1.AzureIdentity{}:         {UnsafeDisableDeepCopy: shared},
			&v1.AzureIdentityBinding{}:  {UnsafeDisableDeepCopy: shared},
			&v1.AzureAssignedIdentity{}: {UnsafeDisableDeepCopy: shared},
			&corev1.ConfigMap{}: {Namespaces: map[string]cache.Config{
				namespace: {FieldSelector: fields.OneTermEqualSelector("metadata.name", uninstall.Name)},
			}},
		},
	}, nil
}

// reducePod keeps what assignments, tags and the readiness gate depend on.
func reducePod(o any) (any, error) {
	p, ok := o.(*corev1.Pod)
	if !ok {
		return o, nil
	}
	reduced := &corev1.Pod{
		TypeMeta: p.TypeMeta,
		ObjectMeta: metav1.ObjectMeta{
			Namespace: p.Namespace, Name: p.Name, UID: p.UID, ResourceVersion: p.ResourceVersion,
			DeletionTimestamp: p.DeletionTimestamp,
			Labels:            keep(p.Labels, v1.BindingLabelKey, v1.PodBindingLabelKey, v1.PodIdentityLabelKey),
			Annotations:       keep(p.Annotations, v1.PodBindingsAnnotationKey),
		},
		Spec:   corev1.PodSpec{NodeName: p.Spec.NodeName, ServiceAccountName: p.Spec.ServiceAccountName},
		Status: corev1.PodStatus{Phase: p.Status.Phase},
	}
	if gated(p) {
		reduced.Spec.ReadinessGates = []corev1.PodReadinessGate{{ConditionType: v1.PodConditionIdentityAssigned}}
		if c := gateCondition(p); c != nil {
			reduced.Status.Conditions = []corev1.PodCondition{*c}
		}
	}
	return reduced, nil
}

// reduceNode keeps the name of the VM behind the node.
func reduceNode(o any) (any, error) {
	n, ok := o.(*corev1.Node)
	if !ok {
		return o, nil
	}
	return &corev1.Node{
		TypeMeta:   n.TypeMeta,
		ObjectMeta: metav1.ObjectMeta{Name: n.Name, UID: n.UID, ResourceVersion: n.ResourceVersion},
		Spec:       corev1.NodeSpec{ProviderID: n.Spec.ProviderID},
	}, nil
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

// addIndexes makes every lookup of this package proportional to its result.
func addIndexes(ctx context.Context, indexer client.FieldIndexer) error {
	for _, i := range []struct {
		object client.Object
		field  string
		value  client.IndexerFunc
	}{
		{&corev1.Pod{}, indexPodLabel, func(o client.Object) []string { return one(labelOf(o.(*corev1.Pod))) }},
		{&corev1.Pod{}, indexPodNode, func(o client.Object) []string { return one(o.(*corev1.Pod).Spec.NodeName) }},
		{&corev1.Node{}, indexNodeTarget, func(o client.Object) []string {
			t, err := resourceid.ParseProviderID(o.(*corev1.Node).Spec.ProviderID)
			if err != nil {
				return nil
			}
			return []string{t.Key()}
		}},
		{&v1.AzureIdentityBinding{}, indexBindingSelector, func(o client.Object) []string {
			return one(o.(*v1.AzureIdentityBinding).Spec.Selector)
		}},
		{&v1.AzureIdentityBinding{}, indexBindingIdentity, func(o client.Object) []string {
			return []string{o.GetNamespace() + "/" + o.(*v1.AzureIdentityBinding).Spec.AzureIdentity}
		}},
		{&v1.AzureAssignedIdentity{}, indexAssignedPod, func(o client.Object) []string {
			return []string{podKey(o.(*v1.AzureAssignedIdentity)).String()}
		}},
		{&v1.AzureAssignedIdentity{}, indexAssignedNode, func(o client.Object) []string {
			return []string{o.(*v1.AzureAssignedIdentity).Spec.NodeName}
		}},
		{&v1.AzureAssignedIdentity{}, indexAssignedIdentity, func(o client.Object) []string {
			return []string{identityKey(o.(*v1.AzureAssignedIdentity)).String()}
		}},
	} {
		if err := indexer.IndexField(ctx, i.object, i.field, i.value); err != nil {
			return fmt.Errorf("index %s of %T: %w", i.field, i.object, err)
		}
	}
	return nil
}

// labelOf returns what a pod asks for identities by: the value of its label, until
// it has finished.
func labelOf(p *corev1.Pod) string {
	if finished(p) {
		return ""
	}
	return p.Labels[v1.BindingLabelKey]
}

func one(v string) []string {
	if v == "" {
		return nil
	}
	return []string{v}
}

// startInformers makes the caches of all kinds before they are needed, so that
// the one who becomes leader starts with warm ones.
func startInformers(ctx context.Context, caches cache.Cache) error {
	for _, kind := range []client.Object{
		&corev1.Pod{}, &corev1.Node{}, &corev1.ConfigMap{}, &v1.AzureIdentity{}, &v1.AzureIdentityBinding{}, &v1.AzureAssignedIdentity{},
	} {
		if _, err := caches.GetInformer(ctx, kind, cache.BlockUntilSynced(false)); err != nil {
			return fmt.Errorf("cache of %T: %w", kind, err)
		}
	}
	return nil
}
