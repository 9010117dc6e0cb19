package controller

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/record"
	"k8s.io/klog/v2"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/envtest"

	azcloud "github.com/Azure/azure-sdk-for-go/sdk/azcore/cloud"

	v1 "github.com/aad-pod-identity/aad-pod-identity/api/v1"
	"github.com/aad-pod-identity/aad-pod-identity/internal/access"
	"github.com/aad-pod-identity/aad-pod-identity/internal/azure/arm"
	"github.com/aad-pod-identity/aad-pod-identity/internal/azure/cloud"
	"github.com/aad-pod-identity/aad-pod-identity/internal/metric"
	"github.com/aad-pod-identity/aad-pod-identity/mic/compute"
	"github.com/aad-pod-identity/aad-pod-identity/test/apiserver"
	"github.com/aad-pod-identity/aad-pod-identity/test/azure"
)

const (
	testSub      = "11111111-2222-3333-4444-555555555555"
	testGroup    = "nodes"
	micNamespace = "mic-system"

	// patience is how long a state is waited for. It is reached in a fraction.
	patience = 60 * time.Second
)

// cluster is a real API server with our CRDs. Nothing else runs in it: pods are
// scheduled by naming their node, and end when they are told to.
type cluster struct {
	config *rest.Config
	client client.Client
}

// shared is the API server of all tests of this package, which starts with the first
// that needs it.
var shared struct {
	once    sync.Once
	env     *envtest.Environment
	cluster *cluster
	err     error
}

func TestMain(m *testing.M) {
	code := m.Run()
	if shared.env != nil {
		if err := shared.env.Stop(); err != nil {
			fmt.Fprintf(os.Stderr, "stopping the API server: %v\n", err)
			code = max(code, 1)
		}
	}
	os.Exit(code)
}

func startCluster(t *testing.T) *cluster {
	t.Helper()
	apiserver.Require(t)
	shared.once.Do(func() { shared.cluster, shared.err = newCluster() })
	check(t, shared.err)
	return shared.cluster
}

func newCluster() (*cluster, error) {
	ctrl.SetLogger(klog.Background())
	shared.env = &envtest.Environment{CRDDirectoryPaths: []string{"../../charts/aad-pod-identity/crds"}, ErrorIfCRDPathMissing: true}
	config, err := apiserver.Launch(shared.env)
	if err != nil {
		return nil, err
	}
	config.QPS = -1
	live, err := NewLiveClient(config)
	if err != nil {
		return nil, err
	}
	for _, namespace := range []string{micNamespace, "other", "other-default"} {
		// It is there if the API server is one that was started by hand.
		err := live.Create(context.Background(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}})
		if err != nil && !apierrors.IsAlreadyExists(err) {
			return nil, err
		}
	}
	return &cluster{config: config, client: live}, nil
}

func (c *cluster) create(t *testing.T, o client.Object) {
	t.Helper()
	if err := c.client.Create(t.Context(), o); err != nil {
		t.Fatalf("creating %T %s: %v", o, o.GetName(), err)
	}
}

// remove deletes at once, as a kubelet does in the end.
func (c *cluster) remove(t *testing.T, o client.Object) {
	t.Helper()
	if err := c.client.Delete(t.Context(), o, client.GracePeriodSeconds(0)); client.IgnoreNotFound(err) != nil {
		t.Fatalf("deleting %T %s: %v", o, o.GetName(), err)
	}
}

// clear removes everything that a scenario may have left.
func (c *cluster) clear(t *testing.T) {
	t.Helper()
	ctx := context.WithoutCancel(t.Context())
	var assigned assignedList
	check(t, c.client.List(ctx, &assigned))
	for _, a := range assigned.Items {
		check(t, client.IgnoreNotFound(c.client.Patch(ctx, a, client.RawPatch(types.MergePatchType, []byte(`{"metadata":{"finalizers":null}}`)))))
		check(t, client.IgnoreNotFound(c.client.Delete(ctx, a)))
	}
	for _, namespace := range []string{"default", "other", "other-default", micNamespace} {
		for _, kind := range []client.Object{&corev1.Pod{}, &v1.AzureIdentity{}, &v1.AzureIdentityBinding{}, &v1.AzurePodIdentityException{}, &corev1.ConfigMap{}, &corev1.Event{}} {
			check(t, c.client.DeleteAllOf(ctx, kind, client.InNamespace(namespace), client.GracePeriodSeconds(0)))
		}
	}
	check(t, c.client.DeleteAllOf(ctx, &corev1.Node{}))
}

