package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"os"
	"time"

	"github.com/go-logr/logr"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/spf13/pflag"
	"golang.org/x/sync/errgroup"
	authorizationclient "k8s.io/client-go/kubernetes/typed/authorization/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/klog/v2"
	ctrlmetrics "sigs.k8s.io/controller-runtime/pkg/metrics"
	ctrlwebhook "sigs.k8s.io/controller-runtime/pkg/webhook"
	"sigs.k8s.io/controller-runtime/pkg/webhook/admission"

	"github.com/aad-pod-identity/aad-pod-identity/internal/access"
	"github.com/aad-pod-identity/aad-pod-identity/internal/logkey"
	"github.com/aad-pod-identity/aad-pod-identity/internal/run"
	"github.com/aad-pod-identity/aad-pod-identity/internal/validation"
	"github.com/aad-pod-identity/aad-pod-identity/internal/version"
	"github.com/aad-pod-identity/aad-pod-identity/webhook/lookup"
	"github.com/aad-pod-identity/aad-pod-identity/webhook/mutate"
	"github.com/aad-pod-identity/aad-pod-identity/webhook/validate"
)

// Paths of the webhook configurations.
const (
	pathMutate     = "/mutate-aadpodidentity"
	pathValidate   = "/validate-aadpodidentity"
	pathPods       = "/mutate-pods"
	pathInjectPods = "/inject-pods"
	pathStripPods  = "/strip-pods"
)

// gcPercent: what a review leaves is garbage at once and the caches are small, so that
// more would buy speed that nobody needs with memory.
const gcPercent = 25

// serveCommand parses the flags and serves until ctx ends.
func serveCommand(ctx context.Context, args []string) error {
	o := newOptions()
	fs := pflag.NewFlagSet("webhook", pflag.ContinueOnError)
	o.addFlags(fs)
	if done, err := o.Parse(fs, "webhook", args); done || err != nil {
		return err
	}
	if err := o.validate(); err != nil {
		return err
	}
	config, err := clientConfig(o)
	if err != nil {
		return err
	}
	run.LimitGarbage(os.Getenv, gcPercent)
	return serve(ctx, o, config)
}

func clientConfig(o *options) (*rest.Config, error) {
	var config *rest.Config
	var err error
	if o.kubeconfig == "" {
		if config, err = rest.InClusterConfig(); err != nil {
			return nil, fmt.Errorf("no --kubeconfig, and no service account of a pod: %w", err)
		}
	} else if config, err = clientcmd.BuildConfigFromFlags("", o.kubeconfig); err != nil {
		return nil, fmt.Errorf("reading the kubeconfig %q: %w", o.kubeconfig, err)
	}
	config.UserAgent = version.UserAgent("webhook", o.CustomUserAgent)
	config.QPS = -1 // the API server's priority and fairness governs
	return config, nil
}

// serve runs the webhook until ctx ends. The caches outlive the server: the
// calls under way at the end are still answered from them.
func serve(ctx context.Context, o *options, config *rest.Config) error {
	klog.FromContext(ctx).Info("Starting", logkey.Component, "webhook", logkey.Version, version.Version)
	rules, err := validation.New()
	if err != nil {
		return err
	}
	registry := prometheus.NewRegistry()
	background, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	cert, err := newCertificate(&o.certificateOptions, config, registry)
	if err != nil {
		return err
	}
	known, err := lookup.New(config, o.lookup())
	if err != nil {
		return err
	}
	server := newServer(ctx, o, cert)
	mayUse, err := reviewer(o, config)
	if err != nil {
		return err
	}
	register(server, o, rules, known, mayUse)
	health := newHealth(ctx, cert, known, server)

	group, groupCtx := errgroup.WithContext(background)
	group.Go(func() error { return known.Run(groupCtx) })
	for _, part := range cert.run {
		group.Go(func() error { return part(groupCtx) })
	}
	for _, s := range o.Servers(health.Handler(func() bool { return true }), prometheus.Gatherers{registry, ctrlmetrics.Registry}) {
		group.Go(func() error { return s(groupCtx) })
	}
	group.Go(func() error {
		defer stop()
		return serveCalls(ctx, groupCtx, o.shutdownDelay, known, server)
	})
	return group.Wait()
}

