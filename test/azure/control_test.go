package azure_test

import (
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"

	"github.com/aad-pod-identity/aad-pod-identity/test/azure"
	"github.com/aad-pod-identity/aad-pod-identity/test/freeport"
)

func TestControl(t *testing.T) {
	t.Parallel()
	for name, connect := range map[string]func(*testing.T, *world) *azure.Control{
		"in process": func(_ *testing.T, w *world) *azure.Control { return w.Control() },
		"over HTTP": func(t *testing.T, w *world) *azure.Control {
			return azure.NewControl(must(w.ServeHTTP(t.Context(), "127.0.0.1:0", w.ControlHandler()))(t) + "/")
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, azure.Options{Seed: azure.State{Groups: []string{"/subscriptions/" + subscription + "/resourceGroups/empty"}}})
			c, ctx := connect(t, w), t.Context()
			check := func(err error) {
				t.Helper()
				if err != nil {
					t.Fatal(err)
				}
			}
			check(c.Healthy(ctx))
			info := must(c.Info(ctx))(t)
			if info.Endpoint != w.Endpoint() || info.TenantID != w.TenantID() || info.CAPEM != string(w.CAPEM()) {
				t.Errorf("info %+v", info)
			}
			id := must(c.PutIdentity(ctx, azure.Identity{ID: azure.IdentityID(subscription, "ids", "x")}))(t)
			vm := must(c.PutCompute(ctx, azure.Compute{ID: azure.VMID(subscription, group, "v"), UserAssigned: []azure.Assignment{{ID: id.ID}}}))(t)
			if found := must(c.Compute(ctx, strings.ToUpper(vm.ID)))(t); found.UserAssigned[0].PrincipalID != id.PrincipalID {
				t.Errorf("compute %+v", found)
			}
			check(c.SetProvisioningState(ctx, vm.ID, "Failed"))
			app := must(c.PutApp(ctx, azure.App{Name: "x", Secrets: []string{"y"}}))(t)
			role := azure.Role{PrincipalID: app.ObjectID, Role: azure.RoleOwner, Scope: "/subscriptions/" + subscription}
			check(c.Grant(ctx, role))
			state := must(c.State(ctx))(t)
			if len(state.Apps) != 2 || len(state.Compute) != 3 || len(state.Identities) != 1 || len(state.Roles) != 3 || state.Groups == nil {
				t.Errorf("state %+v", state)
			}
			check(c.Revoke(ctx, role))
			check(c.SetSettings(ctx, azure.Settings{PatchStatus: http.StatusOK, ARMRead: azure.Duration(time.Millisecond), VMOperation: azure.Duration(time.Hour)}))
			if s := must(c.Settings(ctx))(t); s.ARMRead != azure.Duration(time.Millisecond) {
				t.Errorf("settings %+v", s)
			}
			fault := must(c.AddFault(ctx, azure.Fault{Operation: azure.OpVMGet, Status: 500}))(t)
			if _, err := w.vmClient(t).Get(ctx, group, "vm0", nil); err == nil {
				t.Error("the fault has no effect")
			}
			check(c.RemoveFault(ctx, fault.ID))
			if left := must(c.Faults(ctx))(t); len(left) != 0 {
				t.Errorf("faults %v", left)
			}
			must(w.vmClient(t).BeginUpdate(ctx, group, "vm0", vmPatch(), nil))(t)
			if n := must(c.CompleteOperations(ctx))(t); n != 1 {
				t.Errorf("completed %d", n)
			}
			calls := must(c.Calls(ctx, azure.CallFilter{Service: azure.ServiceARM, Operation: azure.OpVMGet, PathContains: "VM0"}))(t)
			if len(calls) != 1 || calls[0].Status != 500 {
				t.Errorf("calls %+v", calls)
			}
			if later := must(c.Calls(ctx, azure.CallFilter{Operation: azure.OpVMGet, After: calls[0].Seq}))(t); len(later) != 0 {
				t.Errorf("calls after the last: %+v", later)
			}
			check(c.ClearCalls(ctx))
			check(c.DeleteApp(ctx, app.ClientID))
			check(c.DeleteIdentity(ctx, id.ID))
			check(c.DeleteCompute(ctx, vm.ID))
			check(c.Reset(ctx))
			if state := must(c.State(ctx))(t); len(state.Compute) != 0 || len(state.Groups) != 1 {
				t.Errorf("after reset: %+v", state)
			}

			for what, err := range map[string]error{
				"an unknown VM":       c.DeleteCompute(ctx, vm.ID),
				"an unknown identity": c.DeleteIdentity(ctx, id.ID),
				"an unknown app":      c.DeleteApp(ctx, app.ClientID),
				"an unknown fault":    c.RemoveFault(ctx, "x"),
				"an unknown role":     c.Grant(ctx, azure.Role{PrincipalID: "p", Role: "King", Scope: "/"}),
				"a bad setting":       c.SetSettings(ctx, azure.Settings{PatchStatus: 500}),
				"a bad fault":         second(c.AddFault(ctx, azure.Fault{})),
				"a bad VM":            second(c.PutCompute(ctx, azure.Compute{ID: "x"})),
				"a bad identity":      second(c.PutIdentity(ctx, azure.Identity{ID: vm.ID})),
				"a bad certificate":   second(c.PutApp(ctx, azure.App{Certificates: []string{"x"}})),
			} {
				if err == nil || !strings.Contains(err.Error(), "400") {
					t.Errorf("%s: %v", what, err)
				}
			}
		})
	}
}

