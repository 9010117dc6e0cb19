package policy_test

import (
	"context"
	"strings"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	v1 "github.com/aad-pod-identity/aad-pod-identity/api/v1"
)

// openCRDs are CRDs without a rule and with hardly a type, as an early release had
// them: under them anything can be stored.
func openCRDs(t *testing.T) []*unstructured.Unstructured {
	t.Helper()
	crds := ourCRDs(t)
	for _, crd := range crds {
		versions, _, err := unstructured.NestedSlice(crd.Object, "spec", "versions")
		if err != nil {
			t.Fatal(err)
		}
		version := versions[0].(map[string]any)
		delete(version, "subresources")
		version["schema"] = map[string]any{"openAPIV3Schema": map[string]any{"type": "object", "x-kubernetes-preserve-unknown-fields": true}}
		if err := unstructured.SetNestedSlice(crd.Object, versions, "spec", "versions"); err != nil {
			t.Fatal(err)
		}
	}
	return crds
}

// bad is a stored object that today's rules refuse.
type bad struct {
	object *unstructured.Unstructured
	// heal makes it good; nil: its kind is MIC's to write.
	heal map[string]any
	// broken is a change of the spec that leaves it bad, and refused what is said
	// about that.
	broken  map[string]any
	refused string
}

// store stores bad objects of every kind, and returns them by what is wrong.
func (s *server) store(t *testing.T) map[string]bad {
	t.Helper()
	good := identity().Object["spec"].(map[string]any)
	touch := map[string]any{"adResourceID": "https://example.com"}
	stored := map[string]bad{
		"a bad client ID": {
			object: object(v1.KindAzureIdentity, "bad-client-id", map[string]any{"resourceID": resourceID, "clientID": "x"}),
			heal:   map[string]any{"clientID": clientID}, broken: touch, refused: "spec.clientID",
		},
		// Releases before 1.6.0 stored an empty metadata in the spec, for which there is
		// no schema.
		"a bad client ID beside metadata": {
			object: object(v1.KindAzureIdentity, "bad-client-id-metadata", map[string]any{"resourceID": resourceID, "clientID": "x", "metadata": map[string]any{"creationTimestamp": nil, "name": "x"}}),
			heal:   map[string]any{"clientID": clientID}, broken: touch, refused: "spec.clientID",
		},
		"no resource ID": {
			object: object(v1.KindAzureIdentity, "no-resource-id", map[string]any{"clientID": clientID}),
			heal:   map[string]any{"resourceID": resourceID}, broken: touch, refused: "spec.resourceID",
		},
		"a miscapitalised resource ID": {
			object: object(v1.KindAzureIdentity, "miscapitalised-id", map[string]any{"resourceID": strings.ToLower(resourceID), "clientID": clientID}),
			heal:   map[string]any{"resourceID": resourceID}, broken: touch, refused: "-resource-id-case",
		},
		"names of an early release": {
			object: object(v1.KindAzureIdentity, "early-names", map[string]any{"ResourceID": resourceID, "ClientID": clientID}),
			heal:   map[string]any{"resourceID": resourceID, "clientID": clientID, "ResourceID": nil, "ClientID": nil}, broken: touch, refused: "spec.resourceID",
		},
		"names of an early release with bad values": {
			object: object(v1.KindAzureIdentity, "early-values", map[string]any{"ResourceID": "nonsense", "ClientID": "x"}),
			heal:   map[string]any{"resourceID": resourceID, "clientID": clientID, "ResourceID": nil, "ClientID": nil},
			broken: map[string]any{"resourceID": "nonsense", "clientID": "x", "ResourceID": nil, "ClientID": nil}, refused: "spec.resourceID",
		},
		"an unknown name": {
			object: mutated(object(v1.KindAzureIdentity, "unknown-name", good), func(spec map[string]any) { spec["colour"] = "blue" }),
			heal:   map[string]any{"colour": nil}, broken: touch, refused: "spec.colour: unknown field",
		},
		"a value of a wrong type": {
			object: object(v1.KindAzureIdentity, "wrong-type", map[string]any{"resourceID": resourceID, "clientID": clientID, "replicas": "2"}),
			heal:   map[string]any{"replicas": nil}, broken: map[string]any{"replicas": "3"}, refused: "spec.replicas",
		},
		"an unknown type": {
			object: object(v1.KindAzureIdentity, "unknown-type", map[string]any{"type": int64(7), "resourceID": resourceID, "clientID": clientID}),
			heal:   map[string]any{"type": int64(0)}, broken: touch, refused: "spec.type",
		},
		"a value that is too long": {
			object: object(v1.KindAzureIdentity, "too-long", map[string]any{"type": int64(0), "resourceID": resourceID, "clientID": strings.Repeat("x", 3000)}),
			heal:   map[string]any{"clientID": clientID}, broken: touch, refused: "spec.clientID",
		},
		"an identity without spec": {
			object: object(v1.KindAzureIdentity, "no-spec", nil),
			heal:   good, broken: touch, refused: "spec.resourceID",
		},
		"a binding without selector": {
			object: object(v1.KindAzureIdentityBinding, "no-selector", map[string]any{"azureIdentity": "demo"}),
			heal:   map[string]any{"selector": "demo"}, broken: map[string]any{"weight": int64(2)}, refused: "spec.selector",
		},
		"an exception without labels": {
			object: object(v1.KindAzurePodIdentityException, "no-labels", map[string]any{}),
			heal:   map[string]any{"podLabels": map[string]any{"a": "b"}}, broken: map[string]any{"podLabels": map[string]any{}}, refused: "spec.podLabels",
		},
		"an exception with a key that is no label's": {
			object: object(v1.KindAzurePodIdentityException, "bad-key", map[string]any{"podLabels": map[string]any{"a b": "c"}}),
			heal:   map[string]any{"podLabels": map[string]any{"a b": nil, "a": "b"}}, broken: map[string]any{"podLabels": map[string]any{"a": "b"}}, refused: "spec.podLabels",
		},
		"an assigned identity without node": {
			object: object(v1.KindAzureAssignedIdentity, "no-node", map[string]any{
				"pod": "web", "podNamespace": "default", "NodeName": "node-0",
				"azureIdentityRef": map[string]any{
					"apiVersion": v1.GroupVersion.String(), "kind": v1.KindAzureIdentity, "metadata": map[string]any{"name": "demo", "namespace": "default"},
					"spec": map[string]any{"clientID": clientID},
				},
			}),
			heal: map[string]any{"nodename": "node-0", "NodeName": nil}, broken: map[string]any{"pod": "other"}, refused: "spec.nodename",
		},
	}
	behavior := identity()
	behavior.SetName("behavior")
	behavior.SetAnnotations(map[string]string{"aadpodidentity.k8s.io/behavior": "Namespaced"})
	stored["a miscapitalised annotation"] = bad{object: behavior}
	for name, b := range stored {
		if spec, _ := b.object.Object["spec"].(map[string]any); spec == nil {
			delete(b.object.Object, "spec")
		}
		// A CRD takes a moment to be served.
		eventually(t, "an object with "+name+" to be stored", func(ctx context.Context) (bool, error) {
			err := s.admin.Create(ctx, b.object)
			if apierrors.IsNotFound(err) || meta.IsNoMatchError(err) {
				return false, nil
			}
			return err == nil, err
		})
	}
	return stored
}

