package controller

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/tools/record"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	v1 "github.com/aad-pod-identity/aad-pod-identity/api/v1"
	"github.com/aad-pod-identity/aad-pod-identity/internal/azure/arm"
	"github.com/aad-pod-identity/aad-pod-identity/internal/azure/cloud"
	"github.com/aad-pod-identity/aad-pod-identity/internal/metric"
	"github.com/aad-pod-identity/aad-pod-identity/internal/resourceid"
	"github.com/aad-pod-identity/aad-pod-identity/mic/compute"
)

// credential counts sign-ins, and refuses them.
type credential struct{ asked int }

func (c *credential) GetToken(context.Context, policy.TokenRequestOptions) (azcore.AccessToken, error) {
	c.asked++
	return azcore.AccessToken{}, errors.New("no token")
}

func TestAnObjectThatCannotBeWrittenHoldsUpNobody(t *testing.T) {
	const pool = "/subscriptions/11111111-2222-3333-4444-555555555555/resourceGroups/rg/providers/Microsoft.Compute/virtualMachineScaleSets/pool1"
	object := func(name string, change ...func(*v1.AzureAssignedIdentity)) *v1.AzureAssignedIdentity {
		a := &v1.AzureAssignedIdentity{
			ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, Finalizers: []string{v1.AssignedIdentityFinalizer}},
			Spec: v1.AzureAssignedIdentitySpec{
				Pod: name, PodNamespace: "default", NodeName: "node0",
				AzureIdentityRef: &v1.AzureIdentity{Spec: v1.AzureIdentitySpec{ResourceID: strings.Replace(verdictID, "demo", name, 1)}},
			},
			Status: v1.AzureAssignedIdentityStatus{Status: v1.AssignedIDCreated},
		}
		for _, c := range change {
			c(a)
		}
		return a
	}
	going := object("going", func(a *v1.AzureAssignedIdentity) {
		a.DeletionTimestamp = &metav1.Time{Time: time.Unix(1, 0)}
		a.Status.Status = v1.AssignedIDAssigned
	})
	c := interceptor.NewClient(indexed(t,
		&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node0"}, Spec: corev1.NodeSpec{ProviderID: "azure://" + pool + "/virtualMachines/0"}},
		going, object("coming")), interceptor.Funcs{
		Patch: func(ctx context.Context, c client.WithWatch, o client.Object, p client.Patch, opts ...client.PatchOption) error {
			if o.GetName() == going.Name {
				return apierrors.NewInvalid(schema.GroupKind{Group: v1.GroupName, Kind: v1.KindAzureAssignedIdentity}, o.GetName(), nil)
			}
			return c.Patch(ctx, o, p, opts...)
		},
	})

	environment, err := cloud.ResolveEnvironment("", "")
	check(t, err)
	signIn := &credential{}
	azure := compute.NewClient(signIn, arm.ClientOptions(&cloud.Cloud{Environment: environment}, arm.NewBudget(), ""), nil)
	engine := compute.NewEngine(compute.LedgerStore{Client: c, Namespace: "mic"}, azure, compute.Options{})
	_, err = engine.Load(t.Context())
	check(t, err)
	target, err := resourceid.ParseProviderID("azure://" + pool + "/virtualMachines/0")
	check(t, err)
	check(t, engine.Adopt(t.Context(), target, []string{going.Spec.AzureIdentityRef.Spec.ResourceID}))

	ev := newEvents(record.NewFakeRecorder(100))
	metrics := metric.NewMIC(prometheus.NewRegistry())
	w := &world{cached: c, live: c, namespace: "mic"}
	r := &targetReconciler{
		world: w, engine: engine, events: ev, metrics: metrics, start: &start{done: make(chan struct{})}, departures: &departures{},
		status: newStatusWriter(c, ev, metrics, 2),
	}
	close(r.start.done)
	_, err = r.Reconcile(t.Context(), place{target: target.Key()})
	if err == nil || !strings.Contains(err.Error(), "default/going") {
		t.Errorf("the object that cannot be written is not reported: %v", err)
	}
	if signIn.asked == 0 {
		t.Error("Azure was not called for the other identities of the scale set")
	}
}

