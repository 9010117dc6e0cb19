package azure_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"

	"github.com/aad-pod-identity/aad-pod-identity/test/azure"
)

// linkLocal sends what is meant for 169.254.169.254 to an IMDS on another address, as NMI's redirect does.
type linkLocal struct{ imds string }

func (l linkLocal) Do(r *http.Request) (*http.Response, error) {
	if r.URL.Host != "169.254.169.254" {
		return nil, errors.New("not for IMDS: " + r.URL.Host)
	}
	target, err := url.Parse(l.imds)
	if err != nil {
		return nil, err
	}
	r.URL.Host = target.Host
	return http.DefaultTransport.RoundTrip(r)
}

func (w *world) imds(t *testing.T, node string) string {
	t.Helper()
	return must(w.StartIMDS(t.Context(), node, "127.0.0.1:0"))(t)
}

// assign puts an identity on a VM or scale set as MIC's PATCH would.
func (w *world) assign(t *testing.T, compute string, ids ...string) {
	t.Helper()
	c := must(w.Compute(compute))(t)
	for _, id := range ids {
		c.UserAssigned = append(c.UserAssigned, azure.Assignment{ID: id})
	}
	must(w.PutCompute(c))(t)
}

func TestManagedIdentityCredentialOfTheSDK(t *testing.T) {
	t.Parallel()
	w := newWorld(t, azure.Options{})
	a := w.identity(t, "a")
	imds := w.imds(t, azure.InstanceID(w.vmss.ID, "3"))
	// MSAL keeps one token cache for the whole process, so a resource of this run's own.
	resource := "https://" + w.TenantID() + ".vault.invalid"
	token := func(id azidentity.ManagedIDKind) (azcore.AccessToken, error) {
		c := must(azidentity.NewManagedIdentityCredential(&azidentity.ManagedIdentityCredentialOptions{
			ID: id, ClientOptions: azcore.ClientOptions{Transport: linkLocal{imds}, Retry: policy.RetryOptions{MaxRetries: -1}},
		}))(t)
		return c.GetToken(t.Context(), policy.TokenRequestOptions{Scopes: []string{resource + "/.default"}})
	}
	if _, err := token(azidentity.ClientID(a.ClientID)); err == nil || !strings.Contains(err.Error(), "Identity not found") {
		t.Fatalf("before the assignment: %v", err)
	}
	must(patchVMSS(t, w.vmssClient(t), vmssPatch("UserAssigned", a.ID)))(t)
	for name, id := range map[string]azidentity.ManagedIDKind{
		"no selector": nil, "client ID": azidentity.ClientID(strings.ToUpper(a.ClientID)),
		"object ID": azidentity.ObjectID(a.PrincipalID), "resource ID": azidentity.ResourceID(strings.ToLower(a.ID)),
	} {
		got, err := token(id)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		claims := w.verify(t, got.Token, resource)
		if claims["appid"] != a.ClientID || claims["oid"] != a.PrincipalID || claims["xms_mirid"] != a.ID {
			t.Errorf("%s: claims %v", name, claims)
		}
	}
	must(patchVMSS(t, w.vmssClient(t), vmssPatch("None")))(t)
	if _, err := token(azidentity.ClientID(a.ClientID)); err == nil || !strings.Contains(err.Error(), "Identity not found") {
		t.Errorf("after the removal: %v", err)
	}
}

// TestIMDSLearnsOfAnAssignmentLate: what an operation added is unknown for a while, other
// identities of the scale set are not.
func TestIMDSLearnsOfAnAssignmentLate(t *testing.T) {
	t.Parallel()
	w := newWorld(t, azure.Options{})
	before, added := w.identity(t, "before"), w.identity(t, "added")
	w.assign(t, w.vmss.ID, before.ID)
	imds := w.imds(t, azure.InstanceID(w.vmss.ID, "0"))
	lag := func(d time.Duration) {
		s := w.Settings()
		s.IMDSLag = azure.Duration(d)
		if err := w.SetSettings(s); err != nil {
			t.Fatal(err)
		}
	}
	want := func(id azure.Identity, status int) {
		t.Helper()
		r, body := ask(t, imds+tokenPath+"?api-version=2018-02-01&resource=https%3A%2F%2Fvault.azure.net&client_id="+id.ClientID)
		if r.StatusCode != status || (status != http.StatusOK && body["error_description"] != "Identity not found") {
			t.Errorf("%s: %d %v, want %d", id.ID, r.StatusCode, body["error_description"], status)
		}
	}
	lag(time.Hour)
	must(patchVMSS(t, w.vmssClient(t), vmssPatch("UserAssigned", added.ID)))(t)
	want(before, http.StatusOK)
	want(added, http.StatusBadRequest)
	known := must(w.Compute(w.vmss.ID))(t)
	must(patchVMSS(t, w.vmssClient(t), vmssPatch("UserAssigned", added.ID)))(t)
	if again := must(w.Compute(w.vmss.ID))(t); !slices.Equal(known.UserAssigned, again.UserAssigned) {
		t.Errorf("a PATCH that adds nothing made %v of %v", again.UserAssigned, known.UserAssigned)
	}
	lag(0)
	want(added, http.StatusOK)
}

