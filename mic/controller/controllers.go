package controller

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/record"
	"k8s.io/client-go/util/workqueue"
	"k8s.io/klog/v2"
	"k8s.io/utils/ptr"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/source"

	v1 "github.com/aad-pod-identity/aad-pod-identity/api/v1"
	"github.com/aad-pod-identity/aad-pod-identity/internal/access"
	"github.com/aad-pod-identity/aad-pod-identity/internal/logkey"
	"github.com/aad-pod-identity/aad-pod-identity/internal/metric"
	"github.com/aad-pod-identity/aad-pod-identity/internal/resourceid"
	"github.com/aad-pod-identity/aad-pod-identity/internal/run"
	"github.com/aad-pod-identity/aad-pod-identity/mic/compute"
)

// Options are what the controllers need to know.
type Options struct {
	// Namespace of MIC, for its ledgers and the uninstall marker.
	Namespace string
	// ForceNamespaced confines every identity to pods of its own namespace.
	ForceNamespaced bool
	// ReadinessGate sets the condition of pods that have the readiness gate.
	ReadinessGate bool
	// MayUse, if set, says whether a service account may use an identity of another
	// namespace, and MIC assigns none without.
	MayUse access.MayUse
	// ReviewInterval is how often it is asked again about pods that have or want
	// such an identity.
	ReviewInterval time.Duration
	// Parallel is how many pods are worked on at once, and how many status writes
	// of one target run at once.
	Parallel int
	// LeaseDuration is how long a dead leader is waited for. It renews every
	// quarter of it and gives up after half.
	LeaseDuration time.Duration
	// Lock is the leader lock; nil works without leader election.
	Lock *Lock
	// Recorder takes the events.
	Recorder record.EventRecorder
	// Metrics of MIC.
	Metrics *metric.MIC
	// Upgrade says where the upgrade of stored objects is recorded; nil does none.
	Upgrade *TypeUpgrade
	// Settle is how long it is waited, after pods came or went, before the
	// conditions InUse and PodsMatched follow, so that many at once are one write.
	Settle time.Duration
	// SkipNameValidation lets one process have several managers, for tests.
	SkipNameValidation bool
}

// targetWorkers is how many VMs and scale sets are worked on at once. They wait
// for Azure nearly all the time; what Azure bears is the ARM budget's business.
const targetWorkers = 256

// Bounds of the wait after a pod or target failed as a whole.
const (
	firstRetry = time.Second
	lastRetry  = 5 * time.Minute
)

// Controllers is MIC's manager with everything that runs in it.
type Controllers struct {
	Manager manager.Manager
	start   *start
	begun   chan struct{}
}

// Run runs everything until ctx ends, or the lease is lost.
func (c *Controllers) Run(ctx context.Context) error {
	return run.UntilEnd(ctx, c.begun, c.Manager.Start)
}

// beginning is closed once the manager has filled its caches, whether or not it leads.
type beginning chan struct{}

// Start implements manager.Runnable.
func (b beginning) Start(ctx context.Context) error {
	close(b)
	<-ctx.Done()
	return nil
}

// NeedLeaderElection implements manager.LeaderElectionRunnable.
func (beginning) NeedLeaderElection() bool { return false }

// NewLiveClient returns a client that reads from the API server, for what must
// not come from a cache.
func NewLiveClient(config *rest.Config) (client.Client, error) {
	scheme, err := Scheme()
	if err != nil {
		return nil, err
	}
	live, err := client.New(config, client.Options{Scheme: scheme})
	if err != nil {
		return nil, fmt.Errorf("client of the API server: %w", err)
	}
	return live, nil
}

