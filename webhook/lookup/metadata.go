package lookup

import (
	"context"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	v1 "github.com/aad-pod-identity/aad-pod-identity/api/v1"
)

func metadataOf(kind string) *metav1.PartialObjectMetadata {
	m := &metav1.PartialObjectMetadata{}
	m.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind(kind))
	return m
}

// kinds are those of which the metadata is watched.
func (o Options) kinds() []client.Object {
	var kinds []client.Object
	if o.ServiceAccounts {
		kinds = append(kinds, metadataOf("ServiceAccount"))
	}
	if o.Namespaces {
		kinds = append(kinds, metadataOf("Namespace"))
	}
	return kinds
}

func (o Options) metadataOnly() map[client.Object]cache.ByObject {
	byObject := map[client.Object]cache.ByObject{}
	for _, kind := range o.kinds() {
		byObject[kind] = cache.ByObject{Transform: reduce}
	}
	return byObject
}

// reduce keeps what is read here: there are many ServiceAccounts, and few carry
// anything of ours.
func reduce(o any) (any, error) {
	full, ok := o.(*metav1.PartialObjectMetadata)
	if !ok {
		return o, nil
	}
	m := &metav1.PartialObjectMetadata{
		TypeMeta:   full.TypeMeta,
		ObjectMeta: metav1.ObjectMeta{Namespace: full.Namespace, Name: full.Name, UID: full.UID, ResourceVersion: full.ResourceVersion},
	}
	if v, ok := full.Annotations[v1.SelectorAnnotationKey]; ok {
		m.Annotations = map[string]string{v1.SelectorAnnotationKey: v}
	}
	if v, ok := full.Labels[v1.ReadinessGateKey]; ok {
		m.Labels = map[string]string{v1.ReadinessGateKey: v}
	}
	return m, nil
}

// ServiceAccount returns the metadata of a ServiceAccount, no more of it than
// what pods are given by; nil if there is none. Manifests create one and its pods
// in one go, so the API server is asked about one that the cache lacks.
func (l *Lookup) ServiceAccount(ctx context.Context, namespace, name string) (*metav1.PartialObjectMetadata, error) {
	return l.metadata(ctx, metadataOf("ServiceAccount"), client.ObjectKey{Namespace: namespace, Name: name})
}

// Namespace is ServiceAccount for Namespaces.
func (l *Lookup) Namespace(ctx context.Context, name string) (*metav1.PartialObjectMetadata, error) {
	return l.metadata(ctx, metadataOf("Namespace"), client.ObjectKey{Name: name})
}

func (l *Lookup) metadata(ctx context.Context, into *metav1.PartialObjectMetadata, key client.ObjectKey) (*metav1.PartialObjectMetadata, error) {
	kind := into.Kind
	err := l.cached.Get(ctx, key, into)
	if apierrors.IsNotFound(err) {
		err = l.live.Get(ctx, key, into)
	}
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("getting %s %s: %w", kind, strings.TrimPrefix(key.String(), "/"), err)
	}
	return into, nil
}
