package compute

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/klog/v2"
	"k8s.io/klog/v2/ktesting"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	azcloud "github.com/Azure/azure-sdk-for-go/sdk/azcore/cloud"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"

	"github.com/aad-pod-identity/aad-pod-identity/internal/azure/arm"
	"github.com/aad-pod-identity/aad-pod-identity/internal/azure/cloud"
	"github.com/aad-pod-identity/aad-pod-identity/internal/metric"
	"github.com/aad-pod-identity/aad-pod-identity/internal/resourceid"
	"github.com/aad-pod-identity/aad-pod-identity/test/azure"
)

const (
	testSub   = "11111111-2222-3333-4444-555555555555"
	testGroup = "nodes"
	testNS    = "mic-system"
)

// world is an Azure, a cluster that holds ledgers, and an engine between them.
type world struct {
	t        *testing.T
	ctx      context.Context
	azure    *azure.Emulator
	cloud    *cloud.Cloud
	app      azure.App
	cluster  client.WithWatch
	engine   *Engine
	budget   *arm.Budget
	immune   map[string]bool
	now      time.Time
	pool, vm resourceid.Compute
	// onLedger, if set, runs before each write of a ledger.
	onLedger func() error
	// afterPatch, if set, runs after each PATCH.
	afterPatch func()
	// effect, if set, runs before and after each call to ARM and each write of a
	// ledger. An error keeps the call from being made, or its answer from arriving.
	effect func(before bool) error
}

// Do implements policy.Policy: the tests' place between MIC and ARM.
func (w *world) Do(req *policy.Request) (*http.Response, error) {
	if w.effect == nil {
		return req.Next()
	}
	if err := w.effect(true); err != nil {
		return nil, err
	}
	response, err := req.Next()
	if killed := w.effect(false); killed != nil {
		if response != nil {
			_ = response.Body.Close() // nobody reads it
		}
		return nil, killed
	}
	return response, err
}

// emulator is Azure for all tests of the package, one after another: to make its
// keys takes longer than most of them.
var emulator = sync.OnceValue(func() *azure.Emulator {
	e := must(azure.New(azure.Options{}))
	if err := e.Start(context.Background()); err != nil {
		panic(err) //nolint:forbidigo // no test could run
	}
	return e
})

func newWorld(t *testing.T, settings azure.Settings) *world {
	t.Helper()
	w := &world{t: t, immune: map[string]bool{}, now: time.Now()}
	w.ctx = klog.NewContext(t.Context(), ktesting.NewLogger(t, ktesting.NewConfig()))
	e := emulator()
	try(t, e.Reset())
	try(t, e.SetSettings(settings))
	w.azure = e
	w.app = must(e.PutApp(azure.App{Secrets: []string{"secret"}}))
	for _, role := range []string{azure.RoleVirtualMachineContributor, azure.RoleManagedIdentityOperator} {
		try(t, e.Grant(azure.Role{PrincipalID: w.app.ObjectID, Role: role, Scope: "/subscriptions/" + testSub + "/resourceGroups/" + testGroup}))
	}
	must(e.PutCompute(azure.Compute{ID: azure.VMSSID(testSub, testGroup, "pool1")}))
	must(e.PutCompute(azure.Compute{ID: azure.VMID(testSub, testGroup, "vm1")}))
	w.pool = resourceid.Compute{Subscription: testSub, ResourceGroup: testGroup, Kind: resourceid.VMSS, Name: "pool1"}
	w.vm = resourceid.Compute{Subscription: testSub, ResourceGroup: testGroup, Kind: resourceid.VM, Name: "vm1"}

	environment := cloud.Environment{Name: cloud.Custom, Private: true, Configuration: azcloud.Configuration{
		ActiveDirectoryAuthorityHost: e.AADEndpoint(),
		Services: map[azcloud.ServiceName]azcloud.ServiceConfiguration{
			azcloud.ResourceManager: {Endpoint: e.Endpoint(), Audience: azure.DefaultAudience},
		},
	}}
	config := &cloud.Config{TenantID: e.TenantID(), ClientID: w.app.ClientID, ClientSecret: "secret"}
	credential := must(cloud.NewCredential(config, environment, e.HTTPClient()))
	w.cloud = &cloud.Cloud{Config: config, Environment: environment, HTTP: e.HTTPClient(), Credential: credential}

	write := func(do func() error) error {
		if w.onLedger != nil {
			if err := w.onLedger(); err != nil {
				return err
			}
		}
		if w.effect == nil {
			return do()
		}
		if err := w.effect(true); err != nil {
			return err
		}
		return errors.Join(do(), w.effect(false))
	}
	w.cluster = interceptor.NewClient(fake.NewClientBuilder().Build(), interceptor.Funcs{
		Create: func(ctx context.Context, c client.WithWatch, o client.Object, opts ...client.CreateOption) error {
			return write(func() error { return c.Create(ctx, o, opts...) })
		},
		Update: func(ctx context.Context, c client.WithWatch, o client.Object, opts ...client.UpdateOption) error {
			return write(func() error { return c.Update(ctx, o, opts...) })
		},
		Delete: func(ctx context.Context, c client.WithWatch, o client.Object, opts ...client.DeleteOption) error {
			return write(func() error { return c.Delete(ctx, o, opts...) })
		},
	})
	w.restart()
	return w
}