// scenario is one test: an Azure, the cluster, and MIC.
type scenario struct {
	*cluster
	t     *testing.T
	azure *azure.Emulator
	cloud *cloud.Cloud
	stop  func()
	// mayUse is asked from the next startMIC on.
	mayUse access.MayUse
	// gates switches the readiness gate on at the next startMIC.
	gates bool
	// force confines every identity to its namespace from the next startMIC on.
	force bool
	// upgrade of stored objects from the next startMIC on.
	upgrade *TypeUpgrade
	// as is the user that the next MIC is; "" is one who may do everything.
	as string
	// cut, if set, is how many writes the next MIC gets before it dies.
	cut *int
	// listless: the caches of the next MIC are never filled.
	listless bool
	// wire is MIC's connection to the API server and to Azure.
	wire *wire
}

func (c *cluster) scenario(t *testing.T) *scenario {
	t.Helper()
	t.Cleanup(func() { c.clear(t) })
	// Operations end at once: ARM has whoever polls wait for a second at least.
	e, err := azure.New(azure.Options{})
	check(t, err)
	check(t, e.Start(t.Context()))
	t.Cleanup(e.Close)
	s := &scenario{cluster: c, t: t, azure: e}
	app, err := e.PutApp(azure.App{Secrets: []string{"secret"}})
	check(t, err)
	for _, role := range []string{azure.RoleVirtualMachineContributor, azure.RoleManagedIdentityOperator} {
		check(t, e.Grant(azure.Role{PrincipalID: app.ObjectID, Role: role, Scope: "/subscriptions/" + testSub + "/resourceGroups/" + testGroup}))
	}
	environment := cloud.Environment{Name: cloud.Custom, Private: true, Configuration: azcloud.Configuration{
		ActiveDirectoryAuthorityHost: e.AADEndpoint(),
		Services: map[azcloud.ServiceName]azcloud.ServiceConfiguration{
			azcloud.ResourceManager: {Endpoint: e.Endpoint(), Audience: azure.DefaultAudience},
		},
	}}
	config := &cloud.Config{TenantID: e.TenantID(), ClientID: app.ClientID, ClientSecret: "secret"}
	credential, err := cloud.NewCredential(config, environment, e.HTTPClient())
	check(t, err)
	s.cloud = &cloud.Cloud{Config: config, Environment: environment, HTTP: e.HTTPClient(), Credential: credential}

	_, err = e.PutCompute(azure.Compute{ID: azure.VMSSID(testSub, testGroup, "pool1")})
	check(t, err)
	s.node("node0", "azure://"+azure.InstanceID(azure.VMSSID(testSub, testGroup, "pool1"), "0"))
	s.node("node1", "azure://"+azure.InstanceID(azure.VMSSID(testSub, testGroup, "pool1"), "1"))
	s.startMIC()
	t.Cleanup(func() { s.stop() })
	return s
}

