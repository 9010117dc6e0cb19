package controller

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/record"
	"k8s.io/client-go/util/workqueue"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	v1 "github.com/aad-pod-identity/aad-pod-identity/api/v1"
	"github.com/aad-pod-identity/aad-pod-identity/internal/binding"
)

func tagsOfWant(b, i, all string) binding.Tags {
	return binding.Tags{Binding: b, Identity: i, Bindings: all}
}

// indexed is a fake API server with the indexes of the caches.
func indexed(t *testing.T, objects ...client.Object) client.WithWatch {
	t.Helper()
	scheme, err := Scheme()
	check(t, err)
	b := fake.NewClientBuilder().WithScheme(scheme).WithStatusSubresource(&v1.AzureIdentity{}, &v1.AzureIdentityBinding{}).WithObjects(objects...)
	check(t, addIndexes(t.Context(), indexer{b}))
	return b.Build()
}

// indexer gives a fake client the indexes of the caches.
type indexer struct{ *fake.ClientBuilder }

func (i indexer) IndexField(_ context.Context, o client.Object, field string, value client.IndexerFunc) error {
	i.WithIndex(o, field, value)
	return nil
}

func TestAnInvalidIdentityIsLoggedInTheGuidesWords(t *testing.T) {
	recorder := record.NewFakeRecorder(10)
	var lines []string
	id := &v1.AzureIdentity{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "demo", UID: "u"}}
	w := &world{cached: indexed(t, id), namespace: micNamespace}
	r := &identityReconciler{world: w, conditions: conditionWriter{writer: w.cached.(client.Client)}, events: newEvents(recorder), start: working(), complain: func(format string, a ...any) {
		lines = append(lines, fmt.Sprintf(format, a...))
	}}
	for range 3 { // the first writes conditions, the others must be silent
		_, err := r.Reconcile(t.Context(), reconcile.Request{NamespacedName: client.ObjectKeyFromObject(id)})
		check(t, err)
	}
	const want = `Ignoring azure identity default/demo, error: Invalid resource id: "", must match /subscriptions/<subid>/resourcegroups/<resourcegroup>/providers/Microsoft.ManagedIdentity/userAssignedIdentities/<name>`
	if len(lines) != 1 || !strings.HasPrefix(lines[0], want) {
		t.Errorf("log: %q", lines)
	}
	if n := len(recorder.Events); n != 1 {
		t.Fatalf("%d events", n)
	}
	if e := <-recorder.Events; !strings.Contains(e, "Invalid resource id") {
		t.Errorf("event: %s", e)
	}
}

func TestMappers(t *testing.T) {
	pod := func(namespace, name, label, node string) *corev1.Pod {
		return &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, Labels: map[string]string{v1.BindingLabelKey: label}},
			Spec:       corev1.PodSpec{NodeName: node},
		}
	}
	bound := func(namespace, name, identity, selector string) *v1.AzureIdentityBinding {
		return &v1.AzureIdentityBinding{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}, Spec: v1.AzureIdentityBindingSpec{AzureIdentity: identity, Selector: selector}}
	}
	node := func(name, id string) *corev1.Node {
		return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.NodeSpec{ProviderID: id}}
	}
	const pool = "azure:///subscriptions/S/resourceGroups/RG/providers/Microsoft.Compute/virtualMachineScaleSets/Pool/virtualMachines/"
	const poolKey = "/subscriptions/s/resourcegroups/rg/providers/microsoft.compute/virtualmachinescalesets/pool"
	c := indexed(t,
		pod("a", "one", "x", "n0"), pod("b", "two", "x", "n1"), pod("a", "three", "y", "n1"), pod("a", "four", "", "n1"),
		bound("a", "b1", "id", "x"), bound("a", "b2", "id", "y"), bound("b", "b3", "id", "z"),
		node("n0", pool+"0"), node("n1", strings.ToLower(pool)+"1"), node("n2", ""),
	)
	m := &mappers{world: &world{cached: c}}
	ctx := t.Context()
	for name, test := range map[string]struct{ got, want int }{
		"pods of a binding":                  {len(m.podsOfBinding(ctx, bound("a", "b1", "id", "x"))), 2},
		"pods of a binding without one":      {len(m.podsOfBinding(ctx, bound("a", "b1", "id", ""))), 0},
		"pods of an identity":                {len(m.podsOfIdentity(ctx, &v1.AzureIdentity{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: "id"}, Spec: v1.AzureIdentitySpec{Type: 1}})), 3},
		"pods of an identity nobody uses":    {len(m.podsOfIdentity(ctx, &v1.AzureIdentity{ObjectMeta: metav1.ObjectMeta{Namespace: "c", Name: "id"}, Spec: v1.AzureIdentitySpec{Type: 1}})), 0},
		"pods of a node":                     {len(m.podsOfNode(ctx, node("n1", ""))), 3},
		"all pods, for the uninstall":        {len(m.podsOfMarker(ctx, &corev1.ConfigMap{})), 4},
		"all places, one node without VM":    {len(m.placesOfMarker(ctx, &corev1.ConfigMap{})), 5},
		"place and target of a node":         {len(m.placeOfNode(ctx, node("n0", pool+"0"))), 2},
		"place of a node that is no Azure's": {len(m.placeOfNode(ctx, node("n2", "kind://x"))), 1},
	} {
		if test.got != test.want {
			t.Errorf("%s: %d, want %d", name, test.got, test.want)
		}
	}
	for node, want := range map[string]place{"n0": {target: poolKey}, "n1": {target: poolKey}, "n2": {node: "n2"}, "n3": {node: "n3"}} {
		if got := m.placeNamed(ctx, node); got != want {
			t.Errorf("place of %s: %v, want %v", node, got, want)
		}
	}
}

