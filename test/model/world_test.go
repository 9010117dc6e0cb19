package model

import (
	"context"
	"fmt"
	"os"
	"path"
	"strings"
	"testing"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/klog/v2"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/envtest"

	azcloud "github.com/Azure/azure-sdk-for-go/sdk/azcore/cloud"

	v1 "github.com/aad-pod-identity/aad-pod-identity/api/v1"
	"github.com/aad-pod-identity/aad-pod-identity/internal/azure/cloud"
	"github.com/aad-pod-identity/aad-pod-identity/test/apiserver"
	"github.com/aad-pod-identity/aad-pod-identity/test/azure"
)

const (
	micNamespace  = "mic-system"
	sub, otherSub = "11111111-2222-3333-4444-555555555555", "99999999-2222-3333-4444-555555555555"
	clientID      = "7eb6d1a0-2c4f-4b8e-9d3a-5f1e0c7ba6a9"
)

var (
	// targetIDs are the VMs and scale sets: one scale set, one of the same name in
	// another subscription, a VM, and an instance of a flexible scale set.
	targetIDs = map[string]string{
		"pool": azure.VMSSID(sub, "nodes", "pool"), "twin": azure.VMSSID(otherSub, "nodes2", "pool"),
		"vm": azure.VMID(sub, "nodes", "vm"), "flex": azure.VMID(sub, "nodes", "flex_1a2b3c"),
	}
	// providerIDs are spelt as Azure does at times.
	providerIDs = map[string]string{
		"n0": "azure://" + azure.InstanceID(targetIDs["pool"], "0"), "n1": "azure://" + azure.InstanceID(strings.Replace(targetIDs["pool"], "/nodes/", "/NODES/", 1), "1"),
		"n2": "azure://" + azure.InstanceID(targetIDs["twin"], "0"), "n3": "azure://" + targetIDs["vm"], "n4": "azure://" + strings.ToLower(targetIDs["flex"]),
	}
	namespaces = []string{"default", "c", "b-c", micNamespace}
)

func resourceID(r string) string {
	group := "ids"
	if r == closed {
		group = "private"
	}
	return azure.IdentityID(sub, group, r)
}

// faults are the ways in which Azure fails.
var faults = map[string]azure.Fault{
	"429":                          {Service: azure.ServiceARM, Status: 429, Code: "TooManyRequests", RetryAfter: 1},
	"500":                          {Service: azure.ServiceARM, Status: 500, Code: "InternalServerError"},
	"503 of a proxy":               {Service: azure.ServiceARM, Status: 503, RawBody: "upstream connect error"},
	"403 for a scale set":          {Operation: azure.OpVMSSUpdate, Status: 403, Code: "AuthorizationFailed", Message: "no write"},
	"403 for a VM to be read":      {Operation: azure.OpVMGet, Status: 403, Code: "AuthorizationFailed", Message: "no read"},
	"400 that names nobody":        {Operation: azure.OpVMSSUpdate, Status: 400, Code: "InvalidParameter", Message: "something is wrong"},
	"409":                          {Operation: azure.OpVMSSUpdate, Status: 409, Code: "Conflict", Message: "another update is under way"},
	"409 for a VM":                 {Operation: azure.OpVMUpdate, Status: 409, Code: "OperationNotAllowed", Message: "another update is under way"},
	"failed operation":             {Operation: azure.OpVMSSUpdate, Async: true, Code: "InternalExecutionError", Message: "an internal error"},
	"failed operation of a VM":     {Operation: azure.OpVMUpdate, Async: true, Code: "InternalExecutionError", Message: "an internal error"},
	"lost answer":                  {Operation: azure.OpVMSSUpdate, After: true, Drop: true},
	"lost answer of a VM":          {Operation: azure.OpVMUpdate, After: true, Drop: true},
	"error after it was done":      {Operation: azure.OpVMSSUpdate, After: true, Status: 504, Code: "GatewayTimeout"},
	"dropped connection":           {Service: azure.ServiceARM, Drop: true},
	"slowness":                     {Service: azure.ServiceARM, Delay: azure.Duration(150_000_000)},
	"poll that fails":              {Operation: azure.OpOperationGet, Status: 500, Code: "InternalServerError"},
	"poll that is throttled":       {Operation: azure.OpOperationGet, Status: 429, Code: "TooManyRequests", RetryAfter: 1},
	"400 that names nobody, of VM": {Operation: azure.OpVMUpdate, Status: 400, Code: "InvalidParameter", Message: "something is wrong"},
}

