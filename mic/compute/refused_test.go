package compute

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aad-pod-identity/aad-pod-identity/internal/azure/arm"
	"github.com/aad-pod-identity/aad-pod-identity/internal/resourceid"
	"github.com/aad-pod-identity/aad-pod-identity/test/azure"
)

// pools makes more scale sets.
func (w *world) pools(n int) []resourceid.Compute {
	w.t.Helper()
	var all []resourceid.Compute
	for i := range n {
		pool := w.pool
		pool.Name = fmt.Sprintf("set%03d", i)
		must(w.azure.PutCompute(azure.Compute{ID: pool.String()}))
		all = append(all, pool)
	}
	return all
}

func TestARefusedIdentityIsTriedOnOneTargetOnly(t *testing.T) {
	w := newWorld(t, azure.Settings{})
	good, bad := w.identity("good"), azure.IdentityID(testSub, testGroup, "late")
	key := resourceid.Key(bad)
	pools := w.pools(20)
	var woken []string
	w.engine.OnRecovery(func(c resourceid.Compute) { woken = append(woken, c.Name) })
	pass := func() (results []Result) {
		for _, pool := range pools {
			results = append(results, w.sure(pool, good, bad))
		}
		return results
	}
	for i, r := range pass() {
		f, failed := r.Failed[key]
		if !failed || f.Code != "FailedIdentityOperation" || f.Fresh != (i == 0) || r.RetryAfter != time.Second || !r.Present[resourceid.Key(good)] {
			t.Fatalf("scale set %d: %+v", i, r)
		}
	}
	tried := func() int {
		n := 0
		for _, c := range w.azure.Calls(azure.CallFilter{Operation: azure.OpVMSSUpdate}) {
			if strings.Contains(c.Body, "late") {
				n++
			}
		}
		return n
	}
	if n := tried(); n != 1 {
		t.Errorf("the identity was tried %d times on 20 scale sets, want 1", n)
	}
	if n := w.engine.Refused(); n != 1 {
		t.Errorf("%d identities are refused, want 1", n)
	}
	// Each time its backoff is over, one tries it.
	for i := range 3 {
		w.now = w.now.Add(5 * time.Minute)
		pass()
		if n := tried(); n != 2+i {
			t.Errorf("tried %d times after %d backoffs", n, i+1)
		}
	}
	// It works: those that wait are told, and need not wait for their time.
	w.identity("late")
	w.now = w.now.Add(5 * time.Minute)
	w.sure(pools[7], good, bad)
	if len(woken) != 19 || slices.Contains(woken, pools[7].Name) {
		t.Errorf("woken: %q", woken)
	}
	for _, r := range pass() {
		if len(r.Failed) != 0 || !r.Present[key] {
			t.Fatalf("after the recovery: %+v", r)
		}
	}
}

func TestARefusalThatNamesNobodyIsOneTargetsMatterUntilTheSecond(t *testing.T) {
	w := newWorld(t, azure.Settings{})
	good, odd := w.identity("good"), w.identity("odd")
	pools := w.pools(4)
	must(w.azure.AddFault(azure.Fault{Operation: azure.OpVMSSUpdate, Match: "set000", BodyMatch: "/odd", Status: 400, Code: "InvalidParameter", Message: "not here"}))
	w.sure(pools[0], good, odd)
	if r := w.sure(pools[1], good, odd); len(r.Failed) != 0 {
		t.Errorf("one scale set's trouble reaches another: %+v", r.Failed)
	}
	must(w.azure.AddFault(azure.Fault{Operation: azure.OpVMSSUpdate, BodyMatch: "/odd", Status: 400, Code: "InvalidParameter", Message: "nowhere"}))
	w.now = w.now.Add(time.Second)
	w.sure(pools[0], good, odd)
	w.sure(pools[2], good, odd)
	before := w.calls(azure.OpVMSSUpdate)
	if r := w.sure(pools[3], good, odd); len(r.Failed) != 1 {
		t.Errorf("result %+v", r)
	}
	w.has(pools[3], "good")
	if n := w.calls(azure.OpVMSSUpdate) - before; n != 1 {
		t.Errorf("%d PATCHes of the fourth scale set, want 1", n)
	}
}

func TestAnIdentityThatIsNeededAgainIsTriedAtOnce(t *testing.T) {
	w := newWorld(t, azure.Settings{})
	bad := azure.IdentityID(testSub, testGroup, "late")
	w.sure(w.pool, bad)
	w.sure(w.pool)
	w.identity("late")
	if r := w.sure(w.pool, bad); !r.Present[resourceid.Key(bad)] {
		t.Errorf("result %+v", r)
	}
}

