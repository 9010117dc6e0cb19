package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/kubernetes"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/record"
	"k8s.io/klog/v2"
	ctrllog "sigs.k8s.io/controller-runtime/pkg/log"
	ctrlmetrics "sigs.k8s.io/controller-runtime/pkg/metrics"

	"github.com/aad-pod-identity/aad-pod-identity/internal/access"
	"github.com/aad-pod-identity/aad-pod-identity/internal/logkey"
	"github.com/aad-pod-identity/aad-pod-identity/internal/metric"
	"github.com/aad-pod-identity/aad-pod-identity/internal/run"
	"github.com/aad-pod-identity/aad-pod-identity/internal/version"
	"github.com/aad-pod-identity/aad-pod-identity/mic/compute"
	"github.com/aad-pod-identity/aad-pod-identity/mic/controller"
)

// configPoll is how often azure.json is looked at.
const configPoll = 15 * time.Second

// settle is how long conditions about pods wait for more pods.
const settle = 2 * time.Second

// longestAnswer is how long it is remembered whether a service account may use an
// identity.
const longestAnswer = 10 * time.Second

// gcPercent: nearly all of the heap is the caches, which stay, so that with more a large
// cluster would need twice their size.
const gcPercent = 40

// serve runs MIC until ctx ends or it loses the lead.
func serve(ctx context.Context, o *options) error {
	log := klog.FromContext(ctx)
	run.LimitGarbage(o.getenv, gcPercent)
	log.Info("Starting MIC", logkey.Version, version.Version, logkey.Namespace, o.namespace)
	config, err := kubernetesConfig(o)
	if err != nil {
		return err
	}
	// controller-runtime's registry has the metrics of queues, clients, Go and
	// the process.
	metrics := metric.NewMIC(ctrlmetrics.Registry)
	azure, err := openAzure(o, metrics)
	if err != nil {
		return err
	}

	clientset, err := kubernetes.NewForConfig(config)
	if err != nil {
		return fmt.Errorf("client of the API server: %w", err)
	}
	lock, err := newLock(config, o)
	if err != nil {
		return err
	}
	live, err := controller.NewLiveClient(config)
	if err != nil {
		return err
	}
	recorder, stopEvents, err := newRecorder(ctx, config)
	if err != nil {
		return err
	}
	defer stopEvents()

	engine := compute.NewEngine(compute.LedgerStore{Client: live, Namespace: o.namespace}, azure.client(), compute.Options{
		VerifyInterval: o.reconcileInterval, LeaseDuration: o.leaderDuration, Backoff: o.backoff(), Immutable: azure.immutable,
	})
	metric.RegisterRefused(ctrlmetrics.Registry, engine.Refused)
	settings := controller.Options{
		Namespace: o.namespace, ForceNamespaced: o.forceNamespaced, ReadinessGate: o.readinessGate, Parallel: o.createDeleteBatch,
		LeaseDuration: o.leaderDuration, Lock: lock, Recorder: recorder, Metrics: metrics, Settle: settle,
	}
	if o.requireUse {
		settings.MayUse = access.New(clientset.AuthorizationV1().SubjectAccessReviews(), min(longestAnswer, o.reconcileInterval/8)).MayUse
		settings.ReviewInterval = o.reconcileInterval
	}
	if o.enableTypeUpgrade {
		settings.Upgrade = &controller.TypeUpgrade{ConfigMap: o.configMapName, Key: o.typeUpgradeKey}
	}
	controllers, err := controller.New(ctx, config, live, engine, settings)
	if err != nil {
		return err
	}

	g, ctx := errgroup.WithContext(ctx)
	for _, server := range o.Servers(probes(controllers, lock, o.leaderDuration), ctrlmetrics.Registry) {
		g.Go(func() error { return server(ctx) })
	}
	g.Go(func() error {
		azure.watch(ctx, engine, configPoll)
		return nil
	})
	g.Go(func() error {
		if err := controllers.Run(ctx); err != nil {
			if ctx.Err() == nil && controllers.Elected() {
				return fmt.Errorf("lost leader lease: %w", err)
			}
			return fmt.Errorf("controllers: %w", err)
		}
		// The servers end with the controllers.
		return context.Canceled
	})
	err = g.Wait()
	log.Info("MIC stopped")
	return err
}

