package azure_test

import (
	"encoding/json"
	"io"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/to"
	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/compute/armcompute/v8"

	"github.com/aad-pod-identity/aad-pod-identity/test/azure"
)

// token is a bearer token of the app for ARM.
func (w *world) token(t *testing.T) string {
	t.Helper()
	return must(w.credential(t).GetToken(t.Context(), policy.TokenRequestOptions{Scopes: []string{azure.DefaultAudience + "/.default"}}))(t).Token
}

// arm sends a bare request with the app's token and decodes the answer.
func (w *world) arm(t *testing.T, method, path, body string, headers ...string) (answer, map[string]any) {
	t.Helper()
	r := must(http.NewRequestWithContext(t.Context(), method, w.Endpoint()+path, strings.NewReader(body)))(t)
	r.Header.Set("Authorization", "Bearer "+w.token(t))
	for i := 0; i+1 < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	response, err := w.HTTPClient().Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	data := must(io.ReadAll(response.Body))(t)
	var decoded map[string]any
	if len(data) > 0 {
		if err := json.Unmarshal(data, &decoded); err != nil {
			t.Fatalf("%s %s: %v in %q", method, path, err, data)
		}
	}
	return answer{response.StatusCode, response.Header}, decoded
}

func errorOf(body map[string]any) (code, message string) {
	e, _ := body["error"].(map[string]any)
	code, _ = e["code"].(string)
	message, _ = e["message"].(string)
	return code, message
}

const apiVersion = "?api-version=2024-07-01"

func TestScaleSetIdentitiesThroughTheSDK(t *testing.T) {
	t.Parallel()
	w := newWorld(t, azure.Options{Settings: azure.Settings{IDStyle: azure.IDStyleIdentityAPI}})
	a, b := w.identity(t, "a"), w.identity(t, "b")
	client := w.vmssClient(t)

	vmss := must(patchVMSS(t, client, vmssPatch("UserAssigned", a.ID, b.ID)))(t)
	for _, id := range []string{a.ID, b.ID} {
		styled := strings.Replace(id, "resourceGroups", "resourcegroups", 1)
		if vmss.Identity.UserAssignedIdentities[styled] == nil {
			t.Errorf("%s is not on the scale set: %v", styled, vmss.Identity.UserAssignedIdentities)
		}
	}
	// A nil value of the SDK's map is a null in the body.
	vmss = must(patchVMSS(t, client, vmssPatch("UserAssigned", "-"+strings.ToLower(a.ID))))(t)
	if len(vmss.Identity.UserAssignedIdentities) != 1 {
		t.Errorf("after the removal of one: %v", vmss.Identity.UserAssignedIdentities)
	}
	if body := w.Calls(azure.CallFilter{Operation: azure.OpVMSSUpdate})[1].Body; !strings.Contains(body, ":null") {
		t.Errorf("the recorded body %s has no null", body)
	}
	_, err := patchVMSS(t, client, vmssPatch("UserAssigned", "-"+b.ID))
	wantError(t, err, http.StatusBadRequest, "MissingIdentityIds")
	vmss = must(patchVMSS(t, client, vmssPatch("None")))(t)
	if vmss.Identity != nil {
		t.Errorf("None leaves %+v", vmss.Identity)
	}
}