// startMIC starts a leader.
func (s *scenario) startMIC() {
	s.t.Helper()
	ctx, cancel := context.WithCancel(klog.NewContext(context.Background(), klog.Background()))
	metrics := metric.NewMIC(prometheus.NewRegistry())
	s.wire = &wire{listless: s.listless}
	if s.cut != nil {
		s.wire.cutAfter(*s.cut)
	}
	config := asUser(s.config, s.as)
	config.Wrap(s.wire.around)
	live, err := NewLiveClient(config)
	check(s.t, err)
	azureCloud := *s.cloud
	azureCloud.HTTP = &http.Client{Transport: s.wire.around(s.cloud.HTTP.Transport)}
	engine := compute.NewEngine(compute.LedgerStore{Client: live, Namespace: micNamespace},
		compute.NewClient(azureCloud.Credential, arm.ClientOptions(&azureCloud, arm.NewBudget(), "test"), nil),
		compute.Options{VerifyInterval: time.Hour, Backoff: compute.Backoff{Quick: 1, Interval: 100 * time.Millisecond, First: time.Second, Max: time.Second}})
	clientset, err := kubernetes.NewForConfig(config)
	check(s.t, err)
	broadcaster := record.NewBroadcaster()
	broadcaster.StartRecordingToSink(&typedcorev1.EventSinkImpl{Interface: clientset.CoreV1().Events("")})
	scheme, err := Scheme()
	check(s.t, err)
	controllers, err := New(ctx, config, live, engine, Options{
		Namespace: micNamespace, ForceNamespaced: s.force, ReadinessGate: s.gates, Parallel: 20, Metrics: metrics, SkipNameValidation: true,
		Settle: 50 * time.Millisecond, Upgrade: s.upgrade,
		MayUse: s.mayUse, ReviewInterval: 2 * time.Second,
		Recorder: broadcaster.NewRecorder(scheme, corev1.EventSource{Component: EventComponent}),
	})
	check(s.t, err)
	ended := make(chan error, 1)
	go func() { ended <- controllers.Run(ctx) }()
	stopped := false
	s.stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-ended; err != nil && !errors.Is(err, context.Canceled) {
			s.t.Errorf("manager: %v", err)
		}
		broadcaster.Shutdown()
	}
}

func (s *scenario) node(name, providerID string) *corev1.Node {
	s.t.Helper()
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.NodeSpec{ProviderID: providerID}}
	s.create(s.t, n)
	return n
}

// identity makes an AzureIdentity and, in Azure, the identity.
func (s *scenario) identity(namespace, name string) *v1.AzureIdentity {
	s.t.Helper()
	inAzure, err := s.azure.PutIdentity(azure.Identity{ID: azure.IdentityID(testSub, testGroup, name)})
	check(s.t, err)
	id := &v1.AzureIdentity{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name},
		Spec:       v1.AzureIdentitySpec{ResourceID: strings.Replace(inAzure.ID, "resourceGroups", "resourcegroups", 1), ClientID: inAzure.ClientID},
	}
	s.create(s.t, id)
	return id
}

// change writes what an edit changes, whatever MIC wrote to the object meanwhile.
func (s *scenario) change(o client.Object, edit func()) {
	s.t.Helper()
	before := o.DeepCopyObject().(client.Object)
	edit()
	check(s.t, s.client.Patch(s.t.Context(), o, client.MergeFrom(before)))
}

func (s *scenario) bind(namespace, name, identity, selector string) *v1.AzureIdentityBinding {
	s.t.Helper()
	b := &v1.AzureIdentityBinding{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name},
		Spec:       v1.AzureIdentityBindingSpec{AzureIdentity: identity, Selector: selector},
	}
	s.create(s.t, b)
	return b
}

func (s *scenario) pod(namespace, name, node, label string) *corev1.Pod {
	s.t.Helper()
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, Labels: map[string]string{v1.BindingLabelKey: label}},
		Spec:       corev1.PodSpec{NodeName: node, Containers: []corev1.Container{{Name: "c", Image: "none"}}},
	}
	s.create(s.t, p)
	return p
}

// eventually waits until state returns "", which else says what is missing.
func (s *scenario) eventually(what string, state func() string) {
	s.t.Helper()
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		missing := state()
		if missing == "" {
			return
		}
		select {
		case <-deadline.C:
			s.t.Fatalf("%s: %s", what, missing)
		case <-tick.C:
		}
	}
}

// onPool waits until exactly these identities are on the scale set.
func (s *scenario) onPool(want ...string) {
	s.t.Helper()
	s.eventually("identities of the scale set", func() string { return s.poolHas(want...) })
}

// poolHas says what is wrong if others than these identities are on the scale set.
func (s *scenario) poolHas(want ...string) string { return s.targetHas("pool1", want...) }