// kubernetesConfig returns the connection to the API server.
func kubernetesConfig(o *options) (*rest.Config, error) {
	var config *rest.Config
	var err error
	if o.kubeconfig != "" {
		if config, err = clientcmd.BuildConfigFromFlags("", o.kubeconfig); err != nil {
			return nil, fmt.Errorf("reading --kubeconfig=%s: %w", o.kubeconfig, err)
		}
	} else if config, err = rest.InClusterConfig(); err != nil {
		return nil, fmt.Errorf("no --kubeconfig, and not in a pod: %w", err)
	}
	// Each warning once: that the finalizer's name has no slash is known, and it
	// cannot change.
	config.WarningHandlerWithContext = ctrllog.NewKubeAPIWarningLogger(ctrllog.KubeAPIWarningLoggerOptions{Deduplicate: true})
	config.UserAgent = version.UserAgent("mic", o.CustomUserAgent)
	config.QPS, config.Burst = o.clientQPS, max(1, int(o.clientQPS))
	if o.clientQPS == 0 {
		config.QPS = -1
	}
	return config, nil
}

// newLock returns the leader lock. It has a connection of its own, so that a
// burst of other requests cannot delay a renewal, and hears no warnings: that
// Endpoints are deprecated is known.
func newLock(config *rest.Config, o *options) (*controller.Lock, error) {
	config = rest.CopyConfig(config)
	config.QPS = -1
	config.WarningHandlerWithContext = rest.NoWarnings{}
	config.Timeout = max(time.Second, o.leaderDuration/4)
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("client of the leader lock: %w", err)
	}
	return controller.NewLock(client, o.leaderNamespace, o.leaderName, o.leaderInstance), nil
}

// Events a second, and at once, that MIC sends at most: the kubelet's defaults. When
// thousands of pods start together, their events must not take the API server's time
// from their identities.
const (
	eventQPS   = 50
	eventBurst = 100
)

// newRecorder returns a recorder of events under the source of the 1.8
// releases. Events are best effort: they are sent in the background.
func newRecorder(ctx context.Context, config *rest.Config) (record.EventRecorder, func(), error) {
	config = rest.CopyConfig(config)
	if config.QPS < 0 || config.QPS > eventQPS {
		config.QPS, config.Burst = eventQPS, eventBurst
	}
	client, err := typedcorev1.NewForConfig(config)
	if err != nil {
		return nil, nil, fmt.Errorf("client for events: %w", err)
	}
	broadcaster := record.NewBroadcaster(record.WithContext(ctx))
	broadcaster.StartRecordingToSink(&typedcorev1.EventSinkImpl{Interface: client.Events("")})
	scheme, err := controller.Scheme()
	if err != nil {
		klog.FromContext(ctx).Error(err, "Events lack the kinds of their objects")
	}
	return broadcaster.NewRecorder(scheme, corev1.EventSource{Component: controller.EventComponent}), broadcaster.Shutdown, nil
}

// probes serves the probes: the leader is Active once it works.
func probes(c *controller.Controllers, lock *controller.Lock, lease time.Duration) http.Handler {
	health := run.NewHealth()
	health.AddLive("leader lock", func(context.Context) error {
		// A leader that does not renew should have stopped by itself.
		if age := lock.Age(); c.Elected() && age > 2*lease {
			return fmt.Errorf("this replica leads, and has not renewed its lock for %s", age.Round(time.Second))
		}
		return nil
	})
	health.AddReady("caches", func(ctx context.Context) error {
		if !c.Manager.GetCache().WaitForCacheSync(ctx) {
			return errors.New("not synchronised with the API server yet")
		}
		return nil
	})
	return health.Handler(c.Working)
}