func (s *server) testRatchet(t *testing.T, stored map[string]bad) {
	for name, b := range stored {
		t.Run(name, func(t *testing.T) {
			o := b.object
			merge := func(patch map[string]any) error {
				return s.admin.Patch(t.Context(), o, client.RawPatch(types.MergePatchType, encode(t, patch)))
			}
			if err := s.admin.Create(t.Context(), anew(o), client.DryRunAll); err == nil {
				t.Fatal("it can be created anew: nothing is wrong with it")
			}
			if err := merge(map[string]any{"metadata": map[string]any{"labels": map[string]any{"a": "b"}, "finalizers": []any{"example.com/hold"}}}); err != nil {
				t.Errorf("a label and a finalizer: %v", err)
			}
			o.SetLabels(map[string]string{"a": "c"})
			if err := s.admin.Update(t.Context(), o); err != nil {
				t.Errorf("an update of a label: %v", err)
			}
			status := map[string]any{"status": map[string]any{"metadata": map[string]any{"name": "x"}}}
			var err error
			if kind := o.GetKind(); kind == v1.KindAzureIdentity || kind == v1.KindAzureIdentityBinding {
				err = s.admin.Status().Patch(t.Context(), o, client.RawPatch(types.MergePatchType, encode(t, status)))
			} else {
				err = merge(status)
			}
			if err != nil {
				t.Errorf("status: %v", err)
			}
			if b.broken != nil {
				err := merge(map[string]any{"spec": b.broken})
				if !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), b.refused) {
					t.Errorf("a change of the spec that leaves it bad: error %v, want one about %s", err, b.refused)
				}
				if err := merge(map[string]any{"spec": b.heal}); err != nil {
					t.Errorf("a change of the spec that makes it good: %v", err)
				}
				if err := s.admin.Create(t.Context(), anew(o), client.DryRunAll); err != nil {
					t.Errorf("it was made good and still cannot be created anew: %v", err)
				}
				if err := merge(map[string]any{"spec": nil}); !apierrors.IsInvalid(err) {
					t.Errorf("taking the spec away: error %v, want it invalid", err)
				}
			}
			if err := merge(map[string]any{"metadata": map[string]any{"finalizers": nil}}); err != nil {
				t.Errorf("no finalizer: %v", err)
			}
			if err := s.admin.Delete(t.Context(), o); err != nil {
				t.Errorf("deleting: %v", err)
			}
			if err := s.admin.Get(t.Context(), client.ObjectKeyFromObject(o), o.DeepCopy()); !apierrors.IsNotFound(err) {
				t.Errorf("it is still there: %v", err)
			}
		})
	}
}

