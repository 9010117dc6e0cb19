// Command controller is cert-manager's controller with the issuers that need
// nothing outside the cluster (self-signed and CA) and without ACME, Vault,
// Venafi and the ingress shim. It takes the flags of cert-manager's chart.
package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/pflag"
	"golang.org/x/sync/errgroup"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
	"k8s.io/klog/v2"

	"github.com/cert-manager/cert-manager/pkg/controller"
	"github.com/cert-manager/cert-manager/pkg/logs"

	// Each of these adds its controllers or issuers to cert-manager's list.
	_ "github.com/cert-manager/cert-manager/pkg/controller/certificaterequests/approver"
	_ "github.com/cert-manager/cert-manager/pkg/controller/certificaterequests/ca"
	_ "github.com/cert-manager/cert-manager/pkg/controller/certificaterequests/selfsigned"
	_ "github.com/cert-manager/cert-manager/pkg/controller/certificates/issuing"
	_ "github.com/cert-manager/cert-manager/pkg/controller/certificates/keymanager"
	_ "github.com/cert-manager/cert-manager/pkg/controller/certificates/readiness"
	_ "github.com/cert-manager/cert-manager/pkg/controller/certificates/requestmanager"
	_ "github.com/cert-manager/cert-manager/pkg/controller/certificates/revisionmanager"
	_ "github.com/cert-manager/cert-manager/pkg/controller/certificates/trigger"
	_ "github.com/cert-manager/cert-manager/pkg/controller/clusterissuers"
	_ "github.com/cert-manager/cert-manager/pkg/controller/issuers"
	_ "github.com/cert-manager/cert-manager/pkg/issuer/ca"
	_ "github.com/cert-manager/cert-manager/pkg/issuer/selfsigned"
)

const (
	workers       = 2
	healthAddress = ":9403" // where the chart's liveness probe looks

	// The backoff that cert-manager has by default for failed requests.
	minimumBackoff, maximumBackoff = time.Hour, 32 * time.Hour
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	err := run(ctx, os.Args[1:])
	stop()
	if err != nil && !errors.Is(err, context.Canceled) {
		fmt.Fprintln(os.Stderr, "controller:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	var resourceNamespace, leaseNamespace string
	flags := pflag.NewFlagSet("controller", pflag.ContinueOnError)
	flags.StringVar(&resourceNamespace, "cluster-resource-namespace", "kube-system", "namespace of the Secrets of ClusterIssuers")
	flags.StringVar(&leaseNamespace, "leader-election-namespace", "kube-system", "namespace of the leader election Lease")
	flags.ParseErrorsAllowlist.UnknownFlags = true // those of the parts that are left out
	if err := flags.Parse(args); err != nil {
		return err
	}
	ctx = logs.NewContext(ctx, klog.Background())
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return serveHealth(ctx) })

	factory, err := controller.NewContextFactory(ctx, controller.ContextOptions{
		IssuerOptions: controller.IssuerOptions{ClusterResourceNamespace: resourceNamespace},
		CertificateOptions: controller.CertificateOptions{
			CertificateRequestMinimumBackoffDuration: minimumBackoff,
			CertificateRequestMaximumBackoffDuration: maximumBackoff,
		},
	})
	if err != nil {
		return fmt.Errorf("building clients: %w", err)
	}
	group.Go(func() error { return lead(ctx, factory, leaseNamespace) })
	return group.Wait()
}

// lead runs the controllers while this process holds the Lease.
func lead(ctx context.Context, factory *controller.ContextFactory, namespace string) error {
	base, err := factory.Build()
	if err != nil {
		return fmt.Errorf("building clients: %w", err)
	}
	hostname, err := os.Hostname()
	if err != nil {
		return fmt.Errorf("finding this pod's name: %w", err)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	elector, err := leaderelection.NewLeaderElector(leaderelection.LeaderElectionConfig{
		Lock: &resourcelock.LeaseLock{
			LeaseMeta:  metav1.ObjectMeta{Namespace: namespace, Name: "cert-manager-controller"},
			Client:     base.Client.CoordinationV1(),
			LockConfig: resourcelock.ResourceLockConfig{Identity: hostname},
		},
		LeaseDuration: 60 * time.Second, RenewDeadline: 40 * time.Second, RetryPeriod: 2 * time.Second,
		ReleaseOnCancel: true,
		Callbacks: leaderelection.LeaderCallbacks{
			OnStartedLeading: func(ctx context.Context) { cancel(runControllers(ctx, factory, base)) },
			OnStoppedLeading: func() { cancel(errors.New("lost the leader election Lease")) },
		},
	})
	if err != nil {
		return fmt.Errorf("preparing the leader election: %w", err)
	}
	elector.Run(ctx)
	return context.Cause(ctx)
}

func runControllers(ctx context.Context, factory *controller.ContextFactory, base *controller.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	for name, construct := range controller.Known() {
		c, err := construct(factory)
		if err != nil {
			return fmt.Errorf("building the controller %s: %w", name, err)
		}
		group.Go(func() error {
			if err := c.Run(workers, ctx); err != nil {
				return fmt.Errorf("running the controller %s: %w", name, err)
			}
			return nil
		})
	}
	base.SharedInformerFactory.Start(ctx.Done())
	base.KubeSharedInformerFactory.Start(ctx.Done())
	base.HTTP01ResourceMetadataInformersFactory.Start(ctx.Done())
	return group.Wait()
}

func serveHealth(ctx context.Context) error {
	mux := http.NewServeMux()
	mux.HandleFunc("/livez", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	server := &http.Server{Addr: healthAddress, Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	context.AfterFunc(ctx, func() { _ = server.Close() })
	if err := server.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serving probes: %w", err)
	}
	return context.Cause(ctx)
}
