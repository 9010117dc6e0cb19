package attack

import (
	"context"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

const guid = "0f3c5e2a-91b7-4d1e-8c57-2b1f6a9d4e30"

// principal is an AzureIdentity that names the Secret team-a/sp.
func principal(name string, change ...func(spec map[string]any)) *unstructured.Unstructured {
	spec := map[string]any{
		"type": int64(1), "clientID": guid, "tenantID": guid,
		"clientPassword": map[string]any{"name": "sp", "namespace": "team-a"},
	}
	for _, c := range change {
		c(spec)
	}
	return object("AzureIdentity", "team-a", name, spec)
}

// with sets a field of a spec; nil removes it.
func with(key string, value any) func(map[string]any) {
	return func(spec map[string]any) {
		if value == nil {
			delete(spec, key)
			return
		}
		spec[key] = value
	}
}

// managed is an AzureIdentity without a reference.
func managed(name string, change ...func(spec map[string]any)) *unstructured.Unstructured {
	spec := map[string]any{
		"type": int64(0), "clientID": guid,
		"resourceID": "/subscriptions/" + guid + "/resourcegroups/rg/providers/Microsoft.ManagedIdentity/userAssignedIdentities/id",
	}
	for _, c := range change {
		c(spec)
	}
	return object("AzureIdentity", "team-a", name, spec)
}

// labelled copies an object and gives it a label.
func labelled(o *unstructured.Unstructured) *unstructured.Unstructured {
	o = o.DeepCopy()
	o.SetLabels(map[string]string{"touched": "yes"})
	return o
}

func (s *server) testReferences(t *testing.T) {
	old := []*unstructured.Unstructured{
		object("AzureIdentity", oldNamespace, "old-spelling", map[string]any{"Type": int64(1), "ClientPassword": map[string]any{"name": "sp", "namespace": "team-a"}}),
		object("AzureIdentity", oldNamespace, "old-endpoint", map[string]any{"type": int64(1), "adEndpoint": "http://adfs.example"}),
		object("AzureIdentity", oldNamespace, "old-secret", map[string]any{"type": int64(1), "clientPassword": map[string]any{"name": "sp", "namespace": "team-a"}}),
	}
	for _, o := range old {
		s.store(t, o)
	}
	rewrites := s.storeForRewriting(t)
	s.install(t, []string{"--set", "allowedAuthorityHosts={ADFS.example.com,10.0.0.4:8443}"}, policyReferences)
	// The attacker has a Secret too, and a right that does not help.
	s.grant(t, owner, "team-a", "", "secrets", "get", "sp", "another")
	s.grant(t, attacker, "team-a", "", "secrets", "get", "own")
	s.grant(t, attacker, "team-a", "", "secrets", "list")

	t.Run("stored objects that would be refused today", func(t *testing.T) { s.testStoredReferences(t, old) })
	t.Run("a Secret that one may not get", s.testSecrets)
	t.Run("what is sent away from a Secret that one may not get", s.testSecretChanges)
	t.Run("names that become the reference", s.testReferenceSpelling)
	t.Run("authorities", s.testAuthorities)
	t.Run("the status subresource writes no spec", s.testIdentityStatus)
	t.Run("MIC", func(t *testing.T) { s.testReferencesMIC(t, rewrites) })
}

func (s *server) testSecrets(t *testing.T) {
	const refusal = `mallory may not get Secret team-a/sp, and only who may get a Secret may name it`
	s.try(t, policyReferences, map[string]attempt{
		"named at creation":             {do: creates(principal("id")), refusal: refusal},
		"said with the rule that lacks": {do: creates(principal("id")), refusal: `a Role of namespace team-a would have to say {apiGroups: [""], resources: ["secrets"], resourceNames: ["sp"], verbs: ["get"]}`},
		"under a generated name":        {do: generates(principal("id")), refusal: refusal},
		"by server-side apply":          {do: applies(principal("id")), refusal: refusal},
		"by kubectl apply":              {do: kubectl(principal("id"), "apply"), refusal: refusal},
		"by kubectl create":             {do: kubectl(principal("id"), "create"), refusal: refusal},
		"with a certificate":            {do: creates(principal("id", with("type", int64(2)))), refusal: refusal},
		"of a type that uses none":      {do: creates(managed("id", with("clientPassword", map[string]any{"name": "sp", "namespace": "team-a"}))), refusal: refusal},
		"of a type that does not exist": {do: creates(principal("id", with("type", int64(7)))), refusal: refusal},
		"without a type":                {do: creates(principal("id", with("type", nil))), refusal: refusal},
		"without its namespace":         {do: creates(principal("id", with("clientPassword", map[string]any{"name": "sp"}))), refusal: refusal},
		"with an empty namespace":       {do: creates(principal("id", with("clientPassword", map[string]any{"name": "sp", "namespace": ""}))), refusal: refusal},
		"added by an update":            {stored: managed("id"), do: sets(map[string]any{"name": "sp", "namespace": "team-a"}, "spec", "clientPassword"), refusal: refusal},
		"in place of one's own":         {stored: principal("id", with("clientPassword", map[string]any{"name": "own", "namespace": "team-a"})), do: sets("sp", "spec", "clientPassword", "name"), refusal: refusal},
		"of another namespace":          {do: creates(principal("id", with("clientPassword", map[string]any{"name": "sp", "namespace": "kube-system"}))), refusal: "mallory may not get Secret kube-system/sp", by: nobody},
		"from another namespace":        {do: creates(object("AzureIdentity", "team-b", "id", principal("id").Object["spec"].(map[string]any))), refusal: refusal},
	})
	t.Run("a dry run is refused too", func(t *testing.T) {
		err := s.user(t, attacker).Create(t.Context(), principal("id"), client.DryRunAll)
		if err == nil || !strings.Contains(err.Error(), refusal) {
			t.Errorf("error %v", err)
		}
	})
	s.pass(t, map[string]attempt{
		"a Secret that one may get":       {do: creates(principal("id", with("clientPassword", map[string]any{"name": "own", "namespace": "team-a"})))},
		"no Secret":                       {do: creates(managed("id"))},
		"a reference that names nothing":  {do: creates(managed("id", with("clientPassword", map[string]any{"namespace": "team-a"})))},
		"an object without spec":          {do: creates(object("AzureIdentity", "team-a", "id", nil))},
		"to take the reference out":       {stored: principal("id"), do: removes("spec", "clientPassword")},
		"to point it at one's own Secret": {stored: principal("id"), do: sets("own", "spec", "clientPassword", "name")},
	})
}

func (s *server) testSecretChanges(t *testing.T) {
	const refusal = "mallory may not get Secret team-a/sp"
	changed := principal("id", with("adEndpoint", "https://login.microsoftonline.us/"))
	s.try(t, policyReferences, map[string]attempt{
		"only the authority":                    {stored: principal("id"), do: sets("https://login.microsoftonline.us/", "spec", "adEndpoint"), refusal: refusal},
		"only the authority, to one's own host": {stored: principal("id"), do: sets("https://evil.example/", "spec", "adEndpoint"), refusal: refusal, by: nobody},
		"only the type":                         {stored: principal("id"), do: sets(int64(0), "spec", "type"), refusal: refusal},
		"only the tenant":                       {stored: principal("id"), do: sets("evil.example", "spec", "tenantID"), refusal: refusal},
		"only the auxiliary tenants":            {stored: principal("id"), do: sets([]any{"evil.example"}, "spec", "auxiliaryTenantIDs"), refusal: refusal},
		"only the client ID":                    {stored: principal("id"), do: sets("another", "spec", "clientID"), refusal: refusal},
		"only a field without meaning":          {stored: principal("id"), do: sets(int64(2), "spec", "replicas"), refusal: refusal},
		"only a field nobody knows":             {stored: principal("id"), do: sets("x", "spec", "note"), refusal: refusal},
		"a field taken out":                     {stored: principal("id"), do: removes("spec", "tenantID"), refusal: refusal},
		"another Secret that one may not get":   {stored: principal("id"), do: sets("another", "spec", "clientPassword", "name"), refusal: "mallory may not get Secret team-a/another"},
		"the Secret's namespace taken out":      {stored: principal("id"), do: removes("spec", "clientPassword", "namespace"), refusal: refusal},
		"by merge patch":                        {stored: principal("id"), do: patches(types.MergePatchType, `{"spec":{"adEndpoint":"https://login.microsoftonline.us/"}}`), refusal: refusal},
		"by JSON patch":                         {stored: principal("id"), do: patches(types.JSONPatchType, `[{"op":"add","path":"/spec/adEndpoint","value":"https://login.microsoftonline.us/"}]`), refusal: refusal},
		"by server-side apply":                  {stored: principal("id"), do: applies(changed), refusal: refusal},
		"by kubectl apply":                      {stored: principal("id"), do: kubectl(changed, "apply"), refusal: refusal},
		"by kubectl apply --server-side":        {stored: principal("id"), do: kubectl(changed, "apply", "--server-side", "--force-conflicts"), refusal: refusal},
		"by kubectl replace":                    {stored: principal("id"), do: kubectl(changed, "replace"), refusal: refusal},
		"by kubectl patch": {stored: principal("id"), refusal: refusal, do: func(ctx context.Context, u *user, _ *unstructured.Unstructured) error {
			return u.run(ctx, "", "patch", "azureidentity", "id", "-n", "team-a", "--type=merge", "-p", `{"spec":{"adEndpoint":"https://login.microsoftonline.us/"}}`)
		}},
	})
	s.pass(t, map[string]attempt{
		"a label":       {stored: principal("id"), do: sets("y", "metadata", "labels", "x")},
		"an annotation": {stored: principal("id"), do: patches(types.MergePatchType, `{"metadata":{"annotations":{"x":"y"}}}`)},
		"a finalizer":   {stored: principal("id"), do: sets([]any{"example.com/f"}, "metadata", "finalizers")},
		"nothing": {stored: principal("id"), do: func(ctx context.Context, u *user, stored *unstructured.Unstructured) error {
			return u.Update(ctx, stored)
		}},
		"to delete it":    {stored: principal("id"), do: deletes},
		"a label applied": {stored: principal("id"), do: applies(labelled(object("AzureIdentity", "team-a", "id", nil)))},
	})
}

// What MIC or an older release would take for clientPassword or adEndpoint.
func (s *server) testReferenceSpelling(t *testing.T) {
	secret := map[string]any{"name": "sp", "namespace": "team-a"}
	attempts := map[string]attempt{}
	for _, name := range []string{"ClientPassword", "clientpassword", "CLIENTPASSWORD", "clientPas\u017fword"} {
		attempts["created as "+name] = attempt{do: creates(managed("id", with(name, secret))), refusal: name + `: miscapitalised`, by: nobody}
		attempts["created beside one's own as "+name] = attempt{
			do:      creates(principal("id", with(name, secret), with("clientPassword", map[string]any{"name": "own", "namespace": "team-a"}))),
			refusal: name + `: miscapitalised`, by: nobody}
		attempts["added as "+name] = attempt{stored: managed("id"), do: sets(secret, "spec", name), refusal: name + `: miscapitalised`, by: nobody}
	}
	for _, name := range []string{"Name", "NAME", "Namespace"} {
		attempts["created with "+name] = attempt{
			do: creates(principal("id", with("clientPassword", map[string]any{"name": "own", "namespace": "team-a", name: "sp"}))), refusal: name + `: miscapitalised`, by: nobody}
	}
	for _, name := range []string{"ADEndpoint", "adendpoint", "AdEndpoint"} {
		attempts["an authority as "+name] = attempt{stored: managed("id"), do: sets("https://evil.example", "spec", name), refusal: name + `: miscapitalised`, by: nobody}
	}
	s.try(t, policyReferences, attempts)
}

func (s *server) testAuthorities(t *testing.T) {
	const refusal = "spec.adEndpoint: must be https://<host> or https://<host>/<path> with one of the hosts login.microsoftonline.com, login.microsoftonline.us, " +
		"login.partner.microsoftonline.cn, login.chinacloudapi.cn, adfs.example.com, 10.0.0.4:8443;"
	attempts := map[string]attempt{}
	for _, url := range []string{
		"https://evil.example", "https://evil.example/login.microsoftonline.com", "https://evil.example/?https://login.microsoftonline.com/",
		"https://login.microsoftonline.com@evil.example", "https://login.microsoftonline.com:443@evil.example/", "https://login.microsoftonline.com:x@evil.example/",
		"https://me@login.microsoftonline.com/", "https://login.microsoftonline.com.evil.example", "https://evil-login.microsoftonline.com", "https://x.login.microsoftonline.com",
		"https://login.microsoftonline.com.", "https://login.microsoftonline.com./", "https://LOGIN.MICROSOFTONLINE.COM.EVIL.EXAMPLE/",
		"https://login.microsoftonline.com:443:443/", "https://login.microsoftonline.com:8443", "https://login.microsoftonline.com:/",
		"http://login.microsoftonline.com/", "ftp://login.microsoftonline.com/", "login.microsoftonline.com", "//login.microsoftonline.com/", "https:login.microsoftonline.com",
		"https:/login.microsoftonline.com", "https:///login.microsoftonline.com", `https:\\login.microsoftonline.com\`, `https://login.microsoftonline.com\@evil.example/`, `https://evil.example\login.microsoftonline.com`,
		"https://login.microsoftonline.com?@evil.example", "https://login.microsoftonline.com#@evil.example", "https://login.microsoftonline.com%2f@evil.example/", "https://login.microsoftonline.com%00.evil.example/",
		" https://login.microsoftonline.com", "https://login.microsoftonline.com /", "https://login.microsoftonline.com\t/", "https://evil.example\n/login.microsoftonline.com", "https://login.microsoftonline.com\n@evil.example/",
		"https://login.micro\u017foftonline.com/", "https://login.microsoftonline.com\u3002evil.example/", "https://login\u3002microsoftonline\u3002com/", "https://", "https://[::1]/", "x",
		"https://adfs.example.com:8443/", "https://10.0.0.4/", "https://10.0.0.4:443/", "https://10.0.0.4:8443@evil.example/", "https://10.0.0.4:84433/", "https://evil.example:443", "https://:443", "https://x@login.microsoftonline.com:443",
	} {
		attempts[url] = attempt{do: creates(managed("id", with("adEndpoint", url))), refusal: refusal, by: nobody}
	}
	attempts["changed"] = attempt{stored: managed("id"), do: sets("https://evil.example", "spec", "adEndpoint"), refusal: refusal, by: nobody}
	attempts["with a Secret of one's own"] = attempt{
		do:      creates(principal("id", with("adEndpoint", "https://evil.example"), with("clientPassword", map[string]any{"name": "own", "namespace": "team-a"}))),
		refusal: refusal, by: nobody}
	s.try(t, policyReferences, attempts)
	t.Run("an administrator is refused as well, and would have to allow the host", func(t *testing.T) {
		err := s.admin.Create(t.Context(), managed("id", with("adEndpoint", "https://evil.example")), client.DryRunAll)
		if err == nil || !strings.Contains(err.Error(), "the chart's value allowedAuthorityHosts adds others") {
			t.Errorf("error %v", err)
		}
	})
	fine := map[string]attempt{}
	for _, url := range []string{
		"", "https://login.microsoftonline.com", "https://login.microsoftonline.com/", "https://LOGIN.microsoftonline.com/", "HTTPS://login.microsoftonline.com", "https://login.microsoftonline.us/", "https://login.partner.microsoftonline.cn/",
		"https://login.chinacloudapi.cn", "https://adfs.example.com/adfs", "https://Adfs.Example.Com", "https://10.0.0.4:8443/", "https://login.microsoftonline.com:443", "https://adfs.example.com:443/adfs", "https://login.microsoftonline.com/a@b",
	} {
		fine["fine: "+url] = attempt{do: creates(managed("id", with("adEndpoint", url)))}
	}
	s.pass(t, fine)
}

func (s *server) testIdentityStatus(t *testing.T) {
	t.Cleanup(func() { s.clear(t, []string{"AzureIdentity"}) })
	stored := s.store(t, principal("id"))
	changed := stored.DeepCopy()
	check(t, unstructured.SetNestedField(changed.Object, "https://evil.example", "spec", "adEndpoint"))
	check(t, unstructured.SetNestedField(changed.Object, int64(3), "status", "availableReplicas"))
	mallory := s.user(t, attacker)
	check(t, mallory.Status().Update(t.Context(), changed))
	check(t, mallory.Status().Patch(t.Context(), stored.DeepCopy(), client.RawPatch(types.MergePatchType, []byte(`{"spec":{"adEndpoint":"https://evil.example"}}`))))
	check(t, s.admin.Get(t.Context(), client.ObjectKeyFromObject(stored), changed))
	if got, found, _ := unstructured.NestedString(changed.Object, "spec", "adEndpoint"); found {
		t.Errorf("spec.adEndpoint is %q", got)
	}
	if got, _, _ := unstructured.NestedInt64(changed.Object, "status", "availableReplicas"); got != 3 {
		t.Errorf("status was not written: %v", changed.Object["status"])
	}
	if err := mallory.SubResource("scale").Get(t.Context(), stored, changed.DeepCopy()); err == nil {
		t.Error("there is a scale subresource, which writes spec")
	}
}

func (s *server) testStoredReferences(t *testing.T, old []*unstructured.Unstructured) {
	mallory := s.user(t, attacker)
	for _, o := range old {
		t.Run(o.GetName(), func(t *testing.T) {
			now := o.DeepCopy()
			check(t, s.admin.Get(t.Context(), client.ObjectKeyFromObject(o), now))
			now.SetLabels(map[string]string{"x": "y"})
			if err := mallory.Update(t.Context(), now); err != nil {
				t.Errorf("a label: %v", err)
			}
			check(t, unstructured.SetNestedField(now.Object, int64(1), "spec", "replicas"))
			if err := mallory.Update(t.Context(), now); err == nil {
				t.Error("the spec was changed and stays what would be refused today")
			}
			if err := mallory.Delete(t.Context(), now); err != nil {
				t.Errorf("deleting it: %v", err)
			}
		})
	}
}

// pretenders have names like MIC's.
var pretenders = []string{
	"system:serviceaccount:team-a:aad-pod-identity-mic",
	"system:serviceaccount:" + releaseNamespace + ":aad-pod-identity-mic2",
	"system:serviceaccount:" + releaseNamespace + ":default",
	"System:ServiceAccount:" + releaseNamespace + ":aad-pod-identity-mic",
	"aad-pod-identity-mic",
}