// server is a real API server with our CRDs, and an Azure beside it.
type server struct {
	config *rest.Config
	client client.Client
	azure  *azure.Emulator
	cloud  *cloud.Cloud
}

var (
	running     *server
	stopServers = func() error { return nil }
)

func TestMain(m *testing.M) {
	code := m.Run()
	if err := stopServers(); err != nil {
		fmt.Fprintln(os.Stderr, "stopping the API server:", err)
		code = 1
	}
	os.Exit(code)
}

func startServers(t *testing.T) *server {
	t.Helper()
	if running != nil {
		return running
	}
	apiserver.Require(t)
	// MIC's own log goes to its process; what the libraries say of killed MICs
	// helps nobody.
	ctrl.SetLogger(logr.Discard())
	klog.SetLogger(logr.Discard())
	env := &envtest.Environment{CRDDirectoryPaths: []string{"../../charts/aad-pod-identity/crds"}, ErrorIfCRDPathMissing: true}
	config, err := apiserver.Launch(env)
	check(t, err)
	config.QPS = -1
	config.WarningHandler = rest.NoWarnings{}
	scheme := runtime.NewScheme()
	check(t, clientgoscheme.AddToScheme(scheme))
	check(t, v1.AddToScheme(scheme))
	s := &server{config: config}
	s.client, err = client.New(config, client.Options{Scheme: scheme})
	check(t, err)
	for _, namespace := range namespaces {
		if namespace != "default" {
			check(t, s.client.Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}}))
		}
	}

	s.azure, err = azure.New(azure.Options{Seed: seed(), Settings: azure.Settings{VMSSOperation: azure.Duration(10_000_000), VMOperation: azure.Duration(5_000_000)}})
	check(t, err)
	// The emulator must outlive the first test that uses it.
	check(t, s.azure.Start(context.WithoutCancel(t.Context())))
	stopServers = func() error { s.azure.Close(); return env.Stop() }
	environment := cloud.Environment{Name: cloud.Custom, Private: true, Configuration: azcloud.Configuration{
		ActiveDirectoryAuthorityHost: s.azure.AADEndpoint(),
		Services: map[azcloud.ServiceName]azcloud.ServiceConfiguration{
			azcloud.ResourceManager: {Endpoint: s.azure.Endpoint(), Audience: azure.DefaultAudience},
		},
	}}
	c := &cloud.Config{TenantID: s.azure.TenantID(), ClientID: micApp, ClientSecret: "secret"}
	credential, err := cloud.NewCredential(c, environment, s.azure.HTTPClient())
	check(t, err)
	s.cloud = &cloud.Cloud{Config: c, Environment: environment, HTTP: s.azure.HTTPClient(), Credential: credential}
	running = s
	return s
}

const micApp, micPrincipal = "0d0d0d0d-1111-4111-8111-0d0d0d0d0d0d", "0d0d0d0d-2222-4222-8222-0d0d0d0d0d0d"

// closedRole is what permits MIC to assign the identity closed.
var closedRole = azure.Role{PrincipalID: micPrincipal, Role: azure.RoleManagedIdentityOperator, Scope: "/subscriptions/" + sub + "/resourceGroups/private"}

