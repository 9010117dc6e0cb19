package attack

import (
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"

	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	"sigs.k8s.io/controller-runtime/pkg/envtest"
)

// TestUnreviewed has an API server one of whose authorizers cannot be asked: what no
// other allows is neither allowed nor denied. That is never a yes, and it is said.
func TestUnreviewed(t *testing.T) {
	var asked atomic.Int64
	authorizer := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		asked.Add(1)
		http.Error(w, "down", http.StatusNotFound) // which is not tried again, unlike a 500
	}))
	t.Cleanup(authorizer.Close)
	config := clientcmdapi.Config{
		Clusters:       map[string]*clientcmdapi.Cluster{"authorizer": {Server: authorizer.URL}},
		Contexts:       map[string]*clientcmdapi.Context{"authorizer": {Cluster: "authorizer"}},
		CurrentContext: "authorizer",
	}
	file := filepath.Join(t.TempDir(), "authorizer")
	raw, err := clientcmd.Write(config)
	check(t, err)
	check(t, os.WriteFile(file, raw, 0o600))
	s := startServer(t, func(a *envtest.APIServer) {
		a.Configure().
			Set("authorization-mode", "RBAC,Webhook").
			Set("authorization-webhook-version", "v1").
			Set("authorization-webhook-config-file", file)
	})
	s.install(t, []string{"--set", "webhook.requireUse=true"}, policyReferences, policyExceptions, policyUse)
	// RBAC allows them, and then nobody else is asked.
	const group = "aadpodidentity.k8s.io"
	s.grant(t, owner, "team-a", "", "secrets", "get", "sp")
	s.grant(t, owner, "team-a", group, "azureidentities", "use", "prod")
	s.grant(t, owner, "team-a", group, "azurepodidentityexceptions", "use", "e")

	asked.Store(0)
	for policy, attempts := range map[string]map[string]attempt{
		policyReferences: {
			"a Secret": {do: creates(principal("id")), refusal: "spec.clientPassword: whether mallory may get Secret team-a/sp could not be reviewed, so the request is refused; try again"},
			"a change": {stored: principal("id"), do: sets(int64(0), "spec", "type"), refusal: "could not be reviewed"},
		},
		policyExceptions: {
			"an exception": {do: creates(exception("e", "a", "b")), refusal: "whether mallory may use AzurePodIdentityException team-a/e could not be reviewed, so the request is refused; try again"},
		},
		policyUse: {
			"a binding": {do: creates(bound("b", "prod")), refusal: "whether mallory may use AzureIdentity team-a/prod could not be reviewed, so the request is refused; try again"},
		},
	} {
		s.try(t, policy, attempts)
	}
	if asked.Load() == 0 {
		t.Error("the authorizer was not asked: nothing was tried here")
	}
	s.pass(t, map[string]attempt{
		"no review is needed for what hands out nothing": {do: creates(managed("id"))},
		"nor to narrow": {stored: exception("e", "a", "b", "c", "d"), do: removes("spec", "podLabels", "c")},
		"nor to delete": {stored: principal("id"), do: deletes},
	})
}
