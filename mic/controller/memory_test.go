package controller

import (
	"context"
	"encoding/json"
	"fmt"
	"runtime"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	toolscache "k8s.io/client-go/tools/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	v1 "github.com/aad-pod-identity/aad-pod-identity/api/v1"
	"github.com/aad-pod-identity/aad-pod-identity/internal/binding"
	"github.com/aad-pod-identity/aad-pod-identity/mic/assign"
)

// maxBytesPerPod is what the caches may hold for a labelled pod that has an identity:
// the pod, its AzureAssignedIdentity, and both in all indexes. 50,000 of them are 220
// MiB, and the garbage collector lets the heap grow to 1.4 times that.
const maxBytesPerPod = 4608

// TestMemoryOfAPod holds what a cluster of many pods costs. It measures up to three
// times: what else the process does meanwhile is in the heap as well.
func TestMemoryOfAPod(t *testing.T) {
	var pod, assigned int64
	for range 3 {
		pod, assigned = memoryOfAPod(t)
		t.Logf("bytes for each pod: %d, for its assigned identity: %d", pod, assigned)
		if pod+assigned <= maxBytesPerPod {
			return
		}
	}
	t.Errorf("%d bytes for a pod, and %d for its assigned identity: more than %d", pod, assigned, maxBytesPerPod)
}