func TestPermissionErrors(t *testing.T) {
	t.Parallel()
	w := newWorld(t, azure.Options{})
	good := w.identity(t, "good")
	foreign := func(name string) string {
		return must(w.PutIdentity(azure.Identity{ID: azure.IdentityID(subscription, "foreign", name)}))(t).ID
	}
	x, y := foreign("x"), foreign("y")
	client := w.vmssClient(t)

	_, err := patchVMSS(t, client, vmssPatch("UserAssigned", good.ID, x, y))
	wantError(t, err, http.StatusForbidden, "LinkedAuthorizationFailed",
		"The client '"+w.app.ClientID+"' with object id '"+w.app.ObjectID+"' has permission to perform action 'Microsoft.Compute/virtualMachineScaleSets/write'",
		"on the linked scope(s) '"+x+","+y+"' or the linked scope(s) are invalid.")
	if got := must(w.Compute(w.vmss.ID))(t); len(got.UserAssigned) != 0 {
		t.Errorf("a refused PATCH assigned %v", got.UserAssigned)
	}
	_, err = patchVMSS(t, client, vmssPatch("UserAssigned", good.ID, azure.IdentityID(subscription, "ids", "gone")))
	wantError(t, err, http.StatusBadRequest, "FailedIdentityOperation", "Identity operation for resource '"+w.vmss.ID+"' failed", "userAssignedIdentities/gone' was not found")

	// The role heals it at once, and goes with the identity.
	w.grant(t, azure.RoleManagedIdentityOperator, strings.ToUpper(x))
	if _, err := patchVMSS(t, client, vmssPatch("UserAssigned", x)); err != nil {
		t.Fatal(err)
	}
	if err := w.DeleteIdentity(x); err != nil {
		t.Fatal(err)
	}
	_, err = patchVMSS(t, client, vmssPatch("UserAssigned", x))
	wantError(t, err, http.StatusForbidden, "LinkedAuthorizationFailed", "'"+x+"'")

	role := azure.Role{PrincipalID: w.app.ObjectID, Role: azure.RoleVirtualMachineContributor, Scope: "/subscriptions/" + subscription + "/resourceGroups/" + group}
	if err := w.Revoke(role); err != nil {
		t.Fatal(err)
	}
	_, err = patchVMSS(t, client, vmssPatch("UserAssigned", good.ID))
	wantError(t, err, http.StatusForbidden, "AuthorizationFailed", "'Microsoft.Compute/virtualMachineScaleSets/write' over scope '"+w.vmss.ID+"'")
	_, err = client.Get(t.Context(), group, "pool", nil)
	wantError(t, err, http.StatusForbidden, "AuthorizationFailed", "'Microsoft.Compute/virtualMachineScaleSets/read'")
}

func TestGhostsNeedRemovalAndAddition(t *testing.T) {
	t.Parallel()
	w := newWorld(t, azure.Options{})
	a, other := w.identity(t, "a"), w.identity(t, "other")
	client := w.vmssClient(t)
	must(patchVMSS(t, client, vmssPatch("UserAssigned", a.ID, other.ID)))(t)
	if err := w.DeleteIdentity(a.ID); err != nil {
		t.Fatal(err)
	}
	again := w.identity(t, "a")
	if again.PrincipalID == a.PrincipalID {
		t.Fatal("a new identity has the old principal")
	}
	ghost := func(vmss armcompute.VirtualMachineScaleSet) bool {
		t.Helper()
		entry, ok := vmss.Identity.UserAssignedIdentities[a.ID]
		if !ok {
			t.Fatal("the entry is gone")
		}
		return entry.ClientID == nil && entry.PrincipalID == nil
	}
	if !ghost(must(patchVMSS(t, client, vmssPatch("UserAssigned", a.ID)))(t)) {
		t.Error("adding what is there healed the ghost")
	}
	must(patchVMSS(t, client, vmssPatch("UserAssigned", "-"+a.ID)))(t)
	if ghost(must(patchVMSS(t, client, vmssPatch("UserAssigned", a.ID)))(t)) {
		t.Error("still a ghost after removal and addition")
	}
}

func TestMissingAndDeletingResources(t *testing.T) {
	t.Parallel()
	w := newWorld(t, azure.Options{})
	w.grant(t, azure.RoleReader, "/subscriptions/"+subscription)
	a := w.identity(t, "a")
	client := w.vmClient(t)
	_, err := client.Get(t.Context(), group, "nosuch", nil)
	wantError(t, err, http.StatusNotFound, "ResourceNotFound", "The Resource 'Microsoft.Compute/virtualMachines/nosuch' under resource group '"+group+"' was not found.")
	_, err = client.Get(t.Context(), "nosuch", "vm0", nil)
	wantError(t, err, http.StatusNotFound, "ResourceGroupNotFound", "Resource group 'nosuch' could not be found.")
	if _, err := client.Get(t.Context(), strings.ToLower(group), "VM0", nil); err != nil {
		t.Errorf("another capitalisation: %v", err)
	}
	if err := w.SetProvisioningState(w.vmss.ID, "Deleting"); err != nil {
		t.Fatal(err)
	}
	vmss := must(w.vmssClient(t).Get(t.Context(), group, "pool", nil))(t)
	if *vmss.Properties.ProvisioningState != "Deleting" {
		t.Errorf("state %s", *vmss.Properties.ProvisioningState)
	}
	_, err = patchVMSS(t, w.vmssClient(t), vmssPatch("UserAssigned", a.ID))
	wantError(t, err, http.StatusConflict, "OperationNotAllowed", "marked for deletion")
	if err := w.DeleteCompute(w.vm.ID); err != nil {
		t.Fatal(err)
	}
	_, err = client.Get(t.Context(), group, "vm0", nil)
	wantError(t, err, http.StatusNotFound, "ResourceNotFound")
}

