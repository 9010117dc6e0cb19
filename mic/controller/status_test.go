package controller

import (
	"context"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/record"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	v1 "github.com/aad-pod-identity/aad-pod-identity/api/v1"
	"github.com/aad-pod-identity/aad-pod-identity/internal/metric"
)

// A pass that follows another before the cache knows what that one wrote must not ask
// the API server for what it will refuse.
func TestStatusIsWrittenOnceForAVersion(t *testing.T) {
	scheme, err := Scheme()
	check(t, err)
	stored := &v1.AzureAssignedIdentity{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "demo", UID: "1"}}
	patches := 0
	c := interceptor.NewClient(fake.NewClientBuilder().WithScheme(scheme).WithObjects(stored).Build(), interceptor.Funcs{
		Patch: func(ctx context.Context, c client.WithWatch, o client.Object, p client.Patch, opts ...client.PatchOption) error {
			patches++
			return c.Patch(ctx, o, p, opts...)
		},
	})
	w := newStatusWriter(c, newEvents(record.NewFakeRecorder(10)), metric.NewMIC(prometheus.NewRegistry()), 1)
	read := func() *v1.AzureAssignedIdentity {
		var a v1.AzureAssignedIdentity
		check(t, c.Get(t.Context(), client.ObjectKeyFromObject(stored), &a))
		return &a
	}
	write := func(a *v1.AzureAssignedIdentity, status string, want bool, sent int) {
		t.Helper()
		patches = 0
		written, err := w.patch(t.Context(), a, map[string]any{"status": map[string]any{"status": status}})
		check(t, err)
		if written != want || patches != sent {
			t.Errorf("written: %t, want %t; %d requests, want %d", written, want, patches, sent)
		}
	}
	first := read()
	write(first, v1.AssignedIDCreated, true, 1)
	write(first, v1.AssignedIDAssigned, false, 0)
	write(read(), v1.AssignedIDAssigned, true, 1)

	// Refused once is enough, too.
	second := read()
	second.ResourceVersion = first.ResourceVersion + "0"
	write(second, v1.AssignedIDAssigned, false, 1)
	write(second, v1.AssignedIDAssigned, false, 0)
}

// unchangedVersion is a writer whose API server answers each PATCH, which it counts, with
// this version.
func unchangedVersion(t *testing.T, version string) (*statusWriter, *int) {
	t.Helper()
	scheme, err := Scheme()
	check(t, err)
	patches := 0
	c := interceptor.NewClient(fake.NewClientBuilder().WithScheme(scheme).Build(), interceptor.Funcs{
		Patch: func(_ context.Context, _ client.WithWatch, o client.Object, _ client.Patch, _ ...client.PatchOption) error {
			patches++
			o.SetResourceVersion(version)
			return nil
		},
	})
	return newStatusWriter(c, newEvents(record.NewFakeRecorder(10)), metric.NewMIC(prometheus.NewRegistry()), 1), &patches
}

// An object that goes with its last finalizer has no later version.
func TestReleasedOnce(t *testing.T) {
	a := &v1.AzureAssignedIdentity{ObjectMeta: metav1.ObjectMeta{
		Namespace: "default", Name: "demo", UID: "1", ResourceVersion: "7", Finalizers: []string{v1.AssignedIdentityFinalizer}, DeletionTimestamp: &metav1.Time{Time: time.Now()},
	}}
	w, patches := unchangedVersion(t, a.ResourceVersion)
	for range 2 {
		check(t, w.released(t.Context(), a))
	}
	if *patches != 1 {
		t.Errorf("%d requests", *patches)
	}
}

// A write that changes nothing leaves the version the last one.
func TestVersionIsTheLastOneAfterAWriteOfNothing(t *testing.T) {
	a := &v1.AzureAssignedIdentity{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "demo", UID: "1", ResourceVersion: "7"}}
	w, patches := unchangedVersion(t, a.ResourceVersion)
	for range 2 {
		written, err := w.patch(t.Context(), a, map[string]any{"status": map[string]any{"status": v1.AssignedIDCreated}})
		check(t, err)
		if !written {
			t.Error("not written")
		}
	}
	if *patches != 2 {
		t.Errorf("%d requests", *patches)
	}
}
