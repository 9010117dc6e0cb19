package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aad-pod-identity/aad-pod-identity/test/azure"
	"github.com/aad-pod-identity/aad-pod-identity/test/cluster/image"
	"github.com/aad-pod-identity/aad-pod-identity/test/soak"
	"github.com/aad-pod-identity/aad-pod-identity/test/stack"
)

// clientImages are the programs that ask for tokens, besides the client of all
// tests. The pod's containers are named after them.
func clientImages() []image.Spec {
	const repository, older = "aad-pod-identity.local/", "test/client/older"
	return []image.Spec{
		{Name: repository + "azidentity2024:v1", GoPackage: "./azidentity2024", ModuleDir: older, Pinned: true, Path: "/client", Cmd: []string{"wait"}},
		{Name: repository + "adal:v1", GoPackage: "./adal", ModuleDir: older, Pinned: true, Path: "/client", Cmd: []string{"wait"}},
		{Name: repository + "curl:v1", GoPackage: "./test/client", Cmd: []string{"wait"}, DebianPackages: []string{"curl"}},
	}
}

// asking is how a token is asked for.
type asking struct {
	// clientID and resourceID name the identity; with neither it is the pod's first.
	clientID, resourceID string
	// host is that of the resource.
	host string
	// once leaves out the client's own retries; timeout is its patience.
	once    bool
	timeout time.Duration
}

func (a asking) String() string {
	switch {
	case a.clientID != "":
		return "by client ID"
	case a.resourceID != "":
		return "by resource ID"
	}
	return "without naming an identity"
}

func (a asking) patience() time.Duration {
	if a.timeout == 0 {
		return 80 * time.Second
	}
	return a.timeout
}

// realClient is a program as it is used in pods.
type realClient struct {
	name, container string
	// byResourceID says whether it can name an identity so.
	byResourceID bool
	command      func(asking) []string
	// whose is how its output says whose token it got.
	whose func(id azure.Identity) string
}

func realClients() []realClient {
	appID := func(id azure.Identity) string { return `"appid": "` + id.ClientID + `"` }
	sdk := func(further ...string) func(asking) []string {
		return func(a asking) []string {
			args := append([]string{"/client", "token", "--scope=https://" + a.host + "/.default", "--timeout=" + a.patience().String()}, further...)
			if a.once {
				args = append(args, "--once")
			}
			if a.clientID != "" {
				args = append(args, "--client-id="+a.clientID)
			}
			if a.resourceID != "" {
				args = append(args, "--resource-id="+a.resourceID)
			}
			return args
		}
	}
	curl := func(a asking) []string {
		q := url.Values{"api-version": {"2018-02-01"}, "resource": {"https://" + a.host}}
		if a.clientID != "" {
			q.Set("client_id", a.clientID)
		}
		if a.resourceID != "" {
			q.Set("msi_res_id", a.resourceID)
		}
		return []string{
			"curl", "-sS", "--fail-with-body", "--max-time", fmt.Sprint(a.patience().Seconds()), "-H", "Metadata: true",
			"http://169.254.169.254/metadata/identity/oauth2/token?" + q.Encode(),
		}
	}
	return []realClient{
		{"azidentity, ManagedIdentityCredential", "client", true, sdk(), appID},
		{"azidentity, DefaultAzureCredential", "client", false, sdk("--credential=default"), appID},
		{"azidentity of 2024, ManagedIdentityCredential", "azidentity2024", true, sdk(), appID},
		{"azidentity of 2024, DefaultAzureCredential", "azidentity2024", false, sdk("--credential=default"), appID},
		{"autorest/adal", "adal", true, sdk(), appID},
		{"curl", "curl", true, curl, func(id azure.Identity) string { return `"client_id":"` + id.ClientID + `"` }},
	}
}

// clientsPod is a pod with all clients.
func clientsPod(namespace, name, selector string) string {
	images := append([]image.Spec{{Name: stack.ClientImage}}, clientImages()...)
	var containers strings.Builder
	for _, i := range images {
		container, _, _ := strings.Cut(i.Name[strings.LastIndex(i.Name, "/")+1:], ":")
		fmt.Fprintf(&containers, `    - name: %s
      image: %s
      volumeMounts: [{name: azure, mountPath: /azure}]
      securityContext: {allowPrivilegeEscalation: false, readOnlyRootFilesystem: true, capabilities: {drop: [ALL]}}
`, container, i.Name)
	}
	return fmt.Sprintf(`---
apiVersion: v1
kind: Pod
metadata: {name: %s, namespace: %s, labels: {aadpodidbinding: %s}}
spec:
  terminationGracePeriodSeconds: 1
  automountServiceAccountToken: false
  securityContext: {runAsNonRoot: true, seccompProfile: {type: RuntimeDefault}}
  volumes: [{name: azure, configMap: {name: azure-ca}}]
  containers:
%s`, name, namespace, selector, containers.String())
}

