package azure_test

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/arm"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/cloud"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/runtime"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"
	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/compute/armcompute/v8"

	"github.com/aad-pod-identity/aad-pod-identity/test/azure"
)

const (
	subscription = "11111111-2222-3333-4444-555555555555"
	group        = "MC_cluster"
	secret       = "s3cret"
)

// world is an emulator with a VM, a scale set and an app that may do what MIC must.
type world struct {
	*azure.Emulator
	app      azure.App
	vm, vmss azure.Compute
}

func newWorld(t *testing.T, options azure.Options) *world {
	t.Helper()
	if options.Settings.PatchStatus == 0 {
		options.Settings.PatchStatus = http.StatusOK // these tests use armcompute as it is
	}
	e, err := azure.New(options)
	if err != nil {
		t.Fatal(err)
	}
	if err := e.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(e.Close)
	w := &world{Emulator: e}
	w.app = must(e.PutApp(azure.App{Name: "mic", Secrets: []string{secret}}))(t)
	w.vm = must(e.PutCompute(azure.Compute{ID: azure.VMID(subscription, group, "vm0")}))(t)
	w.vmss = must(e.PutCompute(azure.Compute{ID: azure.VMSSID(subscription, group, "pool")}))(t)
	w.grant(t, azure.RoleVirtualMachineContributor, "/subscriptions/"+subscription+"/resourceGroups/"+group)
	w.grant(t, azure.RoleManagedIdentityOperator, "/subscriptions/"+subscription+"/resourceGroups/ids")
	return w
}

func must[T any](v T, err error) func(*testing.T) T {
	return func(t *testing.T) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func (w *world) grant(t *testing.T, role, scope string) {
	t.Helper()
	if err := w.Grant(azure.Role{PrincipalID: w.app.ObjectID, Role: role, Scope: scope}); err != nil {
		t.Fatal(err)
	}
}

func (w *world) identity(t *testing.T, name string) azure.Identity {
	t.Helper()
	return must(w.PutIdentity(azure.Identity{ID: azure.IdentityID(subscription, "ids", name)}))(t)
}

func (w *world) cloud() cloud.Configuration {
	return cloud.Configuration{
		ActiveDirectoryAuthorityHost: w.AADEndpoint(),
		Services:                     map[cloud.ServiceName]cloud.ServiceConfiguration{cloud.ResourceManager: {Endpoint: w.ARMEndpoint(), Audience: azure.DefaultAudience}},
	}
}

func (w *world) clientOptions() azcore.ClientOptions {
	return azcore.ClientOptions{Cloud: w.cloud(), Transport: w.HTTPClient(), Retry: policy.RetryOptions{MaxRetries: -1}}
}

func (w *world) credential(t *testing.T) azcore.TokenCredential {
	t.Helper()
	c, err := azidentity.NewClientSecretCredential(w.TenantID(), w.app.ClientID, secret, &azidentity.ClientSecretCredentialOptions{
		ClientOptions: w.clientOptions(), DisableInstanceDiscovery: true,
	})
	return must(c, err)(t)
}

func (w *world) vmClient(t *testing.T) *armcompute.VirtualMachinesClient {
	t.Helper()
	return must(armcompute.NewVirtualMachinesClient(subscription, w.credential(t), &arm.ClientOptions{ClientOptions: w.clientOptions()}))(t)
}

func (w *world) vmssClient(t *testing.T) *armcompute.VirtualMachineScaleSetsClient {
	t.Helper()
	return must(armcompute.NewVirtualMachineScaleSetsClient(subscription, w.credential(t), &arm.ClientOptions{ClientOptions: w.clientOptions()}))(t)
}

// vmssPatch is a body; an ID with a leading - is removed.
func vmssPatch(kind armcompute.ResourceIdentityType, ids ...string) armcompute.VirtualMachineScaleSetUpdate {
	identity := &armcompute.VirtualMachineScaleSetIdentity{Type: &kind}
	for _, id := range ids {
		if identity.UserAssignedIdentities == nil {
			identity.UserAssignedIdentities = map[string]*armcompute.UserAssignedIdentitiesValue{}
		}
		if id, remove := strings.CutPrefix(id, "-"); remove {
			identity.UserAssignedIdentities[id] = nil
		} else {
			identity.UserAssignedIdentities[id] = &armcompute.UserAssignedIdentitiesValue{}
		}
	}
	return armcompute.VirtualMachineScaleSetUpdate{Identity: identity}
}

// vmPatch is a body that changes a VM without its identities.
func vmPatch() armcompute.VirtualMachineUpdate {
	value := "v"
	return armcompute.VirtualMachineUpdate{Tags: map[string]*string{"k": &value}}
}

// patchVMSS updates the scale set and waits for the end of the operation.
func patchVMSS(t *testing.T, c *armcompute.VirtualMachineScaleSetsClient, patch armcompute.VirtualMachineScaleSetUpdate) (armcompute.VirtualMachineScaleSet, error) {
	t.Helper()
	poller, err := c.BeginUpdate(t.Context(), group, "pool", patch, nil)
	if err != nil {
		return armcompute.VirtualMachineScaleSet{}, err
	}
	response, err := poller.PollUntilDone(t.Context(), &runtime.PollUntilDoneOptions{Frequency: time.Millisecond})
	return response.VirtualMachineScaleSet, err
}

// answer is a response whose body has been read.
type answer struct {
	StatusCode int
	Header     http.Header
}

func wantError(t *testing.T, err error, status int, code string, texts ...string) http.Header {
	t.Helper()
	var response *azcore.ResponseError
	if !errors.As(err, &response) {
		t.Fatalf("got %v, want a response error %d %s", err, status, code)
	}
	if response.StatusCode != status || response.ErrorCode != code {
		t.Fatalf("got %d %s, want %d %s: %v", response.StatusCode, response.ErrorCode, status, code, err)
	}
	for _, text := range texts {
		if !strings.Contains(err.Error(), text) {
			t.Errorf("%q is not in %v", text, err)
		}
	}
	return response.RawResponse.Header
}

func TestSDKUpdatesVMAndScaleSet(t *testing.T) {
	t.Parallel()
	for name, settings := range map[string]azure.Settings{
		"operations end at once":               {},
		"operations take a while to be polled": {VMOperation: azure.Duration(30 * time.Millisecond), VMSSOperation: azure.Duration(30 * time.Millisecond)},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, azure.Options{Settings: settings})
			a := w.identity(t, "a")

			vm := w.vmClient(t)
			kind := armcompute.ResourceIdentityTypeUserAssigned
			poller, err := vm.BeginUpdate(t.Context(), group, "vm0", armcompute.VirtualMachineUpdate{Identity: &armcompute.VirtualMachineIdentity{
				Type: &kind, UserAssignedIdentities: map[string]*armcompute.UserAssignedIdentitiesValue{a.ID: {}},
			}}, nil)
			if err != nil {
				t.Fatal(err)
			}
			updated, err := poller.PollUntilDone(t.Context(), &runtime.PollUntilDoneOptions{Frequency: time.Millisecond})
			if err != nil {
				t.Fatal(err)
			}
			if got := *updated.Identity.UserAssignedIdentities[a.ID].PrincipalID; got != a.PrincipalID {
				t.Errorf("principal on the VM is %s, want %s", got, a.PrincipalID)
			}
			if *updated.Properties.ProvisioningState != "Succeeded" || *updated.Properties.VMID == "" || *updated.Etag == "" {
				t.Errorf("unexpected VM %+v", updated.Properties)
			}

			vmss, err := patchVMSS(t, w.vmssClient(t), vmssPatch(kind, a.ID))
			if err != nil {
				t.Fatal(err)
			}
			if got := *vmss.Identity.UserAssignedIdentities[a.ID].ClientID; got != a.ClientID {
				t.Errorf("client on the scale set is %s, want %s", got, a.ClientID)
			}
			for op, want := range map[string]int{azure.OpVMUpdate: 1, azure.OpVMSSUpdate: 1, azure.OpVMGet: 1, azure.OpVMSSGet: 1} {
				if calls := w.Calls(azure.CallFilter{Operation: op}); len(calls) != want || calls[0].Principal != w.app.ObjectID || calls[0].Status != http.StatusOK {
					t.Errorf("recorded %s: %+v, want %d by the app", op, calls, want)
				}
			}
		})
	}
}