func TestETag(t *testing.T) {
	t.Parallel()
	w := newWorld(t, azure.Options{})
	a := w.identity(t, "a")
	client := w.vmssClient(t)
	before := must(client.Get(t.Context(), group, "pool", nil))(t)
	begin := func(etag *string) error {
		_, err := client.BeginUpdate(t.Context(), group, "pool", vmssPatch("UserAssigned", a.ID), &armcompute.VirtualMachineScaleSetsClientBeginUpdateOptions{IfMatch: etag})
		return err
	}
	if err := begin(before.Etag); err != nil {
		t.Fatal(err)
	}
	wantError(t, begin(before.Etag), http.StatusPreconditionFailed, "ConditionNotMet")
	if err := begin(to.Ptr("*")); err != nil {
		t.Fatal(err)
	}
}

func TestBareRequests(t *testing.T) {
	t.Parallel()
	w := newWorld(t, azure.Options{})
	a := w.identity(t, "a")
	for name, test := range map[string]struct {
		method, path, body string
		headers            []string
		status             int
		code               string
	}{
		"no api-version":                 {method: "GET", path: w.vm.ID, status: 400, code: "MissingApiVersionParameter"},
		"no token":                       {method: "GET", path: w.vm.ID + apiVersion, headers: []string{"Authorization", ""}, status: 401, code: "AuthenticationFailed"},
		"another scheme":                 {method: "GET", path: w.vm.ID + apiVersion, headers: []string{"Authorization", "Basic eA=="}, status: 401, code: "AuthenticationFailedInvalidHeader"},
		"a forged token":                 {method: "GET", path: w.vm.ID + apiVersion, headers: []string{"Authorization", "Bearer a.b.c"}, status: 401, code: "InvalidAuthenticationToken"},
		"a body that is no JSON":         {method: "PATCH", path: w.vm.ID + apiVersion, body: "{", status: 400, code: "InvalidRequestContent"},
		"an upgrade of instances":        {method: "POST", path: w.vmss.ID + "/manualupgrade" + apiVersion, body: `{"instanceIds":["*"]}`, status: 409, code: "OperationNotAllowed"},
		"a replacement":                  {method: "PUT", path: w.vmss.ID + apiVersion, body: "{}", status: 409, code: "OperationNotAllowed"},
		"an unknown type":                {method: "GET", path: "/subscriptions/" + subscription + "/resourceGroups/g/providers/Microsoft.Storage/x/y" + apiVersion, status: 404, code: "InvalidResourceType"},
		"an unknown operation":           {method: "GET", path: "/subscriptions/" + subscription + "/providers/Microsoft.Compute/locations/x/operations/y" + apiVersion, status: 404, code: "OperationNotFound"},
		"If-None-Match of what is there": {method: "PATCH", path: w.vm.ID + apiVersion, body: "{}", headers: []string{"If-None-Match", "*"}, status: 412, code: "ConditionNotMet"},
		"upper case and one identity in two capitalisations": {
			method: "PATCH", path: strings.ToUpper(w.vm.ID) + apiVersion, status: 400, code: "InvalidParameter",
			body: `{"identity":{"type":"UserAssigned","userAssignedIdentities":{"` + a.ID + `":{},"` + strings.ToLower(a.ID) + `":{}}}}`,
		},
		"a PATCH without identity": {method: "PATCH", path: w.vm.ID + apiVersion, body: `{"tags":{"k":"v"}}`, status: 200},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			response, body := w.arm(t, test.method, test.path, test.body, append(test.headers, "x-ms-correlation-request-id", "mine")...)
			code, message := errorOf(body)
			if response.StatusCode != test.status || code != test.code {
				t.Errorf("got %d %s (%s), want %d %s", response.StatusCode, code, message, test.status, test.code)
			}
			if response.Header.Get("x-ms-request-id") == "" || response.Header.Get("x-ms-correlation-request-id") != "mine" {
				t.Errorf("headers %v", response.Header)
			}
			if test.status == 401 && !strings.HasPrefix(response.Header.Get("WWW-Authenticate"), "Bearer authorization_uri=") {
				t.Errorf("WWW-Authenticate %q", response.Header.Get("WWW-Authenticate"))
			}
		})
	}
	t.Cleanup(func() {
		if calls := w.Calls(azure.CallFilter{Operation: azure.OpForbidden}); len(calls) != 2 {
			t.Errorf("recorded %d forbidden calls, want 2", len(calls))
		}
	})
}