// ask sends a bare request to an IMDS.
func ask(t *testing.T, target string, headers ...string) (answer, map[string]any) {
	t.Helper()
	r := must(http.NewRequestWithContext(t.Context(), http.MethodGet, target, nil))(t)
	r.Header.Set("Metadata", "true")
	for i := 0; i+1 < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	response, err := http.DefaultTransport.RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	data := must(io.ReadAll(response.Body))(t)
	var body map[string]any
	if err := json.Unmarshal(data, &body); err != nil {
		t.Fatalf("%s: %q is no JSON object", target, data)
	}
	return answer{response.StatusCode, response.Header}, body
}

const tokenPath = "/metadata/identity/oauth2/token"

func TestIMDSTokenRequests(t *testing.T) {
	t.Parallel()
	w := newWorld(t, azure.Options{})
	a, b, elsewhere, gone := w.identity(t, "a"), w.identity(t, "b"), w.identity(t, "elsewhere"), w.identity(t, "gone")
	w.assign(t, w.vmss.ID, a.ID, b.ID, gone.ID)
	w.assign(t, w.vm.ID, elsewhere.ID)
	if err := w.DeleteIdentity(gone.ID); err != nil {
		t.Fatal(err)
	}
	imds := w.imds(t, azure.InstanceID(strings.ToLower(w.vmss.ID), "0"))
	const good = "api-version=2018-02-01&resource=https%3A%2F%2Fvault.azure.net"
	for name, test := range map[string]struct {
		path, query string
		headers     []string
		status      int
		code, text  string
		clientID    string
	}{
		"by client ID":                       {query: good + "&client_id=" + a.ClientID, status: 200, clientID: a.ClientID},
		"by object ID":                       {query: good + "&object_id=" + b.PrincipalID, status: 200, clientID: b.ClientID},
		"by msi_res_id":                      {query: good + "&msi_res_id=" + url.QueryEscape(b.ID), status: 200, clientID: b.ClientID},
		"by mi_res_id in lower case":         {query: good + "&mi_res_id=" + url.QueryEscape(strings.ToLower(b.ID)), status: 200, clientID: b.ClientID},
		"METADATA in upper case":             {path: "/METADATA/identity/oauth2/token", query: good + "&client_id=" + a.ClientID, status: 200, clientID: a.ClientID},
		"a trailing slash":                   {path: tokenPath + "/", query: good + "&client_id=" + a.ClientID, status: 200, clientID: a.ClientID},
		"Identity in another case":           {path: "/metadata/Identity/oauth2/token", query: good, status: 404},
		"no Metadata header":                 {query: good, headers: []string{"Metadata", ""}, status: 400, code: "invalid_request", text: "Required metadata header not specified"},
		"a forwarded request":                {query: good, headers: []string{"X-Forwarded-For", "10.0.0.1"}, status: 400, code: "invalid_request", text: "X-Forwarded-For"},
		"no api-version":                     {query: "resource=https://x", status: 400, code: "invalid_request", text: "api-version"},
		"an old api-version":                 {query: "api-version=2017-12-01&resource=https://x", status: 400, code: "invalid_request", text: "2017-12-01"},
		"no resource":                        {query: "api-version=2018-02-01", status: 400, code: "invalid_request", text: "resource"},
		"a resource that is none":            {query: "api-version=2018-02-01&resource=x", status: 400, code: "invalid_resource", text: "AADSTS500011"},
		"two selectors":                      {query: good + "&client_id=x&object_id=y", status: 400, code: "invalid_request", text: "Only one"},
		"several and no selector":            {query: good, status: 400, code: "invalid_request", text: "Multiple user assigned identities exist, please specify the clientId / resourceId of the identity in the token request"},
		"an identity of another machine":     {query: good + "&client_id=" + elsewhere.ClientID, status: 400, code: "invalid_request", text: "Identity not found"},
		"an identity that was deleted":       {query: good + "&client_id=" + gone.ClientID, status: 400, code: "invalid_request", text: "Identity not found"},
		"another path":                       {path: "/metadata/attested/document", query: good, status: 404},
		"a client ID given as a resource ID": {query: good + "&msi_res_id=" + a.ClientID, status: 400, code: "invalid_request", text: "Identity not found"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := test.path
			if path == "" {
				path = tokenPath
			}
			response, body := ask(t, imds+path+"?"+test.query, test.headers...)
			description, _ := body["error_description"].(string)
			if response.StatusCode != test.status || (test.code != "" && body["error"] != test.code) || !strings.Contains(description, test.text) {
				t.Fatalf("got %d %v, want %d %s %q", response.StatusCode, body, test.status, test.code, test.text)
			}
			if test.status != http.StatusOK {
				return
			}
			for _, field := range []string{"access_token", "refresh_token", "expires_in", "expires_on", "not_before", "resource", "token_type", "client_id"} {
				if _, ok := body[field].(string); !ok {
					t.Errorf("%s is no string: %v", field, body[field])
				}
			}
			if body["client_id"] != test.clientID || body["resource"] != "https://vault.azure.net" || body["token_type"] != "Bearer" || body["refresh_token"] != "" {
				t.Errorf("body %v", body)
			}
		})
	}
}