func memoryOfAPod(t *testing.T) (pod, assigned int64) {
	t.Helper()
	const pods = 5000
	store := map[string]toolscache.Indexer{"pod": toolscache.NewIndexer(toolscache.MetaNamespaceKeyFunc, toolscache.Indexers{}), "assigned": toolscache.NewIndexer(toolscache.MetaNamespaceKeyFunc, toolscache.Indexers{})}
	check(t, addIndexes(t.Context(), storeIndexer{store}))
	heap := func() int64 {
		runtime.GC()
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	reduce := newReducer()
	var parts [2]int64
	last := heap()
	for i, fill := range []func(int) (client.Object, func(any) (any, error)){
		func(i int) (client.Object, func(any) (any, error)) { return bigPod(i), reduce.pod },
		func(i int) (client.Object, func(any) (any, error)) { return bigAssigned(i), reduce.assigned },
	} {
		for j := range pods {
			o, reduce := fill(j)
			decoded := decodedCopy(t, o)
			reduced, err := reduce(decoded)
			check(t, err)
			name := "pod"
			if i == 1 {
				name = "assigned"
			}
			check(t, store[name].Add(reduced))
		}
		now := heap()
		parts[i], last = (now-last)/pods, now
	}
	runtime.KeepAlive(store)
	return parts[0], parts[1]
}

// TestReducingAgainChangesNothing: client-go transforms the objects of a first list twice,
// and holds both results until the second is complete.
func TestReducingAgainChangesNothing(t *testing.T) {
	gated := bigPod(1)
	gated.Spec.ReadinessGates = []corev1.PodReadinessGate{{ConditionType: "other"}, {ConditionType: v1.PodConditionIdentityAssigned}}
	gated.Status.Conditions = []corev1.PodCondition{{Type: v1.PodConditionIdentityAssigned, Status: corev1.ConditionTrue}}
	reduce := newReducer()
	for name, c := range map[string]struct {
		object client.Object
		reduce func(any) (any, error)
	}{
		"pod":               {bigPod(0), reduce.pod},
		"pod with a gate":   {gated, reduce.pod},
		"node":              {&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node0", Labels: map[string]string{"a": "b"}}, Spec: corev1.NodeSpec{ProviderID: "azure:///x"}}, reduce.node},
		"assigned identity": {bigAssigned(0), reduce.assigned},
	} {
		t.Run(name, func(t *testing.T) {
			once, err := c.reduce(c.object)
			check(t, err)
			was := once.(client.Object).DeepCopyObject()
			twice, err := c.reduce(once)
			check(t, err)
			if once != c.object || twice != once {
				t.Error("an object of its own")
			}
			if diff := cmp.Diff(was, twice); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// storeIndexer adds the indexes to plain stores, each value twice, as
// controller-runtime does: for its namespace and for all.
type storeIndexer struct{ stores map[string]toolscache.Indexer }

func (s storeIndexer) IndexField(_ context.Context, o client.Object, field string, value client.IndexerFunc) error {
	var name string
	switch o.(type) {
	case *corev1.Pod:
		name = "pod"
	case *v1.AzureAssignedIdentity:
		name = "assigned"
	default:
		return nil
	}
	return s.stores[name].AddIndexers(toolscache.Indexers{field: func(o any) ([]string, error) {
		var all []string
		for _, v := range value(o.(client.Object)) {
			all = append(all, o.(client.Object).GetNamespace()+"/"+v, "__all_namespaces/"+v)
		}
		return all, nil
	}})
}

// decodedCopy is an object as it comes over the wire: nothing in it is shared.
func decodedCopy(t *testing.T, o client.Object) client.Object {
	t.Helper()
	raw, err := json.Marshal(o)
	check(t, err)
	into := o.DeepCopyObject().(client.Object)
	switch into.(type) {
	case *corev1.Pod:
		into = &corev1.Pod{}
	default:
		into = &v1.AzureAssignedIdentity{}
	}
	check(t, json.Unmarshal(raw, into))
	return into
}

func bigPod(i int) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: fmt.Sprintf("team-%d", i%100), Name: fmt.Sprintf("web-6d4cf56db6-%05d", i), UID: types.UID(fmt.Sprintf("0f3c5e2a-91b7-4d1e-8c57-%012d", i)), ResourceVersion: fmt.Sprint(100000 + i),
			Labels: map[string]string{
				v1.BindingLabelKey: "demo", v1.PodBindingLabelKey: "demo-binding", v1.PodIdentityLabelKey: "demo", "app": "web", "pod-template-hash": "6d4cf56db6",
			},
			Annotations:     map[string]string{v1.PodBindingsAnnotationKey: "default/demo-binding", "kubectl.kubernetes.io/restartedAt": "2026-01-01T00:00:00Z"},
			OwnerReferences: []metav1.OwnerReference{{Kind: "ReplicaSet", Name: "web-6d4cf56db6"}},
			ManagedFields:   []metav1.ManagedFieldsEntry{{Manager: "kubelet", FieldsV1: metav1.NewFieldsV1(`{"f:status":{}}`)}},
		},
		Spec:   corev1.PodSpec{NodeName: fmt.Sprintf("aks-pool-12345678-vmss%06d", i/30), ServiceAccountName: "web", Containers: []corev1.Container{{Name: "web", Image: "web"}}},
		Status: corev1.PodStatus{Phase: corev1.PodRunning, PodIP: "10.0.0.1"},
	}
}

func bigAssigned(i int) *v1.AzureAssignedIdentity {
	p := bigPod(i)
	name := fmt.Sprintf("identity-%d", i%20)
	m := binding.Match{
		Identity: &v1.AzureIdentity{
			ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, UID: types.UID("0f3c5e2a-91b7-4d1e-8c57-" + name), ResourceVersion: "1"},
			Spec:       v1.AzureIdentitySpec{ResourceID: verdictID + name, ClientID: "7eb6d1a0-2c4f-4b8e-9d3a-5f1e0c7ba6a9"},
		},
		Binding: &v1.AzureIdentityBinding{
			ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, UID: types.UID("0f3c5e2a-91b7-4d1e-8c58-" + name), ResourceVersion: "2"},
			Spec:       v1.AzureIdentityBindingSpec{AzureIdentity: name, Selector: "demo"},
		},
	}
	a := assign.ForPod(assign.Input{Pod: assignPod(p), Matches: []binding.Match{m}}).Create[0]
	a.UID, a.ResourceVersion, a.Generation, a.CreationTimestamp = types.UID(fmt.Sprintf("0f3c5e2a-91b7-4d1e-8c59-%012d", i)), fmt.Sprint(200000+i), 3, metav1.Now()
	a.Status, _ = verdict{assigned: true, reason: v1.ReasonAssigned, message: "assigned to aks-pool-12345678-vmss"}.status(a.Status, time.Now())
	a.ManagedFields = []metav1.ManagedFieldsEntry{{Manager: "mic", FieldsV1: metav1.NewFieldsV1(`{"f:status":{}}`)}}
	return a
}