func TestTokensThatARMRefuses(t *testing.T) {
	t.Parallel()
	w := newWorld(t, azure.Options{})
	other := newWorld(t, azure.Options{TenantID: w.TenantID()})
	for name, test := range map[string]struct{ token, code string }{
		"signed by another cloud": {other.token(t), "InvalidAuthenticationToken"},
		"for another audience": {
			must(w.credential(t).GetToken(t.Context(), policy.TokenRequestOptions{Scopes: []string{"https://vault.azure.net/.default"}}))(t).Token,
			"InvalidAuthenticationTokenAudience",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			response, body := w.arm(t, "GET", w.vm.ID+apiVersion, "", "Authorization", "Bearer "+test.token)
			if code, message := errorOf(body); response.StatusCode != http.StatusUnauthorized || code != test.code {
				t.Errorf("got %d %s: %s", response.StatusCode, code, message)
			}
		})
	}
}

func TestTenantsAndSubscriptions(t *testing.T) {
	t.Parallel()
	w := newWorld(t, azure.Options{})
	_, tenants := w.arm(t, "GET", "/tenants"+apiVersion, "")
	if one := tenants["value"].([]any)[0].(map[string]any); one["tenantId"] != w.TenantID() {
		t.Errorf("tenants: %v", tenants)
	}
	_, list := w.arm(t, "GET", "/subscriptions"+apiVersion, "")
	values := list["value"].([]any)
	if len(values) != 1 || values[0].(map[string]any)["subscriptionId"] != subscription || values[0].(map[string]any)["state"] != "Enabled" {
		t.Errorf("subscriptions: %v", list)
	}
	response, body := w.arm(t, "GET", "/subscriptions/99999999-2222-3333-4444-555555555555"+apiVersion, "")
	if code, _ := errorOf(body); response.StatusCode != http.StatusNotFound || code != "SubscriptionNotFound" {
		t.Errorf("unknown subscription: %d %s", response.StatusCode, code)
	}
}

func TestThrottling(t *testing.T) {
	t.Parallel()
	slow := azure.Bucket{Size: 2, PerSecond: 0.05}
	for name, throttle := range map[string]struct {
		azure.Throttle
		code string
	}{
		"reads of a subscription and principal": {azure.Throttle{Reads: slow}, "SubscriptionRequestsThrottled"},
		"requests of a resource":                {azure.Throttle{Resource: slow}, "TooManyRequests"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, azure.Options{Settings: azure.Settings{Throttle: throttle.Throttle}})
			client := w.vmClient(t)
			for range 2 {
				if _, err := client.Get(t.Context(), group, "vm0", nil); err != nil {
					t.Fatal(err)
				}
			}
			_, err := client.Get(t.Context(), group, "vm0", nil)
			header := wantError(t, err, http.StatusTooManyRequests, throttle.code)
			// One token takes 20 s; a part of them may have passed.
			if after, err := strconv.Atoi(header.Get("Retry-After")); err != nil || after < 1 || after > 20 {
				t.Errorf("Retry-After %q", header.Get("Retry-After"))
			}
			_, err = w.vmssClient(t).Get(t.Context(), group, "pool", nil)
			if perResource := throttle.Resource.Size > 0; perResource != (err == nil) {
				t.Errorf("another resource: %v", err)
			}
		})
	}
}

func TestPatchStatus202(t *testing.T) {
	t.Parallel()
	w := newWorld(t, azure.Options{Settings: azure.Settings{PatchStatus: http.StatusAccepted, PatchWithoutBody: true, VMOperation: azure.Duration(time.Hour)}})
	a := w.identity(t, "a")
	response, _ := w.arm(t, "PATCH", w.vm.ID+apiVersion, `{"identity":{"type":"UserAssigned","userAssignedIdentities":{"`+a.ID+`":{}}}}`)
	if response.StatusCode != http.StatusAccepted {
		t.Fatalf("status %d", response.StatusCode)
	}
	location := strings.TrimPrefix(response.Header.Get("Location"), w.Endpoint())
	if running, _ := w.arm(t, "GET", location, ""); running.StatusCode != http.StatusAccepted {
		t.Errorf("location of a running operation: %d", running.StatusCode)
	}
	w.CompleteOperations()
	done, body := w.arm(t, "GET", location, "")
	if done.StatusCode != http.StatusOK || body["name"] != "vm0" {
		t.Errorf("location of a finished operation: %d %v", done.StatusCode, body)
	}
}