// New makes the manager and its controllers.
func New(ctx context.Context, config *rest.Config, live client.Client, engine *compute.Engine, o Options) (*Controllers, error) {
	cacheOptions, err := cacheOptions(o.Namespace)
	if err != nil {
		return nil, err
	}
	options := manager.Options{
		Scheme: live.Scheme(), Cache: cacheOptions, Logger: klog.FromContext(ctx),
		Metrics: metricsserver.Options{BindAddress: "0"},
		BaseContext: func() context.Context {
			return klog.NewContext(context.WithoutCancel(ctx), klog.FromContext(ctx))
		},
	}
	if o.Lock != nil {
		options.LeaderElection = true
		options.LeaderElectionResourceLockInterface = o.Lock
		options.LeaseDuration = ptr.To(o.LeaseDuration)
		options.RenewDeadline = ptr.To(o.LeaseDuration / 2)
		options.RetryPeriod = ptr.To(o.LeaseDuration / 4)
		options.LeaderElectionReleaseOnCancel = true
	}
	m, err := ctrl.NewManager(config, options)
	if err != nil {
		return nil, fmt.Errorf("manager: %w", err)
	}
	if err := addIndexes(ctx, m.GetFieldIndexer()); err != nil {
		return nil, err
	}
	if err := startInformers(ctx, m.GetCache()); err != nil {
		return nil, err
	}
	w := &world{cached: m.GetClient(), live: live, namespace: o.Namespace, forceNamespaced: o.ForceNamespaced, mayUse: o.MayUse}
	c := &Controllers{Manager: m, begun: make(chan struct{}), start: &start{world: w, engine: engine, metrics: o.Metrics, done: make(chan struct{})}}
	for _, part := range []manager.Runnable{beginning(c.begun), c.start} {
		if err := m.Add(part); err != nil {
			return nil, fmt.Errorf("manager: %w", err)
		}
	}
	ev := newEvents(o.Recorder)
	maps := &mappers{world: w}
	leaving := &departures{}
	pods := &podReconciler{
		world: w, engine: engine, departures: leaving, writer: m.GetClient(), events: ev, metrics: o.Metrics, start: c.start,
		gates: o.ReadinessGate, reviewInterval: o.ReviewInterval, unknown: unknownRights(),
	}
	targets := &targetReconciler{
		world: w, engine: engine, departures: leaving, events: ev, metrics: o.Metrics, start: c.start,
		status: newStatusWriter(m.GetClient(), ev, o.Metrics, o.Parallel),
	}
	writer := conditionWriter{writer: m.GetClient(), metrics: o.Metrics}
	if o.Upgrade != nil {
		c.start.upgrade = &typeUpgrade{TypeUpgrade: *o.Upgrade, live: live, cached: m.GetClient(), namespace: o.Namespace, conditions: writer, events: ev}
	}
	identities := &identityReconciler{world: w, conditions: writer, events: ev, start: c.start, complain: klog.Errorf}
	bindings := &bindingReconciler{world: w, conditions: writer, start: c.start}
	removal := &uninstallReconciler{world: w, writer: m.GetClient(), engine: engine, start: c.start}
	if err := c.addAssignments(maps, pods, targets, removal, o); err != nil {
		return nil, err
	}
	return c, c.addConditions(maps, identities, bindings, o)
}

// addAssignments is the list of the controllers that give and take identities, and
// of what they watch.
func (c *Controllers) addAssignments(maps *mappers, pods *podReconciler, targets *targetReconciler, removal *uninstallReconciler, o Options) error {
	caches := c.Manager.GetCache()
	skip := ptr.To(o.SkipNameValidation)

	pod, err := controller.New("pod", c.Manager, controller.Options{
		Reconciler: pods, MaxConcurrentReconciles: o.Parallel, SkipNameValidation: skip,
		RateLimiter: limiter[reconcile.Request](),
		LogConstructor: func(r *reconcile.Request) logr.Logger {
			return c.Manager.GetLogger().WithValues(logkey.Pod, podName(r).String())
		},
	})
	if err != nil {
		return fmt.Errorf("pod controller: %w", err)
	}
	target, err := controller.NewTyped("target", c.Manager, controller.TypedOptions[place]{
		Reconciler: targets, MaxConcurrentReconciles: targetWorkers, SkipNameValidation: skip,
		RateLimiter: limiter[place](),
		LogConstructor: func(p *place) logr.Logger {
			if p == nil {
				p = &place{}
			}
			return c.Manager.GetLogger().WithValues(logkey.Target, p.String())
		},
	})
	if err != nil {
		return fmt.Errorf("target controller: %w", err)
	}
	uninstalls, err := controller.New("uninstall", c.Manager, controller.Options{Reconciler: removal, SkipNameValidation: skip})
	if err != nil {
		return fmt.Errorf("uninstall controller: %w", err)
	}
	return watching(
		pod.Watch(source.TypedKind(caches, &corev1.Pod{}, pods.podEvents(), podChanges())),
		pod.Watch(mapped(caches, &v1.AzureIdentityBinding{}, maps.podsOfBinding, bindingChanges())),
		pod.Watch(mapped(caches, &v1.AzureIdentity{}, maps.podsOfIdentity, identityChanges())),
		pod.Watch(mapped(caches, &v1.AzureAssignedIdentity{}, maps.podOfAssigned, assignedChanges())),
		pod.Watch(mapped(caches, &corev1.Node{}, maps.podsOfNode, nodeChanges())),
		pod.Watch(mapped(caches, &corev1.ConfigMap{}, maps.podsOfMarker, markerChanges())),
		pod.Watch(pods.leftBehind()),

		target.Watch(source.TypedKind(caches, &v1.AzureAssignedIdentity{}, maps.assignedEvents(), assignedChanges())),
		target.Watch(mapped(caches, &corev1.Node{}, maps.placeOfNode, nodeChanges())),
		target.Watch(mapped(caches, &corev1.ConfigMap{}, maps.placesOfMarker, markerChanges())),
		target.Watch(ledgers(targets.engine, c.start)),

		uninstalls.Watch(source.TypedKind(caches, &corev1.ConfigMap{}, &handler.TypedEnqueueRequestForObject[*corev1.ConfigMap]{}, markerChanges())),
	)
}