// seed is Azure at the beginning, as newFacts says.
func seed() azure.State {
	s := azure.State{Apps: []azure.App{{Name: "mic", ClientID: micApp, ObjectID: micPrincipal, Secrets: []string{"secret"}}}}
	for _, scope := range []string{sub, otherSub} {
		s.Roles = append(s.Roles, azure.Role{PrincipalID: micPrincipal, Role: azure.RoleVirtualMachineContributor, Scope: "/subscriptions/" + scope})
	}
	s.Roles = append(s.Roles, azure.Role{PrincipalID: micPrincipal, Role: azure.RoleManagedIdentityOperator, Scope: "/subscriptions/" + sub + "/resourceGroups/ids"})
	for _, id := range targetIDs {
		s.Compute = append(s.Compute, azure.Compute{ID: id, SystemAssigned: true})
	}
	for r := range newFacts().azure {
		s.Identities = append(s.Identities, azure.Identity{ID: resourceID(r)})
	}
	return s
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// world is one history under way.
type world struct {
	*server
	ctx   context.Context
	pace  pace
	facts *facts
	mic   *process
	// all are the MICs that ran.
	all []*process
	// systems are the system-assigned identities.
	systems map[string]string
}

// begin makes the world of newFacts and starts MIC.
func (s *server) begin(ctx context.Context, at pace) (*world, error) {
	w := &world{server: s, ctx: ctx, pace: at, facts: newFacts(), systems: map[string]string{}}
	if err := s.azure.Reset(); err != nil {
		return nil, fmt.Errorf("resetting Azure: %w", err)
	}
	if err := s.clear(ctx); err != nil {
		return nil, err
	}
	for _, n := range nodes {
		if err := w.makeNode(n); err != nil {
			return nil, err
		}
	}
	for name := range targetIDs {
		if err := w.noteSystem(name); err != nil {
			return nil, err
		}
	}
	return w, w.startMIC()
}

func (w *world) noteSystem(target string) error {
	c, err := w.azure.Compute(targetIDs[target])
	if err == nil {
		w.systems[target] = c.SystemPrincipalID
	}
	return err
}

func (w *world) startMIC() error {
	p, err := start(w.config, w.cloud, w.pace)
	if err != nil {
		return err
	}
	w.mic = p
	w.all = append(w.all, p)
	return nil
}

// end stops what runs.
func (w *world) end() error {
	for _, p := range w.all {
		if err := p.stop(); err != nil {
			return err
		}
	}
	return nil
}

// clear removes what a history may have left.
func (s *server) clear(ctx context.Context) error {
	var list v1.AzureAssignedIdentityList
	if err := s.client.List(ctx, &list); err != nil {
		return fmt.Errorf("listing assigned identities: %w", err)
	}
	for i := range list.Items {
		if err := s.force(ctx, &list.Items[i]); err != nil {
			return err
		}
	}
	for _, namespace := range namespaces {
		kinds := []client.Object{&corev1.Pod{}, &v1.AzureIdentity{}, &v1.AzureIdentityBinding{}}
		if namespace == micNamespace {
			kinds = []client.Object{&corev1.ConfigMap{}}
		}
		for _, kind := range kinds {
			if err := s.client.DeleteAllOf(ctx, kind, client.InNamespace(namespace), client.GracePeriodSeconds(0)); err != nil {
				return fmt.Errorf("removing %T of namespace %s: %w", kind, namespace, err)
			}
		}
	}
	if err := s.client.DeleteAllOf(ctx, &corev1.Node{}); err != nil {
		return fmt.Errorf("removing nodes: %w", err)
	}
	return nil
}

func (s *server) clearFinalizer(ctx context.Context, o client.Object) error {
	return client.IgnoreNotFound(s.client.Patch(ctx, o, client.RawPatch(types.MergePatchType, []byte(`{"metadata":{"finalizers":null}}`))))
}

// force deletes an object whatever its finalizers.
func (s *server) force(ctx context.Context, o client.Object) error {
	if err := s.clearFinalizer(ctx, o); err != nil {
		return err
	}
	return s.remove(ctx, o)
}

func (s *server) remove(ctx context.Context, o client.Object) error {
	return client.IgnoreNotFound(s.client.Delete(ctx, o, client.GracePeriodSeconds(0)))
}

// resourceOf is the name of an identity in Azure.
func resourceOf(id string) string { return path.Base(strings.ToLower(id)) }