// ask runs a client in a pod.
func (c realClient) ask(ctx context.Context, namespace, pod string, a asking) (output string, ok bool, err error) {
	r, err := env.Run(ctx, stack.Command{Args: append([]string{"kubectl", "exec", "-n", namespace, pod, "-c", c.container, "--"}, c.command(a)...)})
	return r.Output, r.Code == 0, err
}

// askAll runs all clients at once, each in every way that it has of those that are
// given, and checks what they say.
func askAll(t *testing.T, namespace, pod string, ways []asking, check func(c realClient, output string, ok bool) string) {
	t.Helper()
	var running sync.WaitGroup
	for _, c := range realClients() {
		for _, a := range ways {
			if a.resourceID != "" && !c.byResourceID {
				continue
			}
			running.Go(func() {
				output, ok, err := c.ask(t.Context(), namespace, pod, a)
				if err != nil {
					t.Error(err)
				} else if wrong := check(c, output, ok); wrong != "" {
					t.Errorf("%s, %s: %s", c.name, a, wrong)
				}
			})
		}
	}
	running.Wait()
}

// tokenOf checks that the client got a token of the identity.
func tokenOf(id azure.Identity) func(realClient, string, bool) string {
	return func(c realClient, output string, ok bool) string {
		switch {
		case !ok:
			return "no token: " + output
		case !strings.Contains(output, c.whose(id)):
			return "the token is not that of " + id.ID
		}
		return ""
	}
}

// noToken checks that the client got none.
func noToken(_ realClient, _ string, ok bool) string {
	if ok {
		return "it got a token"
	}
	return ""
}

// TestRealClients has unmodified programs ask for tokens in pods: the present
// azidentity and that of 2024, the client before it, and curl.
func TestRealClients(t *testing.T) {
	soak.Only(t)
	if err := env.Cluster.LoadImages(t.Context(), clientImages()...); err != nil {
		t.Fatal(err)
	}
	ns := namespace(t)
	kubectl(t, "create", "configmap", "-n", ns, "azure-ca", "--from-file=ca.pem="+env.CAFile())
	first, second, foreign, late := azureIdentity(t, "clients"), azureIdentity(t, "clients-second"), azureIdentity(t, "clients-foreign"), azureIdentity(t, "clients-late")
	apply(t, identityManifest(ns, "first", first)+bindingManifest(ns, "a", "first", "clients")+
		identityManifest(ns, "second", second)+bindingManifest(ns, "b", "second", "clients")+
		identityManifest(ns, "late", late)+
		clientsPod(ns, "web", "clients")+clientsPod(ns, "late", "late"))
	waitReady(t, ns, "web", "late")
	waitState(t, ns, "web", "first", "Assigned")
	waitState(t, ns, "web", "second", "Assigned")
	const arm = "management.azure.com"
	once := 30 * time.Second

	t.Run("Success", func(t *testing.T) {
		askAll(t, ns, "web", []asking{{host: arm}, {host: arm, clientID: first.ClientID}, {host: arm, resourceID: first.ID}}, tokenOf(first))
		askAll(t, ns, "web", []asking{{host: arm, clientID: second.ClientID}, {host: arm, resourceID: strings.ToLower(second.ID)}}, tokenOf(second))
	})
	t.Run("ARM", func(t *testing.T) {
		if out, ok := token(t, ns, "web", "--arm="+env.ARMURL(), "--ca-file=/azure/ca.pem"); !ok || !strings.Contains(out, "ARM takes the token") {
			t.Errorf("azidentity: %s", out)
		}
		useWithCurl(t, ns)
	})
	t.Run("WrongIdentity", func(t *testing.T) {
		askAll(t, ns, "web", []asking{{host: arm, clientID: foreign.ClientID, once: true, timeout: once}, {host: arm, resourceID: foreign.ID, once: true, timeout: once}}, noToken)
		askAll(t, ns, "late", []asking{{host: arm, once: true, timeout: once}, {host: arm, clientID: first.ClientID, once: true, timeout: once}}, noToken)
	})
	t.Run("NotAssignedYet", func(t *testing.T) { testNotAssignedYet(t, ns, late) })
	t.Run("IMDSFails", func(t *testing.T) { testIMDSFails(t, ns, first) })
	t.Run("Deleted", func(t *testing.T) {
		if err := env.Azure.DeleteIdentity(t.Context(), second.ID); err != nil {
			t.Fatal(err)
		}
		askAll(t, ns, "web", []asking{{host: "deleted.example", clientID: second.ClientID, once: true, timeout: once}}, noToken)
		kubectl(t, "delete", "azureidentity", "-n", ns, "first", "second")
		waitUnassigned(t, ns, "web", "first")
		askAll(t, ns, "web", []asking{{host: arm, once: true, timeout: once}, {host: arm, clientID: first.ClientID, once: true, timeout: once}}, noToken)
	})
}