func (s *scenario) targetHas(pool string, want ...string) string {
	s.t.Helper()
	slices.Sort(want)
	c, err := s.azure.Compute(azure.VMSSID(testSub, testGroup, pool))
	check(s.t, err)
	var got []string
	for _, a := range c.UserAssigned {
		got = append(got, a.ID[strings.LastIndex(a.ID, "/")+1:])
	}
	if slices.Sort(got); !slices.Equal(got, want) {
		return fmt.Sprintf("%s has %q, want %q", pool, got, want)
	}
	return ""
}

// assigned waits until exactly these objects exist, as namespace/name=status.
func (s *scenario) assigned(want ...string) {
	s.t.Helper()
	s.eventually("AzureAssignedIdentities", func() string { return s.assignedAre(want...) })
}

// assignedAre says what is wrong if others than these objects exist.
func (s *scenario) assignedAre(want ...string) string {
	s.t.Helper()
	slices.Sort(want)
	var got []string
	for _, a := range s.all() {
		status := a.Status.Status
		if !a.DeletionTimestamp.IsZero() {
			status += " deleting"
		}
		got = append(got, a.Namespace+"/"+a.Name+"="+status)
	}
	if slices.Sort(got); !slices.Equal(got, want) {
		return fmt.Sprintf("are %q, want %q", got, want)
	}
	return ""
}

// ledgersAre says what is wrong if there is another number of ledgers.
func (s *scenario) ledgersAre(want int) string {
	s.t.Helper()
	var ledgers corev1.ConfigMapList
	check(s.t, s.client.List(s.t.Context(), &ledgers, client.InNamespace(micNamespace), client.MatchingLabels{v1.LedgerLabelKey: "true"}))
	if len(ledgers.Items) != want {
		return fmt.Sprintf("%d ledgers, want %d", len(ledgers.Items), want)
	}
	return ""
}

// conditionIs says what is wrong if a condition of an object in namespace default
// has another reason, or is about an older spec.
func (s *scenario) conditionIs(o client.Object, name, kind, reason string) string {
	s.t.Helper()
	check(s.t, client.IgnoreNotFound(s.client.Get(s.t.Context(), types.NamespacedName{Namespace: "default", Name: name}, o)))
	var all []metav1.Condition
	switch o := o.(type) {
	case *v1.AzureIdentity:
		all = o.Status.Conditions
	case *v1.AzureIdentityBinding:
		all = o.Status.Conditions
	}
	c := meta.FindStatusCondition(all, kind)
	if c == nil || c.Reason != reason || c.ObservedGeneration != o.GetGeneration() {
		return fmt.Sprintf("condition %s of %T %s is %+v, want reason %s", kind, o, name, c, reason)
	}
	return ""
}

func (s *scenario) all() []v1.AzureAssignedIdentity {
	s.t.Helper()
	var list assignedList
	check(s.t, s.client.List(s.t.Context(), &list))
	all := make([]v1.AzureAssignedIdentity, len(list.Items)) // which, unlike pointers, say something when printed
	for i, a := range list.Items {
		all[i] = *a
	}
	return all
}

// event waits for an event.
func (s *scenario) event(kind, name, reason, text string) {
	s.t.Helper()
	s.eventually(fmt.Sprintf("event %q on %s %s", reason, kind, name), func() string {
		var list corev1.EventList
		check(s.t, s.client.List(s.t.Context(), &list))
		var seen []string
		for _, e := range list.Items {
			if e.InvolvedObject.Kind == kind && e.InvolvedObject.Name == name {
				if e.Reason == reason && strings.Contains(e.Message, text) && e.Source.Component == EventComponent {
					return ""
				}
				seen = append(seen, e.Reason+": "+e.Message)
			}
		}
		return fmt.Sprintf("there are only %q", seen)
	})
}

// tags waits until a pod has these tags.
func (s *scenario) tags(p *corev1.Pod, binding, identity, all string) {
	s.t.Helper()
	s.eventually("tags of pod "+p.Name, func() string {
		var now corev1.Pod
		check(s.t, s.client.Get(s.t.Context(), client.ObjectKeyFromObject(p), &now))
		got := tagsOf(&now)
		if got.Binding != binding || got.Identity != identity || got.Bindings != all {
			return fmt.Sprintf("%+v", got)
		}
		return ""
	})
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