func TestAnotherCredentialIsTriedAtOnce(t *testing.T) {
	w := newWorld(t, azure.Settings{})
	foreign := must(w.azure.PutIdentity(azure.Identity{ID: azure.IdentityID(testSub, "elsewhere", "foreign")})).ID
	w.sure(w.pool, foreign)
	scope := "/subscriptions/" + testSub + "/resourceGroups/" + testGroup
	try(t, w.azure.Revoke(azure.Role{PrincipalID: w.app.ObjectID, Role: azure.RoleVirtualMachineContributor, Scope: scope}))
	if _, err := w.reconcile(w.vm, w.identity("a")); !arm.IsForbidden(err) {
		t.Fatalf("error %v", err)
	}
	woken := 0
	w.engine.OnRecovery(func(resourceid.Compute) { woken++ })
	try(t, w.azure.Grant(azure.Role{PrincipalID: w.app.ObjectID, Role: azure.RoleVirtualMachineContributor, Scope: scope}))
	try(t, w.azure.Grant(azure.Role{PrincipalID: w.app.ObjectID, Role: azure.RoleManagedIdentityOperator, Scope: foreign}))
	w.engine.SetClient(w.engine.client.Load())
	if woken != 2 {
		t.Errorf("%d targets are woken, want 2", woken)
	}
	w.sure(w.pool, foreign)
	w.has(w.pool, "foreign")
	w.sure(w.vm, w.identity("a"))
	w.has(w.vm, "a")
}

func TestTheMissingRoleIsNamed(t *testing.T) {
	w := newWorld(t, azure.Settings{})
	foreign := must(w.azure.PutIdentity(azure.Identity{ID: azure.IdentityID(testSub, "elsewhere", "foreign")})).ID
	f := w.sure(w.pool, foreign, w.identity("good")).Failed[resourceid.Key(foreign)]
	want := `az role assignment create --role "Managed Identity Operator" --assignee-object-id ` + w.app.ObjectID + ` --assignee-principal-type ServicePrincipal --scope "` + foreign + `"`
	if !strings.HasSuffix(f.Text(), want) || !strings.HasPrefix(f.Text(), "LinkedAuthorizationFailed: ") || f.RequestID == "" {
		t.Errorf("failure %+v", f)
	}
	// Where ARM does not say who the caller is, the token does.
	must(w.azure.AddFault(azure.Fault{Operation: azure.OpVMGet, Status: 403, Code: "AuthorizationFailed", Message: "may not perform action 'Microsoft.Compute/virtualMachines/read' over scope '" + w.vm.String() + "'"}))
	_, err := w.reconcile(w.vm, foreign)
	if want := `--role "Virtual Machine Contributor" --assignee-object-id ` + w.app.ObjectID; err == nil || !strings.Contains(explanation(err), want) {
		t.Errorf("error %v: %s", err, explanation(err))
	}
}

func TestATargetAtFaultIsLeftAlone(t *testing.T) {
	for name, fault := range map[string]azure.Fault{
		"it takes no PATCH":             {Status: 400, Code: "InvalidParameter", Message: "the image is gone"},
		"a lock is on it":               {Status: 409, Code: "ScopeLocked", Message: "locked"},
		"MIC may not change it":         {Status: 403, Code: "AuthorizationFailed", Message: "no"},
		"its operations all fail":       {Async: true, Code: "InternalExecutionError", Message: "sorry"},
		"another update is on it":       {Status: 409, Code: "OperationNotAllowed", Message: "in progress"},
		"its resource provider is down": {Status: 500, Code: "InternalServerError", Message: "sorry"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, azure.Settings{})
			var ids []string
			for i := range 16 {
				ids = append(ids, w.identity(fmt.Sprintf("id%02d", i)))
			}
			fault.ID, fault.Operation = "sick", azure.OpVMSSUpdate
			must(w.azure.AddFault(fault))
			result, err := w.reconcile(w.pool, ids...)
			if err == nil || len(result.Failed) != 0 || result.Waiting {
				t.Fatalf("error %v, result %+v: no identity is to blame", err, result)
			}
			if n := w.calls(azure.OpVMSSUpdate); n > 12 {
				t.Errorf("%d PATCHes to find out", n)
			}
			// Events come and go; ARM hears nothing before its time.
			before := w.armCalls()
			for i := range ids {
				again, err := w.reconcile(w.pool, ids[i:]...)
				if err == nil || !again.Waiting || again.RetryAfter != result.RetryAfter {
					t.Fatalf("error %v, result %+v", err, again)
				}
			}
			if n := w.armCalls() - before; n != 0 {
				t.Errorf("%d calls during the hold", n)
			}
			// Others do not suffer, and all is well once it is.
			w.sure(w.vm, ids[0])
			w.azure.RemoveFault("sick")
			w.now = w.now.Add(result.RetryAfter)
			w.sure(w.pool, ids...)
			w.ledgerIs(w.pool, w.plus(w.pool)...)
			if n := len(must(w.azure.Compute(w.pool.String())).UserAssigned); n != len(ids) {
				t.Errorf("%d identities, want %d", n, len(ids))
			}
		})
	}
}

