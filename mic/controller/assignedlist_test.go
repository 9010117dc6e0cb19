package controller

import (
	"maps"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/runtime"

	v1 "github.com/aad-pod-identity/aad-pod-identity/api/v1"
)

// TestSchemeHasAllKinds: MIC's scheme names them one by one, for its own list's sake.
func TestSchemeHasAllKinds(t *testing.T) {
	whole, err := Scheme()
	check(t, err)
	public := runtime.NewScheme()
	check(t, v1.AddToScheme(public))
	kinds := func(s *runtime.Scheme) []string { return slices.Sorted(maps.Keys(s.KnownTypes(v1.GroupVersion))) }
	if diff := cmp.Diff(kinds(public), kinds(whole)); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}