// anew is an object as somebody would write it who has never stored it.
func anew(o *unstructured.Unstructured) *unstructured.Unstructured {
	fresh := &unstructured.Unstructured{Object: map[string]any{}}
	fresh.SetGroupVersionKind(o.GroupVersionKind())
	fresh.SetNamespace(o.GetNamespace())
	fresh.SetName(o.GetName() + "-anew")
	fresh.SetAnnotations(o.GetAnnotations())
	if spec, ok := o.Object["spec"]; ok {
		fresh.Object["spec"] = spec
	}
	return fresh.DeepCopy()
}

// testUpgrade holds that MIC can put the capitalisation of names right, whatever else
// is wrong with the names of such an object.
func (s *server) testUpgrade(t *testing.T) {
	o := mutated(identity(), func(spec map[string]any) { spec["colour"] = "blue" })
	o.SetName("upgraded")
	if err := s.admin.Create(t.Context(), o.DeepCopy()); !apierrors.IsInvalid(err) {
		t.Errorf("a user: error %v, want it invalid", err)
	}
	if err := s.mic.Create(t.Context(), o); err != nil {
		t.Fatalf("MIC: %v", err)
	}
	if err := s.mic.Delete(t.Context(), o); err != nil {
		t.Error(err)
	}
}

// testCopies holds that MIC can write an AzureAssignedIdentity for objects that
// were stored before there were rules, which the copies in it are not to inherit.
func (s *server) testCopies(t *testing.T) {
	o := object(v1.KindAzureAssignedIdentity, "odd-copies", map[string]any{
		"pod": "web", "podNamespace": "default", "nodename": "node-0",
		"azureIdentityRef": map[string]any{
			"apiVersion": v1.GroupVersion.String(), "kind": v1.KindAzureIdentity, "metadata": map[string]any{"name": "demo", "namespace": "default"},
			"spec": map[string]any{
				"type": int64(9), "resourceID": strings.Repeat("x", 5000), "clientID": "", "tenantID": "no tenant", "adEndpoint": "http://" + strings.Repeat("x", 5000),
				"clientPassword": map[string]any{"name": strings.Repeat("X", 2000)}, "auxiliaryTenantIDs": []any{strings.Repeat("x", 2000)}, "OldName": "x",
			},
		},
		"azureBindingRef": map[string]any{
			"apiVersion": v1.GroupVersion.String(), "kind": v1.KindAzureIdentityBinding, "metadata": map[string]any{"name": "demo", "namespace": "default"},
			"spec": map[string]any{"selector": strings.Repeat("not a label", 500)},
		},
	})
	want := o.DeepCopy()
	if err := s.mic.Create(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	if _, kept, _ := unstructured.NestedString(o.Object, "spec", "azureIdentityRef", "spec", "OldName"); !kept {
		t.Error("a name that the copy has and nobody knows was pruned")
	}
	// A copy is still typed: one of a wrong type would keep MIC and NMI from reading
	// any.
	if err := unstructured.SetNestedField(want.Object, "0", "spec", "azureIdentityRef", "spec", "type"); err != nil {
		t.Fatal(err)
	}
	want.SetName("mistyped-copy")
	if err := s.mic.Create(t.Context(), want); !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), "spec.azureIdentityRef.spec.type") {
		t.Errorf("a mistyped copy: error %v, want it invalid", err)
	}
	if err := s.mic.Delete(t.Context(), o); err != nil {
		t.Error(err)
	}
}