func TestWhenATargetIsLookedAtAgain(t *testing.T) {
	refused := fmt.Errorf("updating: %w", &arm.Error{Kind: arm.Conflict})
	for name, test := range map[string]struct {
		result           compute.Result
		failure, writing error
		after            time.Duration
		limited          bool // the rate limiter of the queue decides
	}{
		"all is well":                         {result: compute.Result{RetryAfter: time.Minute}, after: time.Minute},
		"Azure wants to be left alone":        {result: compute.Result{RetryAfter: time.Minute}, failure: refused, after: time.Minute},
		"and still does":                      {result: compute.Result{RetryAfter: time.Second, Waiting: true}, failure: refused, after: time.Second},
		"the ledger could not be written":     {failure: errors.New("x"), limited: true},
		"a status could not be written":       {result: compute.Result{RetryAfter: time.Minute}, writing: errors.New("x"), limited: true},
		"neither Azure nor the API server do": {result: compute.Result{RetryAfter: time.Minute}, failure: refused, writing: errors.New("x"), limited: true},
	} {
		got, err := (&targetReconciler{}).next(t.Context(), resourceid.Compute{}, test.result, test.failure, test.writing)
		if got.RequeueAfter != test.after || (err != nil) != test.limited {
			t.Errorf("%s: after %s, error %v", name, got.RequeueAfter, err)
		}
	}
}

func TestWhatPodsNeedIsPutOnWithTheFirstOfThem(t *testing.T) {
	const pool = "/subscriptions/11111111-2222-3333-4444-555555555555/resourceGroups/rg/providers/Microsoft.Compute/virtualMachineScaleSets/pool1"
	resource := func(name string) string { return strings.Replace(verdictID, "demo", name, 1) }
	pod := func(name string, change ...func(*corev1.Pod)) *corev1.Pod {
		p := &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, Labels: map[string]string{v1.BindingLabelKey: name}},
			Spec:       corev1.PodSpec{NodeName: "node0"},
		}
		for _, c := range change {
			c(p)
		}
		return p
	}
	objects := []client.Object{
		&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node0"}, Spec: corev1.NodeSpec{ProviderID: "azure://" + pool + "/virtualMachines/0"}},
		pod("first"), pod("next"),
		pod("elsewhere", func(p *corev1.Pod) { p.Spec.NodeName = "node1" }),
		pod("ends", func(p *corev1.Pod) {
			p.DeletionTimestamp, p.Finalizers = &metav1.Time{Time: time.Unix(1, 0)}, []string{"example.com/waits"}
		}),
		pod("done", func(p *corev1.Pod) { p.Status.Phase = corev1.PodSucceeded }),
	}
	for _, name := range []string{"first", "next", "elsewhere", "ends", "done"} {
		objects = append(objects,
			&v1.AzureIdentity{
				ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name},
				Spec:       v1.AzureIdentitySpec{ResourceID: resource(name), ClientID: "11111111-2222-3333-4444-555555555555"},
			},
			&v1.AzureIdentityBinding{
				ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name},
				Spec:       v1.AzureIdentityBindingSpec{AzureIdentity: name, Selector: name},
			})
	}
	c := indexed(t, objects...)
	engine := compute.NewEngine(compute.LedgerStore{Client: c, Namespace: "mic"}, nil, compute.Options{})
	target, err := resourceid.ParseProviderID("azure://" + pool + "/virtualMachines/0")
	check(t, err)
	r := &targetReconciler{world: &world{cached: c, live: c, namespace: "mic"}, engine: engine}
	nodes, err := r.world.nodesOf(t.Context(), target.Key())
	check(t, err)
	assigned := []*v1.AzureAssignedIdentity{{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "first"},
		Spec:       v1.AzureAssignedIdentitySpec{AzureIdentityRef: &v1.AzureIdentity{Spec: v1.AzureIdentitySpec{ResourceID: resource("first"), ClientID: "11111111-2222-3333-4444-555555555555"}}},
	}}
	wants := func(names ...string) {
		t.Helper()
		request, _, err := r.request(t.Context(), target, nodes, assigned)
		check(t, err)
		got, want := map[string]bool{}, map[string]bool{}
		for _, id := range request.Want {
			got[id] = true
		}
		for _, name := range names {
			want[resource(name)] = true
		}
		if !maps.Equal(got, want) {
			t.Errorf("wanted are %v, want %v", got, want)
		}
	}
	wants("first", "next")
	check(t, engine.Adopt(t.Context(), target, []string{resource("first")}))
	wants("first") // nothing is to be put on, so nobody is asked
}