// useWithCurl lists the subscriptions with a token, both by curl.
func useWithCurl(t *testing.T, ns string) {
	t.Helper()
	for _, c := range realClients() {
		if c.name != "curl" {
			continue
		}
		output, _, err := c.ask(t.Context(), ns, "web", asking{host: "management.azure.com"})
		if err != nil {
			t.Fatal(err)
		}
		var answer struct {
			AccessToken string `json:"access_token"`
		}
		if err := json.Unmarshal([]byte(output), &answer); err != nil {
			t.Fatalf("curl's answer is no token: %v", err)
		}
		for name, bearer := range map[string]string{"the token": answer.AccessToken, "a changed token": answer.AccessToken + "x"} {
			r, err := env.Run(t.Context(), stack.Command{Args: []string{
				"kubectl", "exec", "-n", ns, "web", "-c", "curl", "--", "curl", "-sS", "--fail-with-body", "--cacert", "/azure/ca.pem",
				"-H", "Authorization: Bearer " + bearer, env.ARMURL() + "/subscriptions?api-version=2022-12-01",
			}})
			if err != nil {
				t.Fatal(err)
			}
			if ok := r.Code == 0; ok != (name == "the token") {
				t.Errorf("ARM with %s: %s", name, r.Output)
			}
		}
	}
}

// testNotAssignedYet asks while the scale set is still being updated, after which IMDS
// needs time to learn of it.
func testNotAssignedYet(t *testing.T, ns string, late azure.Identity) {
	settings, err := env.Azure.Settings(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := env.Azure.SetSettings(context.Background(), settings); err != nil {
			t.Errorf("restoring the settings: %v", err)
		}
	})
	slow := settings
	slow.VMSSOperation, slow.IMDSLag = azure.Duration(10*time.Second), azure.Duration(5*time.Second)
	if err := env.Azure.SetSettings(t.Context(), slow); err != nil {
		t.Fatal(err)
	}
	apply(t, bindingManifest(ns, "late", "late", "late"))
	waitState(t, ns, "late", "late", "Created")
	askAll(t, ns, "late", []asking{{host: "management.azure.com"}, {host: "management.azure.com", clientID: late.ClientID}}, tokenOf(late))
	asked, err := env.Azure.Calls(t.Context(), azure.CallFilter{Service: azure.ServiceIMDS, Operation: azure.OpIMDSToken})
	if err != nil {
		t.Fatal(err)
	}
	if !slices.ContainsFunc(asked, func(c azure.Call) bool {
		return c.Status == http.StatusBadRequest && strings.Contains(c.Query, late.ClientID)
	}) {
		t.Error("IMDS was not asked before it knew the identity")
	}
}

// testIMDSFails asks for tokens that NMI does not have while the node's IMDS fails,
// for a moment or for good.
func testIMDSFails(t *testing.T, ns string, id azure.Identity) {
	fault := func(t *testing.T, f azure.Fault) (remove func()) {
		f.Service, f.Operation = azure.ServiceIMDS, azure.OpIMDSToken
		stored, err := env.Azure.AddFault(t.Context(), f)
		if err != nil {
			t.Fatal(err)
		}
		var once sync.Once
		remove = func() {
			once.Do(func() {
				if err := env.Azure.RemoveFault(context.Background(), stored.ID); err != nil {
					t.Errorf("removing the fault: %v", err)
				}
			})
		}
		if f.Count == 0 { // others are used up
			t.Cleanup(remove)
		}
		return remove
	}
	const short = 8 * time.Second
	for _, status := range []int{http.StatusTooManyRequests, http.StatusGone, http.StatusInternalServerError} {
		t.Run(fmt.Sprint(status), func(t *testing.T) {
			host := fmt.Sprintf("fails-%d.example", status)
			f := azure.Fault{Match: host, Status: status, Count: 2}
			if status == http.StatusTooManyRequests {
				f.RetryAfter = 1
			}
			fault(t, f)
			askAll(t, ns, "web", []asking{{host: host}}, tokenOf(id))
			left, err := env.Azure.Faults(t.Context())
			if err != nil || len(left) > 0 {
				t.Errorf("IMDS did not fail: %+v, %v", left, err)
			}
			t.Run("ForGood", func(t *testing.T) {
				host := fmt.Sprintf("down-%d.example", status)
				remove := fault(t, azure.Fault{Match: host, Status: status})
				askAll(t, ns, "web", []asking{{host: host, timeout: short}}, noToken)
				remove()
				askAll(t, ns, "web", []asking{{host: host}}, tokenOf(id))
			})
		})
	}
	t.Run("Hangs", func(t *testing.T) {
		remove := fault(t, azure.Fault{Match: "hangs.example", Hang: true})
		askAll(t, ns, "web", []asking{{host: "hangs.example", timeout: short}}, noToken)
		remove()
		askAll(t, ns, "web", []asking{{host: "hangs.example"}}, tokenOf(id))
	})
}