func TestOneOperationAtATime(t *testing.T) {
	t.Parallel()
	w := newWorld(t, azure.Options{Settings: azure.Settings{VMSSOperation: azure.Duration(time.Hour)}})
	a, b := w.identity(t, "a"), w.identity(t, "b")
	client := w.vmssClient(t)
	poller, err := client.BeginUpdate(t.Context(), group, "pool", vmssPatch("UserAssigned", a.ID), nil)
	if err != nil {
		t.Fatal(err)
	}
	response, err := poller.Poll(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if got := response.Header.Get("Retry-After"); got != "10" {
		t.Errorf("Retry-After of a running operation is %q, want 10", got)
	}
	during := must(client.Get(t.Context(), group, "pool", nil))(t)
	if *during.Properties.ProvisioningState != "Updating" || during.Identity != nil {
		t.Errorf("while updating: state %s, identity %v", *during.Properties.ProvisioningState, during.Identity)
	}
	_, err = client.BeginUpdate(t.Context(), group, "pool", vmssPatch("UserAssigned", b.ID), nil)
	wantError(t, err, http.StatusConflict, "OperationNotAllowed")

	if n := w.CompleteOperations(); n != 1 {
		t.Fatalf("completed %d operations", n)
	}
	if _, err := poller.Poll(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := poller.Result(t.Context()); err != nil {
		t.Fatal(err)
	}
	after := must(w.Compute(w.vmss.ID))(t)
	if len(after.UserAssigned) != 1 || after.ProvisioningState != "Succeeded" {
		t.Errorf("after: %+v", after)
	}
}

func TestContextEndsStart(t *testing.T) {
	t.Parallel()
	e := must(azure.New(azure.Options{}))(t)
	ctx, cancel := context.WithCancel(t.Context())
	if err := e.Start(ctx); err != nil {
		t.Fatal(err)
	}
	cancel()
	e.Close()
	if response, err := e.HTTPClient().Get(e.ARMEndpoint()); err == nil {
		_ = response.Body.Close() // it must not have come
		t.Error("the emulator answers after its end")
	}
}
