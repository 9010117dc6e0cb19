package attack

import (
	"context"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// exception is an AzurePodIdentityException of team-a.
func exception(name string, pairs ...string) *unstructured.Unstructured {
	labels := map[string]any{}
	for i := 0; i+1 < len(pairs); i += 2 {
		labels[pairs[i]] = pairs[i+1]
	}
	return object("AzurePodIdentityException", "team-a", name, map[string]any{"podLabels": labels})
}

func (s *server) testExceptions(t *testing.T) {
	old := s.store(t, object("AzurePodIdentityException", oldNamespace, "old", map[string]any{"PodLabels": map[string]any{"app": "a"}}))
	s.install(t, nil, policyExceptions)
	const group, resource = "aadpodidentity.k8s.io", "azurepodidentityexceptions"
	s.grant(t, owner, "team-a", group, resource, "use")
	s.grant(t, "nina", "team-a", group, resource, "use", "named")
	// Rights that do not help.
	s.grant(t, attacker, "team-b", group, resource, "use")
	s.grant(t, attacker, "team-a", group, "azureidentities", "use")
	s.grant(t, attacker, "team-a", group, resource, "use", "e2", "e-")

	const refusal = `an AzurePodIdentityException hands the node's own identity to the pods it matches: to create or widen one, mallory needs the verb "use" on it`
	two := exception("e", "app", "proxy", "tier", "node")
	wider := exception("e", "app", "proxy", "tier", "node", "team", "a")
	misspelt := func(name string) func(context.Context, *user, *unstructured.Unstructured) error {
		return sets(map[string]any{"team": "a"}, "spec", name)
	}
	s.try(t, policyExceptions, map[string]attempt{
		"created":                             {do: creates(two), refusal: refusal},
		"created, said with the rule":         {do: creates(two), refusal: `a Role of namespace team-a would have to say {apiGroups: ["aadpodidentity.k8s.io"], resources: ["azurepodidentityexceptions"], resourceNames: ["e"], verbs: ["use"]}`},
		"created without labels":              {do: creates(exception("e")), refusal: refusal},
		"created without a spec":              {do: creates(object("AzurePodIdentityException", "team-a", "e", nil)), refusal: refusal},
		"created by server-side apply":        {do: applies(two), refusal: refusal},
		"created by kubectl apply":            {do: kubectl(two, "apply"), refusal: refusal},
		"created under a generated name":      {do: generates(two), refusal: `a Role of namespace team-a would have to say {apiGroups: ["aadpodidentity.k8s.io"], resources: ["azurepodidentityexceptions"], verbs: ["use"]}`},
		"created in another spelling":         {do: creates(object("AzurePodIdentityException", "team-a", "e", map[string]any{"PodLabels": map[string]any{"app": "a"}})), refusal: refusal},
		"created as the right user of a name": {do: creates(exception("named", "a", "b")), refusal: refusal, by: "nina"},
		"created with a right for a prefix":   {do: creates(exception("e-1", "a", "b")), refusal: refusal},

		"widened by a pair":               {stored: two, do: sets("a", "spec", "podLabels", "team"), refusal: refusal},
		"widened by another value":        {stored: two, do: sets("web", "spec", "podLabels", "app"), refusal: refusal},
		"widened by another key":          {stored: two, do: sets(map[string]any{"application": "proxy", "tier": "node"}, "spec", "podLabels"), refusal: refusal},
		"widened while another pair goes": {stored: two, do: sets(map[string]any{"app": "proxy", "team": "a"}, "spec", "podLabels"), refusal: refusal},
		"widened by two swapped values":   {stored: two, do: sets(map[string]any{"app": "node", "tier": "proxy"}, "spec", "podLabels"), refusal: refusal},
		"widened from nothing":            {stored: exception("e"), do: sets("proxy", "spec", "podLabels", "app"), refusal: refusal},
		"widened by merge patch":          {stored: two, do: patches(types.MergePatchType, `{"spec":{"podLabels":{"team":"a"}}}`), refusal: refusal},
		"widened by JSON patch":           {stored: two, do: patches(types.JSONPatchType, `[{"op":"replace","path":"/spec/podLabels/app","value":"web"}]`), refusal: refusal},
		"widened by server-side apply":    {stored: two, do: applies(wider), refusal: refusal},
		"widened by kubectl apply":        {stored: two, do: kubectl(wider, "apply"), refusal: refusal},
		"widened by kubectl replace":      {stored: two, do: kubectl(wider, "replace"), refusal: refusal},
		"widened as PodLabels":            {stored: two, do: misspelt("PodLabels"), refusal: refusal},
		"widened as podlabels":            {stored: two, do: misspelt("podlabels"), refusal: refusal},
		"widened as podLabel\u017f":       {stored: two, do: misspelt("podLabel\u017f"), refusal: refusal},
		"a name like the release's":       {do: creates(exception("mic", "app", "mic", "component", "mic", "app.kubernetes.io/component", "mic")), refusal: refusal},
	})
	s.try(t, policyExceptions, map[string]attempt{
		"the release's own with another pair": {
			do:      creates(object("AzurePodIdentityException", releaseNamespace, "mic", map[string]any{"podLabels": map[string]any{"app": "web"}})),
			refusal: refusal, by: nobody},
		"the release's own with a pair more": {
			do: creates(object("AzurePodIdentityException", "kube-system", "aks-addon-exception", map[string]any{
				"podLabels": map[string]any{"kubernetes.azure.com/managedby": "aks", "app": "web"}})),
			refusal: refusal, by: nobody},
		"the release's own with a field more": {
			do: creates(object("AzurePodIdentityException", "kube-system", "aks-addon-exception", map[string]any{
				"podLabels": map[string]any{"kubernetes.azure.com/managedby": "aks"}, "PodLabels": map[string]any{"app": "web"}})),
			refusal: refusal, by: nobody},
		"the release's own under a generated name": {
			do: generates(object("AzurePodIdentityException", "kube-system", "aks-addon-exception", map[string]any{
				"podLabels": map[string]any{"kubernetes.azure.com/managedby": "aks"}})),
			refusal: refusal, by: nobody},
	})
	s.pass(t, map[string]attempt{
		"a pair taken out":       {stored: two, do: removes("spec", "podLabels", "tier")},
		"a pair patched out":     {stored: two, do: patches(types.MergePatchType, `{"spec":{"podLabels":{"tier":null}}}`)},
		"all pairs taken out":    {stored: two, do: sets(map[string]any{}, "spec", "podLabels")},
		"podLabels taken out":    {stored: two, do: removes("spec", "podLabels")},
		"the spec taken out":     {stored: two, do: removes("spec")},
		"a label":                {stored: two, do: sets("y", "metadata", "labels", "x")},
		"a finalizer":            {stored: two, do: sets([]any{"example.com/f"}, "metadata", "finalizers")},
		"to delete it":           {stored: two, do: deletes},
		"one with a right by it": {do: creates(exception("e2", "a", "b"))},
	})
	t.Run("a right to one name is none to another, nor to a generated one", func(t *testing.T) {
		nina := s.user(t, "nina")
		for _, do := range []func(context.Context, *user, *unstructured.Unstructured) error{creates(two), generates(exception("named", "a", "b"))} {
			if err := do(t.Context(), nina, nil); err == nil || !strings.Contains(err.Error(), `nina needs the verb "use"`) {
				t.Errorf("error %v", err)
			}
		}
	})
	t.Run("whoever runs Helm installs the release's own", func(t *testing.T) {
		t.Cleanup(func() { s.clear(t, []string{"AzurePodIdentityException"}) })
		own := render(t, "AzurePodIdentityException")
		if len(own) != 2 {
			t.Fatalf("the chart has %d exceptions", len(own))
		}
		helm := s.user(t, "helm")
		for _, o := range own {
			if err := helm.Create(t.Context(), o.DeepCopy()); err != nil {
				t.Errorf("helm install: %v", err)
			}
			if err := applies(labelled(o))(t.Context(), helm, nil); err != nil {
				t.Errorf("helm upgrade: %v", err)
			}
		}
		if err := s.admin.Create(t.Context(), two.DeepCopy()); err != nil {
			t.Errorf("a cluster's administrator: %v", err)
		}
	})
	s.onlyMICRewrites(t, old, map[string]any{"podLabels": map[string]any{"app": "a"}}, two)
	t.Run("stored ones from before keep their labels and can be deleted", func(t *testing.T) {
		now := old.DeepCopy()
		check(t, s.admin.Get(t.Context(), client.ObjectKeyFromObject(old), now))
		now.SetLabels(map[string]string{"x": "y"})
		mallory := s.user(t, attacker)
		check(t, mallory.Update(t.Context(), now))
		check(t, mallory.Delete(t.Context(), now))
	})
}
