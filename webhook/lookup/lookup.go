// Package lookup is what the webhook knows of the cluster, from informer caches:
// the bindings and identities and, where a feature needs them, the metadata of
// ServiceAccounts and Namespaces.
package lookup

import (
	"context"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	v1 "github.com/aad-pod-identity/aad-pod-identity/api/v1"
	"github.com/aad-pod-identity/aad-pod-identity/internal/run"
)

// selectorIndex finds bindings by the label value they select.
const selectorIndex = "spec.selector"

// Options say what to watch besides bindings and identities. Each costs memory
// and a right in the cluster.
type Options struct {
	ServiceAccounts bool
	Namespaces      bool
}

// Lookup reads bindings and identities. The objects it returns belong to the
// cache and must not be changed.
type Lookup struct {
	cached client.Reader
	live   client.Reader
	// prepare needs the API server, to say which resources there are.
	prepare func(context.Context) error
	run     func(context.Context) error
	wait    func(context.Context) bool
	// prepared is closed when synced is complete.
	prepared chan struct{}
	synced   []func() bool
}

// New makes the caches; they are prepared and filled while Run runs.
func New(config *rest.Config, o Options) (*Lookup, error) {
	scheme := runtime.NewScheme()
	if err := v1.AddToScheme(scheme); err != nil {
		return nil, fmt.Errorf("registering the API types: %w", err)
	}
	share := true // objects are only read
	c, err := cache.New(config, cache.Options{
		Scheme:                       scheme,
		DefaultTransform:             cache.TransformStripManagedFields(),
		DefaultUnsafeDisableDeepCopy: &share,
		ByObject:                     o.metadataOnly(),
		// Nothing is watched but what is listed here, for which there are rights.
		ReaderFailOnMissingInformer: true,
	})
	if err != nil {
		return nil, fmt.Errorf("preparing the caches: %w", err)
	}
	live, err := client.New(config, client.Options{Scheme: scheme})
	if err != nil {
		return nil, fmt.Errorf("preparing the API client: %w", err)
	}
	l := &Lookup{cached: c, live: live, run: c.Start, wait: c.WaitForCacheSync, prepared: make(chan struct{})}
	indexed := false
	l.prepare = func(ctx context.Context) error {
		// It may be called again, and an index cannot be made twice.
		if !indexed {
			if err := c.IndexField(ctx, &v1.AzureIdentityBinding{}, selectorIndex, selectorOf); err != nil {
				return fmt.Errorf("indexing AzureIdentityBindings: %w", err)
			}
			indexed = true
		}
		var synced []func() bool
		for _, kind := range append(o.kinds(), &v1.AzureIdentityBinding{}, &v1.AzureIdentity{}) {
			informer, err := c.GetInformer(ctx, kind, cache.BlockUntilSynced(false))
			if err != nil {
				return fmt.Errorf("watching %T: %w", kind, err)
			}
			synced = append(synced, informer.HasSynced)
		}
		l.synced = synced
		close(l.prepared)
		return nil
	}
	return l, nil
}

// NewFromReader makes a Lookup that asks a reader for everything; the reader
// must know the index of bindings by selector. For tests.
func NewFromReader(r client.Reader) *Lookup {
	prepared := make(chan struct{})
	close(prepared)
	return &Lookup{
		cached:   r,
		live:     r,
		prepare:  func(context.Context) error { return nil },
		run:      func(ctx context.Context) error { <-ctx.Done(); return nil },
		wait:     func(context.Context) bool { return true },
		prepared: prepared,
	}
}

// Index is the field index of bindings that a reader for NewFromReader needs.
func Index() (object client.Object, name string, extract client.IndexerFunc) {
	return &v1.AzureIdentityBinding{}, selectorIndex, selectorOf
}

func selectorOf(o client.Object) []string {
	if b, ok := o.(*v1.AzureIdentityBinding); ok {
		return []string{b.Spec.Selector}
	}
	return nil
}

// Run fills the caches, as soon as there is an API server with our kinds, and keeps
// them up to date until ctx ends.
func (l *Lookup) Run(ctx context.Context) error {
	if err := run.Retry(ctx, "to watch what the webhook knows of the cluster", l.prepare); err != nil {
		return nil //nolint:nilerr // ctx has ended: an orderly stop
	}
	if err := l.run(ctx); err != nil {
		return fmt.Errorf("running the caches: %w", err)
	}
	return nil
}

// WaitForSync waits until the caches hold everything, or ctx ends: then it
// returns false.
func (l *Lookup) WaitForSync(ctx context.Context) bool {
	select {
	case <-l.prepared:
		return l.wait(ctx)
	case <-ctx.Done():
		return false
	}
}

// Synced reports whether the caches hold everything.
func (l *Lookup) Synced() bool {
	select {
	case <-l.prepared:
	default:
		return false
	}
	for _, synced := range l.synced {
		if !synced() {
			return false
		}
	}
	return true
}

// BindingsBySelector returns the bindings of all namespaces whose selector
// equals a label value.
func (l *Lookup) BindingsBySelector(ctx context.Context, value string) ([]*v1.AzureIdentityBinding, error) {
	var list v1.AzureIdentityBindingList
	if err := l.cached.List(ctx, &list, client.MatchingFields{selectorIndex: value}); err != nil {
		return nil, fmt.Errorf("listing AzureIdentityBindings with selector %q: %w", value, err)
	}
	bindings := make([]*v1.AzureIdentityBinding, len(list.Items))
	for i := range list.Items {
		bindings[i] = &list.Items[i]
	}
	return bindings, nil
}

// Identity returns an identity; nil if the cache has none of that name.
func (l *Lookup) Identity(ctx context.Context, namespace, name string) (*v1.AzureIdentity, error) {
	return get(ctx, l.cached, namespace, name)
}

// IdentityNow is Identity, but asks the API server before it says that there is
// none: manifests often create an identity and its binding in one go, faster
// than the cache hears of the identity.
func (l *Lookup) IdentityNow(ctx context.Context, namespace, name string) (*v1.AzureIdentity, error) {
	id, err := get(ctx, l.cached, namespace, name)
	if id != nil || err != nil {
		return id, err
	}
	return get(ctx, l.live, namespace, name)
}

func get(ctx context.Context, r client.Reader, namespace, name string) (*v1.AzureIdentity, error) {
	id := &v1.AzureIdentity{}
	err := r.Get(ctx, client.ObjectKey{Namespace: namespace, Name: name}, id)
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("getting AzureIdentity %s/%s: %w", namespace, name, err)
	}
	return id, nil
}