func second[T any](_ T, err error) error { return err }

func TestFaults(t *testing.T) {
	t.Parallel()
	w := newWorld(t, azure.Options{})
	a := w.identity(t, "a")
	client := w.vmssClient(t)
	must(client.Get(t.Context(), group, "pool", nil))(t) // sign in
	fault := func(f azure.Fault) {
		t.Helper()
		must(w.AddFault(f))(t)
	}
	assigned := func() int { t.Helper(); return len(must(w.Compute(w.vmss.ID))(t).UserAssigned) }

	fault(azure.Fault{Operation: azure.OpVMSSUpdate, Match: "POOL", BodyMatch: "useridentities/nosuch", Status: 500})
	fault(azure.Fault{Operation: azure.OpVMSSUpdate, BodyMatch: "USERASSIGNEDIDENTITIES/A", Status: 429, Code: "TooManyRequests", Message: "slow down", RetryAfter: 7, Count: 1})
	_, err := patchVMSS(t, client, vmssPatch("UserAssigned", a.ID))
	if header := wantError(t, err, 429, "TooManyRequests", "slow down"); header.Get("Retry-After") != "7" {
		t.Errorf("headers %v", header)
	}
	fault(azure.Fault{Service: azure.ServiceARM, Drop: true, Count: 1})
	if _, err = patchVMSS(t, client, vmssPatch("UserAssigned", a.ID)); err == nil || errors.As(err, new(*azcore.ResponseError)) || assigned() != 0 {
		t.Errorf("dropped before: %v, %d assigned", err, assigned())
	}
	fault(azure.Fault{Service: azure.ServiceARM, Drop: true, After: true, Count: 1})
	if _, err = patchVMSS(t, client, vmssPatch("UserAssigned", a.ID)); err == nil || assigned() != 1 {
		t.Errorf("dropped after: %v, %d assigned", err, assigned())
	}
	fault(azure.Fault{Operation: azure.OpVMSSUpdate, Async: true, Code: "InternalExecutionError", Message: "boom", Count: 1})
	_, err = patchVMSS(t, client, vmssPatch("None"))
	wantError(t, err, http.StatusOK, "InternalExecutionError", "boom")
	if got := must(w.Compute(w.vmss.ID))(t); len(got.UserAssigned) != 1 || got.ProvisioningState != "Failed" {
		t.Errorf("after a failed operation: %+v", got)
	}
	fault(azure.Fault{Operation: azure.OpVMSSGet, Skip: 1, Count: 1, Status: 502, RawBody: "<html>bad gateway</html>"})
	must(client.Get(t.Context(), group, "pool", nil))(t)
	if _, err := client.Get(t.Context(), group, "pool", nil); err == nil || !strings.Contains(err.Error(), "<html>") {
		t.Errorf("raw body: %v", err)
	}
	must(client.Get(t.Context(), group, "pool", nil))(t)

	dropped := 0
	for _, c := range w.Calls(azure.CallFilter{Operation: azure.OpVMSSUpdate}) {
		if c.Status == 0 && c.Error == "dropped" {
			dropped++
		}
	}
	if dropped != 2 {
		t.Errorf("%d dropped calls recorded, want 2", dropped)
	}
}

func TestRestartIsTheSameCloud(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	options := azure.Options{StateDir: dir, Listen: []string{"127.0.0.1:" + freeport.Get(t)}, Settings: azure.Settings{VMSSOperation: azure.Duration(time.Hour)}}
	w := newWorld(t, options)
	a := w.identity(t, "a")
	must(w.vmssClient(t).BeginUpdate(t.Context(), group, "pool", vmssPatch("UserAssigned", a.ID), nil))(t)
	before, ca := w.State(), w.CAPEM()
	token := w.token(t)
	w.Close()

	again := must(azure.New(options))(t)
	if err := again.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(again.Close)
	if after := again.State(); len(after.Operations) != 1 || after.Operations[0].ID != before.Operations[0].ID || len(after.Roles) != len(before.Roles) ||
		after.Compute[1].Version != before.Compute[1].Version || after.Identities[0].PrincipalID != a.PrincipalID {
		t.Errorf("after the restart %+v, before %+v", after, before)
	}
	if string(again.CAPEM()) != string(ca) || again.TenantID() != w.TenantID() {
		t.Error("another CA or tenant")
	}
	if file := must(os.ReadFile(filepath.Join(dir, "ca.pem")))(t); string(file) != string(ca) {
		t.Error("ca.pem is another one")
	}
	w.Emulator = again
	response, _ := w.arm(t, "GET", w.vm.ID+apiVersion, "", "Authorization", "Bearer "+token)
	if response.StatusCode != http.StatusOK {
		t.Errorf("an old token: %d", response.StatusCode)
	}
	again.CompleteOperations()
	if got := must(again.Compute(w.vmss.ID))(t); len(got.UserAssigned) != 1 {
		t.Errorf("the operation was lost: %+v", got)
	}

	if _, err := azure.New(azure.Options{StateDir: dir, TenantID: "other"}); err == nil {
		t.Error("a state of another tenant is taken")
	}
	if err := os.WriteFile(filepath.Join(dir, "keys.pem"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := azure.New(options); err == nil || !strings.Contains(err.Error(), "keys.pem") {
		t.Errorf("a broken key file: %v", err)
	}
}