// addConditions is the list of the controllers that describe what users wrote, and
// of what they watch.
func (c *Controllers) addConditions(maps *mappers, identities *identityReconciler, bindings *bindingReconciler, o Options) error {
	caches := c.Manager.GetCache()
	skip := ptr.To(o.SkipNameValidation)
	identity, err := controller.New("identity", c.Manager, controller.Options{Reconciler: identities, SkipNameValidation: skip, RateLimiter: limiter[reconcile.Request]()})
	if err != nil {
		return fmt.Errorf("identity controller: %w", err)
	}
	binding, err := controller.New("binding", c.Manager, controller.Options{Reconciler: bindings, SkipNameValidation: skip, RateLimiter: limiter[reconcile.Request]()})
	if err != nil {
		return fmt.Errorf("binding controller: %w", err)
	}
	return watching(
		identity.Watch(source.TypedKind(caches, &v1.AzureIdentity{}, &handler.TypedEnqueueRequestForObject[*v1.AzureIdentity]{}, described[*v1.AzureIdentity]())),
		identity.Watch(source.TypedKind(caches, &v1.AzureAssignedIdentity{}, comesAndGoes(maps.identityOfAssigned, o.Settle), assignedComesAndGoes())),

		binding.Watch(source.TypedKind(caches, &v1.AzureIdentityBinding{}, &handler.TypedEnqueueRequestForObject[*v1.AzureIdentityBinding]{}, described[*v1.AzureIdentityBinding]())),
		binding.Watch(mapped(caches, &v1.AzureIdentity{}, maps.bindingsOfIdentity, identityChanges())),
		binding.Watch(source.TypedKind(caches, &corev1.Pod{}, comesAndGoes(maps.bindingsOfPod, o.Settle), labelChanges())),
	)
}

func watching(errs ...error) error {
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("watching: %w", err)
	}
	return nil
}

// comesAndGoes queues, after a while, whom the coming and going of an object
// concerns. An object that changed has gone as what it was and come as what it is.
func comesAndGoes[O client.Object](find func(ctx context.Context, o O, came bool) []reconcile.Request, after time.Duration) handler.TypedEventHandler[O, reconcile.Request] {
	add := func(ctx context.Context, q workqueue.TypedRateLimitingInterface[reconcile.Request], o O, came bool) {
		for _, r := range find(ctx, o, came) {
			q.AddAfter(r, after)
		}
	}
	return handler.TypedFuncs[O, reconcile.Request]{
		CreateFunc: func(ctx context.Context, e event.TypedCreateEvent[O], q workqueue.TypedRateLimitingInterface[reconcile.Request]) {
			add(ctx, q, e.Object, true)
		},
		UpdateFunc: func(ctx context.Context, e event.TypedUpdateEvent[O], q workqueue.TypedRateLimitingInterface[reconcile.Request]) {
			add(ctx, q, e.ObjectOld, false)
			add(ctx, q, e.ObjectNew, true)
		},
		DeleteFunc: func(ctx context.Context, e event.TypedDeleteEvent[O], q workqueue.TypedRateLimitingInterface[reconcile.Request]) {
			add(ctx, q, e.Object, false)
		},
	}
}

// Working says whether this replica leads and is at work.
func (c *Controllers) Working() bool { return c.start.working() }

// Elected says whether this replica leads.
func (c *Controllers) Elected() bool {
	select {
	case <-c.Manager.Elected():
		return true
	default:
		return false
	}
}

func limiter[T comparable]() workqueue.TypedRateLimiter[T] {
	return workqueue.NewTypedItemExponentialFailureRateLimiter[T](firstRetry, lastRetry)
}

// ledgers queues, once, the targets that have a ledger: what happened while no
// MIC ran may concern targets that no object points to any more. Later it queues
// those that wait for something which Azure takes again.
func ledgers(engine *compute.Engine, s *start) source.TypedSource[place] {
	return source.TypedFunc[place](func(ctx context.Context, q workqueue.TypedRateLimitingInterface[place]) error {
		go func() {
			if !s.wait(ctx) {
				return
			}
			engine.OnRecovery(func(t resourceid.Compute) { q.Add(place{target: t.Key()}) })
			for _, t := range engine.Targets() {
				q.Add(place{target: t.Key()})
			}
		}()
		return nil
	})
}

// mapped is a source of events of one kind whose requests a function finds.
func mapped[O client.Object, R comparable](caches cache.Cache, object O, find func(context.Context, O) []R, changes predicate.TypedPredicate[O]) source.TypedSource[R] {
	return source.TypedKind(caches, object, handler.TypedEnqueueRequestsFromMapFunc(find), changes)
}
