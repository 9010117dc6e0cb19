package attack

import (
	"context"
	"testing"

	authorizationv1 "k8s.io/api/authorization/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// bound is an AzureIdentityBinding of team-a.
func bound(name, identity string, change ...func(spec map[string]any)) *unstructured.Unstructured {
	spec := map[string]any{"azureIdentity": identity, "selector": "web"}
	for _, c := range change {
		c(spec)
	}
	return object("AzureIdentityBinding", "team-a", name, spec)
}

func (s *server) testUse(t *testing.T) {
	old := s.store(t, object("AzureIdentityBinding", oldNamespace, "old", map[string]any{"AzureIdentity": "prod", "Selector": "web"}))
	s.install(t, []string{"--set", "webhook.requireUse=true"}, policyUse)
	const group, resource = "aadpodidentity.k8s.io", "azureidentities"
	s.grant(t, owner, "team-a", group, resource, "use", "prod", "other")
	// Rights that do not help.
	s.grant(t, attacker, "team-a", group, resource, "use", "own")
	s.grant(t, attacker, "team-b", group, resource, "use")
	s.grant(t, attacker, "team-a", group, "azureidentitybindings", "use")
	s.grant(t, attacker, "team-a", group, resource, "update")

	const refusal = `spec.azureIdentity: a binding gives pods tokens of AzureIdentity team-a/prod, so mallory needs the verb "use" on it`
	prod := bound("b", "prod")
	s.try(t, policyUse, map[string]attempt{
		"created":                      {do: creates(prod), refusal: refusal},
		"created, said with the rule":  {do: creates(prod), refusal: `a Role of namespace team-a would have to say {apiGroups: ["aadpodidentity.k8s.io"], resources: ["azureidentities"], resourceNames: ["prod"], verbs: ["use"]}`},
		"under a generated name":       {do: generates(prod), refusal: refusal},
		"by server-side apply":         {do: applies(prod), refusal: refusal},
		"by kubectl apply":             {do: kubectl(prod, "apply"), refusal: refusal},
		"by kubectl create":            {do: kubectl(prod, "create"), refusal: refusal},
		"with another weight":          {stored: prod, do: sets(int64(2), "spec", "weight"), refusal: refusal},
		"turned to other pods":         {stored: prod, do: sets("evil", "spec", "selector"), refusal: refusal},
		"turned by merge patch":        {stored: prod, do: patches(types.MergePatchType, `{"spec":{"selector":"evil"}}`), refusal: refusal},
		"turned by JSON patch":         {stored: prod, do: patches(types.JSONPatchType, `[{"op":"replace","path":"/spec/selector","value":"evil"}]`), refusal: refusal},
		"turned by server-side apply":  {stored: prod, do: applies(bound("b", "prod", with("selector", "evil"))), refusal: refusal},
		"turned by kubectl replace":    {stored: prod, do: kubectl(bound("b", "prod", with("selector", "evil")), "replace"), refusal: refusal},
		"pointed at it":                {stored: bound("b", "own"), do: sets("prod", "spec", "azureIdentity"), refusal: refusal},
		"pointed at another":           {stored: prod, do: sets("other", "spec", "azureIdentity"), refusal: "AzureIdentity team-a/other, so mallory"},
		"an unknown field":             {stored: prod, do: sets("x", "spec", "note"), refusal: refusal},
		"without an identity":          {do: creates(bound("b", "prod", with("azureIdentity", nil))), refusal: "AzureIdentity team-a/, so mallory", by: nobody},
		"by a path":                    {do: creates(bound("b", "own/../prod")), refusal: "AzureIdentity team-a/own/../prod, so mallory", by: nobody},
		"of another case":              {do: creates(bound("b", "OWN")), refusal: "AzureIdentity team-a/OWN, so mallory", by: nobody},
		"as AzureIdentity":             {do: creates(bound("b", "own", with("AzureIdentity", "prod"))), refusal: "AzureIdentity: miscapitalised", by: nobody},
		"as AzureIdentity alone":       {do: creates(bound("b", "own", with("azureIdentity", nil), with("AzureIdentity", "prod"))), refusal: "AzureIdentity: miscapitalised", by: nobody},
		"as azureidentity, added":      {stored: bound("b", "own"), do: sets("prod", "spec", "azureidentity"), refusal: "azureidentity: miscapitalised", by: nobody},
		"as a right in a stored label": {stored: prod, do: patches(types.MergePatchType, `{"metadata":{"labels":{"x":"y"}},"spec":{"selector":"evil"}}`), refusal: refusal},
	})
	s.pass(t, map[string]attempt{
		"one's own":       {do: creates(bound("b", "own"))},
		"one's own again": {stored: bound("b", "own"), do: sets("evil", "spec", "selector")},
		"a label":         {stored: prod, do: sets("y", "metadata", "labels", "x")},
		"a finalizer":     {stored: prod, do: sets([]any{"example.com/f"}, "metadata", "finalizers")},
		"to delete it":    {stored: prod, do: deletes},
		"the status, which writes no spec": {stored: prod, do: func(ctx context.Context, u *user, stored *unstructured.Unstructured) error {
			if err := unstructured.SetNestedField(stored.Object, "evil", "spec", "selector"); err != nil {
				return err
			}
			return u.Status().Update(ctx, stored)
		}},
	})
	t.Run("MIC and the webhook may ask for rights by the chart's roles, and other roles do not let them", s.testMayAsk)
	s.onlyMICRewrites(t, old, map[string]any{"azureIdentity": "prod", "selector": "web"}, prod)
}

func (s *server) testMayAsk(t *testing.T) {
	for _, component := range []string{"mic", "webhook"} {
		name := "aad-pod-identity-" + component
		program := s.user(t, "system:serviceaccount:"+releaseNamespace+":"+name)
		ask := func() error {
			return program.Create(t.Context(), &authorizationv1.SubjectAccessReview{Spec: authorizationv1.SubjectAccessReviewSpec{
				User: "x", ResourceAttributes: &authorizationv1.ResourceAttributes{Verb: "use"}}})
		}
		install := func(args ...string) {
			for _, kind := range []string{"ClusterRole", "ClusterRoleBinding"} {
				for _, o := range render(t, kind, args...) {
					if o.GetName() == name {
						check(t, s.admin.Apply(t.Context(), client.ApplyConfigurationFromUnstructured(o), client.ForceOwnership, client.FieldOwner("test")))
					}
				}
			}
		}
		install()
		s.waitAllowed(t, program.name, authorizationv1.ResourceAttributes{Group: "aadpodidentity.k8s.io", Resource: "azureidentities", Verb: "list"})
		if err := ask(); !apierrors.IsForbidden(err) {
			t.Errorf("%s without requireUse: error %v", component, err)
		}
		install("--set", "webhook.requireUse=true")
		s.eventually(t, component+" with requireUse", ask)
	}
}
