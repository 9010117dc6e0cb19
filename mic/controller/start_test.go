package controller

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	v1 "github.com/aad-pod-identity/aad-pod-identity/api/v1"
	"github.com/aad-pod-identity/aad-pod-identity/internal/metric"
	"github.com/aad-pod-identity/aad-pod-identity/mic/compute"
)

func TestALeaderNeverGivesUpStarting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begin := time.Now()
		const outage = 20 * time.Minute
		c := interceptor.NewClient(indexed(t), interceptor.Funcs{
			List: func(ctx context.Context, c client.WithWatch, list client.ObjectList, o ...client.ListOption) error {
				if time.Since(begin) < outage {
					return errors.New("the API server is down")
				}
				return c.List(ctx, list, o...)
			},
		})
		s := &start{
			world:   &world{cached: c, live: c},
			engine:  compute.NewEngine(compute.LedgerStore{Client: c, Namespace: "mic"}, nil, compute.Options{}),
			metrics: metric.NewMIC(prometheus.NewRegistry()),
			done:    make(chan struct{}),
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- s.Start(ctx) }()
		<-time.After(outage - time.Second)
		synctest.Wait()
		if s.working() {
			t.Error("it works without its ledgers")
		}
		<-time.After(time.Minute)
		synctest.Wait()
		if !s.working() {
			t.Error("it does not work a minute after the API server came back")
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

// TestLedgersAreWatchedThoughTheUpgradeFails: the upgrade of stored objects may never
// succeed.
func TestLedgersAreWatchedThoughTheUpgradeFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var looks atomic.Int32
		c := interceptor.NewClient(indexed(t), interceptor.Funcs{
			List: func(ctx context.Context, c client.WithWatch, list client.ObjectList, o ...client.ListOption) error {
				switch list.(type) {
				case *unstructured.UnstructuredList:
					return errors.New("no right to list")
				case *corev1.ConfigMapList:
					looks.Add(1)
				}
				return c.List(ctx, list, o...)
			},
		})
		const interval = 3 * time.Minute
		s := &start{
			world:   &world{cached: c, live: c},
			engine:  compute.NewEngine(compute.LedgerStore{Client: c, Namespace: "mic"}, nil, compute.Options{VerifyInterval: interval}),
			metrics: metric.NewMIC(prometheus.NewRegistry()),
			upgrade: &typeUpgrade{TypeUpgrade: TypeUpgrade{ConfigMap: "config", Key: "upgraded"}, live: c, cached: c, namespace: "mic"},
			done:    make(chan struct{}),
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- s.Start(ctx) }()
		<-time.After(5 * interval)
		synctest.Wait()
		if n := looks.Load(); !s.working() || n < 4 {
			t.Errorf("working: %v; the ledgers were listed %d times", s.working(), n)
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

func TestADamagedLedgerKeepsNobodyFromStarting(t *testing.T) {
	const target = "/subscriptions/11111111-2222-3333-4444-555555555555/resourceGroups/rg/providers/Microsoft.Compute/virtualMachineScaleSets/"
	old := func(name, node string) *v1.AzureAssignedIdentity {
		return &v1.AzureAssignedIdentity{
			ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name},
			Spec:       v1.AzureAssignedIdentitySpec{NodeName: node, AzureIdentityRef: &v1.AzureIdentity{Spec: v1.AzureIdentitySpec{ResourceID: verdictID}}},
			Status:     v1.AzureAssignedIdentityStatus{Status: v1.AssignedIDAssigned},
		}
	}
	node := func(name, pool string) *corev1.Node {
		return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.NodeSpec{ProviderID: "azure://" + target + pool + "/virtualMachines/0"}}
	}
	c := indexed(t, node("n1", "one"), node("n2", "two"), old("a1", "n1"), old("a2", "n2"))
	newStart := func() *start {
		return &start{
			world:  &world{cached: c, live: c},
			engine: compute.NewEngine(compute.LedgerStore{Client: c, Namespace: "mic"}, nil, compute.Options{}),
		}
	}
	check(t, newStart().prepare(t.Context()))
	var ledgers corev1.ConfigMapList
	check(t, c.List(t.Context(), &ledgers))
	if len(ledgers.Items) != 2 {
		t.Fatalf("%d ledgers, want 2", len(ledgers.Items))
	}
	// One is damaged, the other lost: it has to be written again.
	damaged := &ledgers.Items[0]
	for key := range damaged.Data {
		damaged.Data[key] = "damaged"
	}
	check(t, c.Update(t.Context(), damaged))
	check(t, c.Delete(t.Context(), &ledgers.Items[1]))
	s := newStart()
	check(t, s.prepare(t.Context()))
	if n := len(s.engine.Targets()); n != 2 {
		t.Errorf("%d targets, want the adopted one and the one that is unsure", n)
	}
	check(t, c.List(t.Context(), &ledgers))
	if len(ledgers.Items) != 2 {
		t.Errorf("%d ledgers, want 2", len(ledgers.Items))
	}
}
