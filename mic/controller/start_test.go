package controller

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/aad-pod-identity/aad-pod-identity/internal/metric"
	"github.com/aad-pod-identity/aad-pod-identity/mic/compute"
)

func TestALeaderNeverGivesUpStarting(t *testing.T) {
	scheme, err := Scheme()
	if err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		begin := time.Now()
		const outage = 20 * time.Minute
		c := interceptor.NewClient(fake.NewClientBuilder().WithScheme(scheme).Build(), interceptor.Funcs{
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
