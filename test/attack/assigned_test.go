package attack

import (
	"context"
	"strings"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// assigned is an AzureAssignedIdentity as MIC writes it.
func assigned(name string) *unstructured.Unstructured {
	o := object("AzureAssignedIdentity", "team-a", name, map[string]any{
		"pod": "web", "podNamespace": "team-a", "nodename": "node-1",
		"azureIdentityRef": map[string]any{
			"apiVersion": "aadpodidentity.k8s.io/v1", "kind": "AzureIdentity",
			"metadata": map[string]any{"name": "id", "namespace": "team-a", "uid": "u"},
			"spec":     map[string]any{"type": int64(0), "clientID": guid, "resourceID": "r"},
		},
		"azureBindingRef": map[string]any{
			"apiVersion": "aadpodidentity.k8s.io/v1", "kind": "AzureIdentityBinding",
			"metadata": map[string]any{"name": "b", "namespace": "team-a"},
			"spec":     map[string]any{"azureIdentity": "id", "selector": "web"},
		},
	})
	o.SetLabels(map[string]string{"nodename": "node-1"})
	o.SetAnnotations(map[string]string{"aadpodidentity.k8s.io/pod-uid": "uid-1"})
	o.SetFinalizers([]string{"azureassignedidentity.finalizers.aadpodidentity.k8s.io"})
	o.Object["status"] = map[string]any{"status": "Created", "availableReplicas": int64(1)}
	return o
}

// changed returns a copy with another value of a field.
func changed(o *unstructured.Unstructured, value any, path ...string) *unstructured.Unstructured {
	o = o.DeepCopy()
	if err := unstructured.SetNestedField(o.Object, value, path...); err != nil {
		return nil
	}
	return o
}

func (s *server) testAssigned(t *testing.T) {
	s.install(t, nil, policyAssigned)
	const (
		create = "only MIC (" + micUser + ") may create an AzureAssignedIdentity"
		spec   = "may change the spec of an AzureAssignedIdentity"
		status = "may change the status of an AzureAssignedIdentity"
		labels = "may change the labels of an AzureAssignedIdentity"
		uid    = "may change the annotation aadpodidentity.k8s.io/pod-uid of an AzureAssignedIdentity"
	)
	attempts := map[string]attempt{
		"forged":                              {do: creates(assigned("a")), refusal: create},
		"forged under a generated name":       {do: generates(assigned("a")), refusal: create},
		"forged by server-side apply":         {do: applies(assigned("a")), refusal: create},
		"forged by kubectl apply":             {do: kubectl(assigned("a"), "apply"), refusal: create},
		"forged without a status":             {do: creates(object("AzureAssignedIdentity", "team-a", "a", assigned("a").Object["spec"].(map[string]any))), refusal: create},
		"another pod":                         {stored: assigned("a"), do: sets("evil", "spec", "pod"), refusal: spec},
		"another pod's namespace":             {stored: assigned("a"), do: sets("evil", "spec", "podNamespace"), refusal: spec},
		"another node":                        {stored: assigned("a"), do: sets("node-2", "spec", "nodename"), refusal: spec},
		"another identity":                    {stored: assigned("a"), do: sets("evil", "spec", "azureIdentityRef", "spec", "clientID"), refusal: spec},
		"another selector":                    {stored: assigned("a"), do: sets("evil", "spec", "azureBindingRef", "spec", "selector"), refusal: spec},
		"the confinement of the identity":     {stored: assigned("a"), do: sets(map[string]any{"x": "y"}, "spec", "azureIdentityRef", "metadata", "annotations"), refusal: spec},
		"an unknown field":                    {stored: assigned("a"), do: sets("evil", "spec", "Pod"), refusal: spec},
		"the spec taken out":                  {stored: assigned("a"), do: removes("spec"), refusal: spec},
		"the status":                          {stored: assigned("a"), do: sets("Assigned", "status", "status"), refusal: status},
		"the status by merge patch":           {stored: assigned("a"), do: patches(types.MergePatchType, `{"status":{"status":"Assigned"}}`), refusal: status},
		"the status by JSON patch":            {stored: assigned("a"), do: patches(types.JSONPatchType, `[{"op":"replace","path":"/status/status","value":"Assigned"}]`), refusal: status},
		"the status by server-side apply":     {stored: assigned("a"), do: applies(changed(assigned("a"), "Assigned", "status", "status")), refusal: status},
		"the status taken out":                {stored: assigned("a"), do: removes("status"), refusal: status},
		"the label that NMI selects by":       {stored: assigned("a"), do: sets("node-2", "metadata", "labels", "nodename"), refusal: labels},
		"another label":                       {stored: assigned("a"), do: sets("y", "metadata", "labels", "x"), refusal: labels},
		"no labels":                           {stored: assigned("a"), do: removes("metadata", "labels"), refusal: labels},
		"another pod of the name":             {stored: assigned("a"), do: sets("uid-2", "metadata", "annotations", "aadpodidentity.k8s.io/pod-uid"), refusal: uid},
		"any pod of the name":                 {stored: assigned("a"), do: patches(types.MergePatchType, `{"metadata":{"annotations":null}}`), refusal: uid},
		"the spec by kubectl replace":         {stored: assigned("a"), do: kubectl(changed(assigned("a"), "evil", "spec", "pod"), "replace"), refusal: spec},
		"the spec by kubectl apply":           {stored: assigned("a"), do: kubectl(changed(assigned("a"), "evil", "spec", "pod"), "apply"), refusal: spec},
		"the spec while finalizers are taken": {stored: assigned("a"), do: patches(types.MergePatchType, `{"metadata":{"finalizers":null},"spec":{"pod":"evil"}}`), refusal: spec},
		"the status by kubectl patch": {stored: assigned("a"), refusal: status, do: func(ctx context.Context, u *user, _ *unstructured.Unstructured) error {
			return u.run(ctx, "", "patch", "azureassignedidentity", "a", "-n", "team-a", "--type=merge", "-p", `{"status":{"status":"Assigned"}}`)
		}},
		"the label by kubectl label": {stored: assigned("a"), refusal: labels, do: func(ctx context.Context, u *user, _ *unstructured.Unstructured) error {
			return u.run(ctx, "", "label", "azureassignedidentity", "a", "-n", "team-a", "--overwrite", "nodename=node-2")
		}},
	}
	for name, a := range attempts {
		a.by = micUser
		attempts[name] = a
	}
	s.try(t, policyAssigned, attempts)
	s.pass(t, map[string]attempt{
		"finalizers taken out": {stored: assigned("a"), do: removes("metadata", "finalizers")},
		"another annotation":   {stored: assigned("a"), do: sets("y", "metadata", "annotations", "x")},
		"to delete it":         {stored: assigned("a"), do: deletes},
	})
	for _, name := range append(pretenders, "admin") {
		t.Run(name+" is not MIC", func(t *testing.T) {
			err := s.user(t, name).Create(t.Context(), assigned("a"))
			if err == nil || !strings.Contains(err.Error(), create) {
				t.Errorf("error %v", err)
			}
		})
	}
	t.Run("a cluster's administrator is not MIC either", func(t *testing.T) {
		if err := s.admin.Create(t.Context(), assigned("a")); err == nil || !strings.Contains(err.Error(), create) {
			t.Errorf("error %v", err)
		}
	})
	t.Run("there is no subresource beside the object", func(t *testing.T) {
		t.Cleanup(func() { s.clear(t, []string{"AzureAssignedIdentity"}) })
		o := s.store(t, assigned("a"))
		mallory := s.user(t, attacker)
		for _, sub := range []string{"status", "scale"} {
			err := mallory.SubResource(sub).Patch(t.Context(), o.DeepCopy(), client.RawPatch(types.MergePatchType, []byte(`{"status":{"status":"Assigned"}}`)))
			if !apierrors.IsNotFound(err) {
				t.Errorf("%s: error %v", sub, err)
			}
		}
	})
}