// restart gives the lead to a new process.
func (w *world) restart() {
	w.t.Helper()
	w.budget = arm.NewBudget()
	options := arm.ClientOptions(w.cloud, w.budget, "aad-pod-identity/MIC/test")
	options.Retry.RetryDelay = time.Millisecond
	options.PerRetryPolicies = append(options.PerRetryPolicies, w)
	c := NewClient(w.cloud.Credential, options, func(operation string, _ time.Duration, _ error) {
		if w.afterPatch != nil && operation == metric.OpVMSSUpdate {
			w.afterPatch()
		}
	})
	c.pollBase = 5 * time.Millisecond
	w.engine = NewEngine(LedgerStore{Client: w.cluster, Namespace: testNS}, c, Options{
		VerifyInterval: 3 * time.Minute,
		Backoff:        Backoff{Quick: 2, Interval: time.Second, First: 30 * time.Second, Max: 5 * time.Minute},
		Immutable:      func(id, clientID string) bool { return w.immune[clientID] || w.immune[resourceid.Key(id)] },
		Now:            func() time.Time { return w.now },
		Jitter:         func(d time.Duration) time.Duration { return d },
		Spread:         func(time.Duration) time.Duration { return 0 },
	})
	damaged, err := w.engine.Load(w.ctx)
	try(w.t, err)
	if len(damaged) > 0 {
		w.t.Fatalf("damaged ledgers: %v", damaged)
	}
}

// identity makes an identity that MIC may assign.
func (w *world) identity(name string) string {
	w.t.Helper()
	return must(w.azure.PutIdentity(azure.Identity{ID: azure.IdentityID(testSub, testGroup, name)})).ID
}

func (w *world) reconcile(target resourceid.Compute, want ...string) (Result, error) {
	return w.engine.Reconcile(w.ctx, Request{Target: target, Want: want, Prune: true})
}

// sure is reconcile where no error is expected.
func (w *world) sure(target resourceid.Compute, want ...string) Result {
	w.t.Helper()
	result, err := w.reconcile(target, want...)
	try(w.t, err)
	return result
}

// has checks what is on a target in Azure, in names of identities.
func (w *world) has(target resourceid.Compute, want ...string) {
	w.t.Helper()
	c := must(w.azure.Compute(target.String()))
	var got []string
	for _, a := range c.UserAssigned {
		got = append(got, a.ID[strings.LastIndex(a.ID, "/")+1:])
	}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		w.t.Errorf("%s has identities %q, want %q", target.Name, got, want)
	}
}

// ledger returns the stored ledger of a target in names of identities, "+" for
// added and "=" for preexisting.
func (w *world) ledger(target resourceid.Compute) []string {
	w.t.Helper()
	l, err := LedgerStore{Client: w.cluster, Namespace: testNS}.Read(w.ctx, target)
	try(w.t, err)
	var all []string
	for id := range l.Added {
		all = append(all, "+"+id[strings.LastIndex(id, "/")+1:])
	}
	for id := range l.Preexisting {
		all = append(all, "="+id[strings.LastIndex(id, "/")+1:])
	}
	slices.Sort(all)
	return all
}

func (w *world) ledgerIs(target resourceid.Compute, want ...string) {
	w.t.Helper()
	slices.Sort(want)
	if got := w.ledger(target); !slices.Equal(got, want) {
		w.t.Errorf("ledger of %s is %q, want %q", target.Name, got, want)
	}
}

// calls counts the calls of an operation so far.
func (w *world) calls(operation string) int {
	return len(w.azure.Calls(azure.CallFilter{Service: azure.ServiceARM, Operation: operation}))
}

// armCalls counts the calls to ARM so far.
func (w *world) armCalls() int {
	return len(w.azure.Calls(azure.CallFilter{Service: azure.ServiceARM}))
}

func (w *world) ledgerObjects() []string {
	w.t.Helper()
	var list corev1.ConfigMapList
	try(w.t, w.cluster.List(w.ctx, &list))
	var names []string
	for _, cm := range list.Items {
		names = append(names, cm.Name)
	}
	return names
}

// must is for calls that fail only if the test itself is wrong.
func must[T any](v T, err error) T {
	if err != nil {
		panic(fmt.Sprintf("test set-up: %v", err)) //nolint:forbidigo // saves every caller a line
	}
	return v
}

func try(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
