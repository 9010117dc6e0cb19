package controller

import (
	"context"
	"fmt"
	"hash/fnv"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/selection"
	"k8s.io/apimachinery/pkg/types"
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
	// Like v1.AddToScheme, but for the list of assigned identities.
	s.AddKnownTypes(v1.GroupVersion,
		&v1.AzureIdentity{}, &v1.AzureIdentityList{},
		&v1.AzureIdentityBinding{}, &v1.AzureIdentityBindingList{},
		&v1.AzureAssignedIdentity{},
		&v1.AzurePodIdentityException{}, &v1.AzurePodIdentityExceptionList{},
	)
	s.AddKnownTypeWithName(v1.GroupVersion.WithKind(v1.KindAzureAssignedIdentity+"List"), &assignedList{})
	metav1.AddToGroupVersion(s, v1.GroupVersion)
	return s, nil
}

// Indexes of the caches.
const (
	indexPodLabel         = "aadpodidbinding"    // pods that have not finished by label value
	indexPodNode          = "spec.nodeName"      // pods by node
	indexBindingSelector  = "spec.selector"      // bindings by selector
	indexBindingIdentity  = "spec.azureIdentity" // bindings by namespace/identity
	indexAssignedPod      = "pod"                // assigned identities by podBucket
	indexAssignedNode     = "spec.nodename"      // assigned identities by node
	indexAssignedIdentity = "identity"           // assigned identities by namespace/identity
	indexAssignedBefore   = "before"             // assigned identities by whether the 1.8 releases put them on their VM
	indexNodeTarget       = "target"             // nodes by key of VM or scale set
)

// fromBefore is the one value of indexAssignedBefore.
const fromBefore = "true"

// cacheOptions limit the caches to what MIC reads: pods that carry the label,
// the one ConfigMap that says that the release is being removed, and of each
// object the fields that matter. Objects are not copied on reading, so nobody
// may change them in place.
func cacheOptions(namespace string) (cache.Options, error) {
	labelled, err := labels.NewRequirement(v1.BindingLabelKey, selection.Exists, nil)
	if err != nil {
		return cache.Options{}, fmt.Errorf("selector of labelled pods: %w", err)
	}
	shared, reduce := ptr.To(true), newReducer()
	return cache.Options{
		DefaultTransform: cache.TransformStripManagedFields(),
		ByObject: map[client.Object]cache.ByObject{
			&corev1.Pod{}:               {Label: labels.NewSelector().Add(*labelled), Transform: reduce.pod, UnsafeDisableDeepCopy: shared},
			&corev1.Node{}:              {Transform: reduce.node, UnsafeDisableDeepCopy: shared},
			&v1.AzureIdentity{}:         {UnsafeDisableDeepCopy: shared},
			&v1.AzureIdentityBinding{}:  {UnsafeDisableDeepCopy: shared},
			&v1.AzureAssignedIdentity{}: {Transform: reduce.assigned, UnsafeDisableDeepCopy: shared},
			&corev1.ConfigMap{}: {Namespaces: map[string]cache.Config{
				namespace: {FieldSelector: fields.OneTermEqualSelector("metadata.name", uninstall.Name)},
			}},
		},
	}, nil
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
			return []string{podBucket(podKey(o.(*v1.AzureAssignedIdentity)))}
		}},
		{&v1.AzureAssignedIdentity{}, indexAssignedNode, func(o client.Object) []string {
			return []string{o.(*v1.AzureAssignedIdentity).Spec.NodeName}
		}},
		{&v1.AzureAssignedIdentity{}, indexAssignedIdentity, func(o client.Object) []string {
			return []string{identityKey(o.(*v1.AzureAssignedIdentity)).String()}
		}},
		{&v1.AzureAssignedIdentity{}, indexAssignedBefore, func(o client.Object) []string {
			if a := o.(*v1.AzureAssignedIdentity); fromOldRelease(a) {
				return []string{fromBefore}
			}
			return nil
		}},
	} {
		if err := indexer.IndexField(ctx, i.object, i.field, i.value); err != nil {
			return fmt.Errorf("index %s of %T: %w", i.field, i.object, err)
		}
	}
	return nil
}

// podBucket is where to look for the assigned identities of a pod. A value of its own
// for each pod would make the index larger than what it points to; this one leads to
// a few others besides.
func podBucket(pod types.NamespacedName) string {
	const buckets = 1 << 12
	h := fnv.New32a()
	_, _ = h.Write([]byte(pod.String())) // never fails
	return strconv.Itoa(int(h.Sum32() % buckets))
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