// serveCalls starts the server once the caches are filled. After ctx ends it
// goes on for the delay: until then Services may still send calls here.
func serveCalls(ctx, background context.Context, delay time.Duration, known *lookup.Lookup, server ctrlwebhook.Server) error {
	syncCtx, cancel := context.WithCancel(background)
	defer cancel()
	defer context.AfterFunc(ctx, cancel)()
	if !known.WaitForSync(syncCtx) {
		return nil
	}
	serverCtx, stop := context.WithCancel(background)
	defer stop()
	context.AfterFunc(ctx, func() {
		klog.FromContext(ctx).Info("Stopping", logkey.Duration, delay)
		time.AfterFunc(delay, stop)
	})
	if err := server.Start(serverCtx); err != nil {
		return fmt.Errorf("webhook server: %w", err)
	}
	return nil
}

func newServer(ctx context.Context, o *options, cert *certificate) ctrlwebhook.Server {
	return drainingServer{stopping: ctx, slots: newSlots(), timeout: o.callTimeout, Server: ctrlwebhook.NewServer(ctrlwebhook.Options{
		Port: o.port,
		TLSOpts: []func(*tls.Config){func(c *tls.Config) {
			c.MinVersion = tlsVersions[o.tlsMinVersion]
			c.GetCertificate = cert.GetCertificate
		}},
	})}
}

// register is the list of all calls that are answered.
func register(server ctrlwebhook.Server, o *options, rules *validation.Validator, known *lookup.Lookup, mayUse access.MayUse) {
	own := validate.Handler{Rules: rules, MICUsername: o.micUsername, ResourceIDCase: validation.IDCase(o.resourceIDCase)}
	mutating, validating := own, own
	mutating.Mutating = true
	validating.Warner = &validate.Warner{Reader: known}
	server.Register(pathMutate, endpoint(&mutating))
	server.Register(pathValidate, endpoint(&validating))
	// A panic about a pod must end the call, not refuse the pod: then the API
	// server goes by failurePolicy, which is Ignore for pods.
	tagger := &mutate.Tagger{Reader: known, Metadata: known, ForceNamespaced: o.forceNamespaced, MayUse: mayUse, Gate: mutate.GateMode(o.readinessGate)}
	server.Register(pathPods, endpoint(tagger).WithRecoverPanic(false))
	if o.injectSelector {
		server.Register(pathInjectPods, endpoint(&mutate.Injector{Tagger: tagger}).WithRecoverPanic(false))
	}
	server.Register(pathStripPods, endpoint(mutate.Stripper{}).WithRecoverPanic(false))
}

// answerLife is how long it is remembered whether a service account may use an
// identity.
const answerLife = 10 * time.Second

// reviewer asks the API server about rights; nil if nobody wants to know.
func reviewer(o *options, config *rest.Config) (access.MayUse, error) {
	if !o.requireUse {
		return nil, nil
	}
	client, err := authorizationclient.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("client for access reviews: %w", err)
	}
	return access.New(client.SubjectAccessReviews(), answerLife).MayUse, nil
}

func endpoint(h admission.Handler) *admission.Webhook {
	return &admission.Webhook{
		Handler: h,
		// The default makes a logger with the request's data for every call; what
		// is logged here names the object itself.
		LogConstructor: func(logr.Logger, *admission.Request) logr.Logger { return klog.Background() },
	}
}

// newHealth makes the checks: ready means that a call would be answered well.
func newHealth(ctx context.Context, cert *certificate, known *lookup.Lookup, server ctrlwebhook.Server) *run.Health {
	health := run.NewHealth()
	health.AddReady("certificate", cert.Check)
	health.AddReady("caches", func(context.Context) error {
		if !known.Synced() {
			return errors.New("not filled yet")
		}
		return nil
	})
	started := server.StartedChecker()
	health.AddReady("server", func(checkCtx context.Context) error {
		request, err := http.NewRequestWithContext(checkCtx, http.MethodGet, "/", nil)
		if err != nil {
			return fmt.Errorf("making a request: %w", err)
		}
		return started(request)
	})
	health.AddReady("shutdown", func(context.Context) error {
		if ctx.Err() != nil {
			return errors.New("stopping")
		}
		return nil
	})
	return health
}