// plus is what is on a target as the ledger says that MIC added it.
func (w *world) plus(target resourceid.Compute) []string {
	var names []string
	for _, a := range must(w.azure.Compute(target.String())).UserAssigned {
		names = append(names, "+"+a.ID[strings.LastIndex(a.ID, "/")+1:])
	}
	return names
}

func TestAGoodOneAmongManyUnnamedBadOnesIsFound(t *testing.T) {
	w := newWorld(t, azure.Settings{})
	var want []string
	for i := range 10 {
		want = append(want, w.identity(fmt.Sprintf("bad%d", i)))
	}
	want = append(want, w.identity("zgood"))
	must(w.azure.AddFault(azure.Fault{Operation: azure.OpVMSSUpdate, BodyMatch: "/bad", Status: 400, Code: "InvalidParameter", Message: "something is wrong"}))
	for range 5 {
		result, err := w.reconcile(w.pool, want...)
		if err == nil {
			break
		}
		w.now = w.now.Add(result.RetryAfter)
	}
	w.has(w.pool, "zgood")
}

func TestAnIdentityThatVanishedFromAzureHoldsUpNobody(t *testing.T) {
	for name, test := range map[string]struct {
		fault   azure.Fault
		further int // identities that come at once
	}{
		"refused at once":                   {fault: azure.Fault{Status: 400}},
		"refused in the operation":          {fault: azure.Fault{Async: true}},
		"the PATCH has no room for it":      {fault: azure.Fault{Status: 400}, further: maxPerRequest - 1},
		"in the operation, and has no room": {fault: azure.Fault{Async: true}, further: maxPerRequest - 1},
		"with more than a PATCH can carry":  {fault: azure.Fault{Status: 400}, further: maxPerRequest + 20},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, azure.Settings{})
			gone, b := w.identity("gone"), w.identity("b")
			w.sure(w.pool, gone)
			want, names := []string{gone, b}, []string{"b"}
			for i := range test.further {
				name := fmt.Sprintf("c%03d", i)
				want, names = append(want, w.identity(name)), append(names, name)
			}
			// ARM refuses every change of a scale set that has it, and a GET shows it as
			// if nothing were amiss.
			f := test.fault
			f.Operation, f.BodyMatch, f.Code = azure.OpVMSSUpdate, `"`+b+`":{}`, "FailedIdentityOperation"
			f.Message = "Identity operation failed: Resource '" + strings.ToLower(gone) + "' was not found."
			f.Count = 1
			must(w.azure.AddFault(f))
			result := w.sure(w.pool, want...)
			w.has(w.pool, names...)
			if f := result.Failed[resourceid.Key(gone)]; f.Code != "FailedIdentityOperation" || !f.Fresh || len(result.Failed) != 1 {
				t.Errorf("failed: %+v", result.Failed)
			}
		})
	}
}

// TestAVanishedIdentityThatCannotBeRemoved: ARM refuses its removal for the same reason.
func TestAVanishedIdentityThatCannotBeRemoved(t *testing.T) {
	w := newWorld(t, azure.Settings{})
	gone, b := w.identity("gone"), w.identity("b")
	w.sure(w.pool, gone)
	must(w.azure.AddFault(azure.Fault{
		Operation: azure.OpVMSSUpdate, Status: 400, Code: "FailedIdentityOperation",
		Message: "Identity operation failed: Resource '" + strings.ToLower(gone) + "' was not found.",
	}))
	before := w.calls(azure.OpVMSSUpdate)
	if _, err := w.reconcile(w.pool, gone, b); err == nil {
		t.Error("no error")
	}
	if sent := w.calls(azure.OpVMSSUpdate) - before; sent != 3 {
		t.Errorf("%d PATCHes, want one as it is, one without what vanished, and one after that failed", sent)
	}
	w.has(w.pool, "gone")
}