func TestIMDSPrefersTheSystemAssignedIdentity(t *testing.T) {
	t.Parallel()
	w := newWorld(t, azure.Options{})
	a, b := w.identity(t, "a"), w.identity(t, "b")
	vm := must(w.PutCompute(azure.Compute{ID: azure.VMID(subscription, group, "sys"), SystemAssigned: true, UserAssigned: []azure.Assignment{{ID: a.ID}, {ID: b.ID}}}))(t)
	_, body := ask(t, w.imds(t, vm.ID)+tokenPath+"?api-version=2018-02-01&resource=https://management.azure.com/")
	claims := w.verify(t, body["access_token"].(string), "https://management.azure.com/")
	if claims["oid"] != vm.SystemPrincipalID || claims["xms_mirid"] != vm.ID {
		t.Errorf("claims %v", claims)
	}
	// ARM takes it: this is how MIC signs in with the cluster's managed identity.
	if err := w.Grant(azure.Role{PrincipalID: vm.SystemPrincipalID, Role: azure.RoleReader, Scope: vm.ID}); err != nil {
		t.Fatal(err)
	}
	if response, body := w.arm(t, "GET", vm.ID+apiVersion, "", "Authorization", "Bearer "+body["access_token"].(string)); response.StatusCode != http.StatusOK {
		t.Errorf("ARM: %d %v", response.StatusCode, body)
	}
}

func TestIMDSLimits(t *testing.T) {
	t.Parallel()
	w := newWorld(t, azure.Options{Settings: azure.Settings{IMDSConcurrent: 1}})
	w.assign(t, w.vm.ID, w.identity(t, "a").ID)
	imds := w.imds(t, w.vm.ID)
	const query = tokenPath + "?api-version=2018-02-01&resource=https://x"
	if _, err := w.AddFault(azure.Fault{Service: azure.ServiceIMDS, Hang: true, Count: 1}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	first := make(chan error, 1)
	go func() {
		r, err := http.NewRequestWithContext(ctx, http.MethodGet, imds+query, nil)
		if err == nil {
			var response *http.Response
			if response, err = http.DefaultTransport.RoundTrip(r); err == nil {
				_ = response.Body.Close() // it must not have come
			}
		}
		first <- err
	}()
	// The first request is in its place as soon as its fault is used up.
	for len(w.Faults()) > 0 {
		if t.Context().Err() != nil {
			t.Fatal("the fault was not used")
		}
		runtime.Gosched()
	}
	response, body := ask(t, imds+query)
	if response.StatusCode != http.StatusTooManyRequests || response.Header.Get("Retry-After") == "" || body["error"] == "" {
		t.Errorf("second request at a time: %d %v", response.StatusCode, body)
	}
	cancel()
	if err := <-first; err == nil {
		t.Error("the hung request was answered")
	}

	if err := w.SetSettings(azure.Settings{IMDSPerSecond: 1}); err != nil {
		t.Fatal(err)
	}
	refused := false
	for range 20 {
		response, _ := ask(t, imds+query)
		refused = refused || response.StatusCode == http.StatusTooManyRequests
	}
	if !refused {
		t.Error("20 requests at once, and none over the limit of one a second")
	}
}

func TestIMDSInstance(t *testing.T) {
	t.Parallel()
	w := newWorld(t, azure.Options{})
	imds := w.imds(t, azure.InstanceID(w.vmss.ID, "7"))
	_, body := ask(t, imds+"/metadata/instance?api-version=2021-02-01", "User-Agent", "probe/1")
	compute, _ := body["compute"].(map[string]any)
	for name, want := range map[string]any{"name": "pool_7", "vmScaleSetName": "pool", "resourceGroupName": group, "subscriptionId": subscription, "resourceId": azure.InstanceID(w.vmss.ID, "7")} {
		if compute[name] != want {
			t.Errorf("%s is %v, want %v", name, compute[name], want)
		}
	}
	if response, body := ask(t, imds+"/metadata/instance"); response.StatusCode != http.StatusBadRequest || body["newest-versions"] == nil {
		t.Errorf("no api-version: %d %v", response.StatusCode, body)
	}
	if response, _ := ask(t, imds+"/metadata/instance/nosuch?api-version=2021-02-01"); response.StatusCode != http.StatusNotFound {
		t.Errorf("unknown part: %d", response.StatusCode)
	}
	calls := w.Calls(azure.CallFilter{Operation: azure.OpIMDSInstance})
	if len(calls) != 3 || calls[0].UserAgent != "probe/1" || !strings.HasPrefix(calls[0].Source, "127.0.0.1:") || calls[0].Node != azure.InstanceID(w.vmss.ID, "7") {
		t.Errorf("recorded %+v", calls)
	}
	for _, bad := range []string{w.vmss.ID, azure.IdentityID(subscription, "g", "i"), "x"} {
		if _, err := w.IMDSHandler(bad); err == nil {
			t.Errorf("%s is taken for a node", bad)
		}
	}
}