// queued notes what is added to a queue at once, and what later.
type queued struct {
	workqueue.TypedRateLimitingInterface[place]
	now, later []place
}

func (q *queued) Add(p place)                       { q.now = append(q.now, p) }
func (q *queued) AddAfter(p place, _ time.Duration) { q.later = append(q.later, p) }

func TestTargetsAreConfirmedLater(t *testing.T) {
	m := &mappers{world: &world{cached: indexed(t)}}
	object := func(node, status string) *v1.AzureAssignedIdentity {
		return &v1.AzureAssignedIdentity{Spec: v1.AzureAssignedIdentitySpec{NodeName: node}, Status: v1.AzureAssignedIdentityStatus{Status: status}}
	}
	ending := object("n0", v1.AssignedIDAssigned)
	ending.DeletionTimestamp = &metav1.Time{Time: time.Now()}
	type (
		created = event.TypedCreateEvent[*v1.AzureAssignedIdentity]
		updated = event.TypedUpdateEvent[*v1.AzureAssignedIdentity]
		deleted = event.TypedDeleteEvent[*v1.AzureAssignedIdentity]
	)
	n0, n1 := []place{{node: "n0"}}, []place{{node: "n0"}, {node: "n1"}}
	for name, test := range map[string]struct {
		event      any
		now, later []place
	}{
		"a new one":                  {created{Object: object("n0", v1.AssignedIDCreated)}, n0, nil},
		"a new one that is Assigned": {created{Object: object("n0", v1.AssignedIDAssigned)}, nil, n0},
		"one that became Assigned":   {updated{ObjectOld: object("n0", v1.AssignedIDCreated), ObjectNew: object("n0", v1.AssignedIDAssigned)}, nil, n0},
		"one that no longer is":      {updated{ObjectOld: object("n0", v1.AssignedIDAssigned), ObjectNew: object("n0", v1.AssignedIDCreated)}, n0, nil},
		"one that moved":             {updated{ObjectOld: object("n0", v1.AssignedIDAssigned), ObjectNew: object("n1", v1.AssignedIDAssigned)}, n1, nil},
		"one that shall go":          {updated{ObjectOld: object("n0", v1.AssignedIDAssigned), ObjectNew: ending}, n0, nil},
		"one that has gone":          {deleted{Object: object("n0", v1.AssignedIDAssigned)}, n0, nil},
		"one that goes already":      {created{Object: ending}, n0, nil},
	} {
		t.Run(name, func(t *testing.T) {
			q, handle := &queued{}, m.assignedEvents()
			switch e := test.event.(type) {
			case created:
				handle.Create(t.Context(), e, q)
			case updated:
				handle.Update(t.Context(), e, q)
			case deleted:
				handle.Delete(t.Context(), e, q)
			}
			if !slices.Equal(q.now, test.now) || !slices.Equal(q.later, test.later) {
				t.Errorf("at once %v, later %v; want %v and %v", q.now, q.later, test.now, test.later)
			}
		})
	}
}

func TestCachesKeepWhatIsReadOnly(t *testing.T) {
	now := metav1.Now()
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: "a", Name: "p", UID: "u", ResourceVersion: "1", DeletionTimestamp: &now,
			Labels:        map[string]string{v1.BindingLabelKey: "x", v1.PodBindingLabelKey: "b", "app": "z"},
			Annotations:   map[string]string{v1.PodBindingsAnnotationKey: "a/b", "big": "value"},
			ManagedFields: []metav1.ManagedFieldsEntry{{}},
		},
		Spec:   corev1.PodSpec{NodeName: "n", Containers: []corev1.Container{{}}},
		Status: corev1.PodStatus{Phase: corev1.PodRunning, PodIP: "10.0.0.1"},
	}
	o, err := newReducer().pod(p)
	check(t, err)
	got := o.(*corev1.Pod)
	if podChangeMatters(p, got) || got.Namespace != "a" || got.Name != "p" || got.ResourceVersion != "1" || got.DeletionTimestamp == nil {
		t.Errorf("the reduced pod lacks what decisions need: %+v", got)
	}
	if len(got.Labels) != 2 || len(got.Annotations) != 1 || len(got.Spec.Containers) != 0 || got.Status.PodIP != "" || got.ManagedFields != nil {
		t.Errorf("the reduced pod holds more than that: %+v", got)
	}
	o, err = newReducer().node(&corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: "n", UID: "u", Annotations: map[string]string{"a": "b"}},
		Spec:       corev1.NodeSpec{ProviderID: "azure:///x", PodCIDR: "10.0.0.0/24"}, Status: corev1.NodeStatus{Images: []corev1.ContainerImage{{}}},
	})
	check(t, err)
	if n := o.(*corev1.Node); n.Name != "n" || n.Spec.ProviderID != "azure:///x" || n.Annotations != nil || n.Spec.PodCIDR != "" || n.Status.Images != nil {
		t.Errorf("reduced node: %+v", n)
	}
}