func explanation(err error) string {
	var e *arm.Error
	if !asARM(err, &e) {
		return ""
	}
	return e.Explanation()
}

func TestBadIdentitiesAreIsolated(t *testing.T) {
	foreign := func(w *world) string { // exists, and MIC may not assign it
		return must(w.azure.PutIdentity(azure.Identity{ID: azure.IdentityID(testSub, "elsewhere", "foreign")})).ID
	}
	missing := func(*world) string { return azure.IdentityID(testSub, testGroup, "missing") }
	for name, test := range map[string]struct {
		bad  []func(*world) string
		code string
	}{
		"no role assignment":        {[]func(*world) string{foreign}, "LinkedAuthorizationFailed"},
		"does not exist":            {[]func(*world) string{missing}, "FailedIdentityOperation"},
		"one of each kind together": {[]func(*world) string{missing, foreign}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, azure.Settings{})
			good, other := w.identity("good"), w.identity("other")
			want := []string{good, other}
			for _, bad := range test.bad {
				want = append(want, bad(w))
			}
			result := w.sure(w.pool, want...)
			w.has(w.pool, "good", "other")
			w.ledgerIs(w.pool, "+good", "+other")
			if len(result.Failed) != len(test.bad) {
				t.Fatalf("failed: %v", result.Failed)
			}
			for id, f := range result.Failed {
				if (test.code != "" && f.Code != test.code) || f.Message == "" || f.RequestID == "" || !f.Fresh || f.Attempts != 1 {
					t.Errorf("failure of %s: %+v", id, f)
				}
			}
			if result.RetryAfter != time.Second {
				t.Errorf("tries again after %s, want 1s", result.RetryAfter)
			}
			// It waits, while the others are not disturbed.
			before := w.armCalls()
			result = w.sure(w.pool, want...)
			if now := w.armCalls(); now != before || len(result.Failed) != len(test.bad) {
				t.Errorf("%d calls during the backoff, failed %v", now-before, result.Failed)
			}
		})
	}
}

func TestABadIdentityIsTriedAgainAndRecovers(t *testing.T) {
	w := newWorld(t, azure.Settings{})
	bad := azure.IdentityID(testSub, testGroup, "late")
	var waits []time.Duration
	for range 6 {
		result := w.sure(w.pool, bad)
		waits = append(waits, result.Failed[resourceid.Key(bad)].RetryAt.Sub(w.now))
		w.now = w.now.Add(waits[len(waits)-1])
	}
	if got, want := fmt.Sprint(waits), "[1s 1s 30s 1m0s 2m0s 4m0s]"; got != want {
		t.Errorf("waits %s, want %s", got, want)
	}
	w.identity("late")
	if result := w.sure(w.pool, bad); len(result.Failed) != 0 || !result.Present[resourceid.Key(bad)] {
		t.Errorf("result %+v", result)
	}
	w.ledgerIs(w.pool, "+late")
}

func TestACulpritThatIsNotNamedIsFoundByHalving(t *testing.T) {
	w := newWorld(t, azure.Settings{})
	var want, good []string
	for i := range 8 {
		name := fmt.Sprintf("id%d", i)
		want = append(want, w.identity(name))
		if i != 5 {
			good = append(good, name)
		}
	}
	must(w.azure.AddFault(azure.Fault{Operation: azure.OpVMSSUpdate, BodyMatch: "id5", Status: 400, Code: "InvalidParameter", Message: "something is wrong"}))
	result := w.sure(w.pool, want...)
	w.has(w.pool, good...)
	if f, ok := result.Failed[resourceid.Key(want[5])]; len(result.Failed) != 1 || !ok || f.Code != "InvalidParameter" {
		t.Errorf("failed: %v", result.Failed)
	}
}

func TestAFailedOperationIsReported(t *testing.T) {
	w := newWorld(t, azure.Settings{})
	a, b := w.identity("a"), w.identity("b")
	must(w.azure.AddFault(azure.Fault{
		Operation: azure.OpVMSSUpdate, BodyMatch: "/b\"", Async: true, Code: "FailedIdentityOperation",
		Message: "Identity operation failed: Resource '" + b + "' was not found.",
	}))
	result := w.sure(w.pool, a, b)
	w.has(w.pool, "a")
	if f := result.Failed[resourceid.Key(b)]; f.Code != "FailedIdentityOperation" {
		t.Errorf("failed: %v", result.Failed)
	}
}
