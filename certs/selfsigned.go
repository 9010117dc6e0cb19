package certs

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"time"

	"github.com/open-policy-agent/cert-controller/pkg/rotator"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
	"k8s.io/klog/v2"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	ctrlconfig "sigs.k8s.io/controller-runtime/pkg/config"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"

	"github.com/aad-pod-identity/aad-pod-identity/internal/logkey"
	"github.com/aad-pod-identity/aad-pod-identity/internal/metric"
	"github.com/aad-pod-identity/aad-pod-identity/internal/run"
)

// Lives of the certificates that SelfSigned makes. Both are renewed when less
// than renewBefore is left.
const (
	caDuration      = 10 * 365 * 24 * time.Hour
	servingDuration = 90 * 24 * time.Hour
	renewBefore     = 30 * 24 * time.Hour
)

// lookInterval is how often what is served is compared with the Secret; both are
// in memory.
const lookInterval = time.Second

// SelfSignedOptions name the objects of a SelfSigned.
type SelfSignedOptions struct {
	// Namespace and Secret of the certificates. The Secret must exist; it may be
	// empty.
	Namespace, Secret string
	// Configuration is the name of the MutatingWebhookConfiguration and of the
	// ValidatingWebhookConfiguration.
	Configuration string
	// Host is the name by which API servers know the webhook.
	Host string
	// Dir is where the files of the Source are written.
	Dir string
	// CAName is the common name of the authority.
	CAName string
}

// SelfSigned makes the serving certificate and its authority, renews both, and
// puts the authority into the webhook configurations, without cert-manager. That
// is the work of open-policy-agent's cert-controller; this type confines it to our
// objects, keeps the former authority trusted while a new one takes over, and
// takes the certificate from the Secret to the files.
//
// Any number of replicas may run it: they share the Secret, and whoever writes it
// second loses by its resource version and takes what the other made. The Secret is
// watched and not mounted, because the kubelet takes up to two minutes to bring a
// change into a pod, and because a replica must not serve a certificate before API
// servers trust its authority.
type SelfSigned struct {
	options SelfSignedOptions
	config  *rest.Config
	secrets cache.Cache
	writer  client.Writer
	// failures counts the ends of cert-controller.
	failures prometheus.Counter
	source   *Source
	trust    *Trust
	now      func() time.Time
}

// NewSelfSigned prepares the certificates of a source; they are made by Run.
func NewSelfSigned(config *rest.Config, options SelfSignedOptions, source *Source, trust *Trust, registry prometheus.Registerer) (*SelfSigned, error) {
	scheme := runtime.NewScheme()
	if err := corev1.AddToScheme(scheme); err != nil {
		return nil, fmt.Errorf("registering the API types: %w", err)
	}
	secrets, err := cache.New(config, cache.Options{Scheme: scheme, ByObject: map[client.Object]cache.ByObject{
		&corev1.Secret{}: {
			Namespaces: map[string]cache.Config{options.Namespace: {}},
			Field:      fields.OneTermEqualSelector("metadata.name", options.Secret),
		},
	}})
	if err != nil {
		return nil, fmt.Errorf("preparing the watch of Secret %s/%s: %w", options.Namespace, options.Secret, err)
	}
	writer, err := client.New(config, client.Options{Scheme: scheme})
	if err != nil {
		return nil, fmt.Errorf("preparing the client of Secret %s/%s: %w", options.Namespace, options.Secret, err)
	}
	failures := prometheus.NewCounter(prometheus.CounterOpts{
		Namespace: metric.Namespace,
		Name:      "webhook_certificate_rotation_errors_count",
		Help:      "How often the renewal of the webhook's self-signed certificates failed and was begun again.",
	})
	if err := registry.Register(failures); err != nil {
		return nil, fmt.Errorf("registering the metric of failed renewals: %w", err)
	}
	return &SelfSigned{options: options, config: config, secrets: secrets, writer: writer, failures: failures, source: source, trust: trust, now: time.Now}, nil
}

func (s *SelfSigned) key() types.NamespacedName {
	return types.NamespacedName{Namespace: s.options.Namespace, Name: s.options.Secret}
}

// Run makes, renews and publishes the certificates until ctx ends.
func (s *SelfSigned) Run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return s.secrets.Start(ctx) })
	group.Go(func() error { return s.publish(ctx) })
	group.Go(func() error {
		if !s.waitForSecret(ctx) {
			return nil
		}
		return s.keepRotating(ctx, s.rotate)
	})
	group.Go(func() error { return s.keepTrimming(ctx) })
	if err := group.Wait(); err != nil {
		return fmt.Errorf("self-signed certificates in Secret %s: %w", s.key(), err)
	}
	return nil
}

// waitForSecret waits for the Secret, which is the chart's: to create Secrets
// would take a right that cannot be confined to a name. It returns false when ctx
// ends.
func (s *SelfSigned) waitForSecret(ctx context.Context) bool {
	tick := time.NewTicker(lookInterval)
	defer tick.Stop()
	said := ""
	for {
		err := s.secrets.Get(ctx, s.key(), &corev1.Secret{})
		if err == nil {
			return true
		}
		if ctx.Err() == nil && said != err.Error() {
			said = err.Error()
			klog.FromContext(ctx).Error(err, "Waiting for the Secret of the serving certificate; `helm upgrade` makes it again if it was deleted", logkey.Name, s.key().String())
		}
		select {
		case <-ctx.Done():
			return false
		case <-tick.C:
		}
	}
}

// keepRotating rotates until ctx ends. What is served stays good while the rotation
// fails, for weeks if need be, so that the process must not end with it.
func (s *SelfSigned) keepRotating(ctx context.Context, rotate func(context.Context) error) error {
	_ = run.Retry(ctx, "to renew the self-signed certificates; the one that is served stays", func(ctx context.Context) error {
		err := rotate(ctx)
		if ctx.Err() == nil {
			s.failures.Inc()
			if err == nil {
				err = errors.New("the rotation ended")
			}
		}
		return err
	}) // ctx has ended: an orderly stop
	return nil
}

// rotate runs cert-controller. It may be called again when it has returned.
func (s *SelfSigned) rotate(ctx context.Context) error {
	scheme := runtime.NewScheme()
	if err := corev1.AddToScheme(scheme); err != nil {
		return fmt.Errorf("registering the API types: %w", err)
	}
	if err := addWebhookConfigurations(scheme); err != nil {
		return err
	}
	config := narrowed(s.config, map[string]string{
		"secrets":                         s.options.Secret,
		"mutatingwebhookconfigurations":   s.options.Configuration,
		"validatingwebhookconfigurations": s.options.Configuration,
	})
	again := true
	mgr, err := manager.New(config, manager.Options{
		Scheme:  scheme,
		Metrics: metricsserver.Options{BindAddress: "0"},
		// The names of controllers are those of the process, and this may be the second
		// time.
		Controller: ctrlconfig.Controller{SkipNameValidation: &again},
		NewClient: func(config *rest.Config, options client.Options) (client.Client, error) {
			options.Cache = nil
			c, err := client.New(config, options)
			if err != nil {
				return nil, err
			}
			return overlapping{Client: c, live: c, secret: s.key(), configuration: s.options.Configuration, now: s.now}, nil
		},
	})
	if err != nil {
		return fmt.Errorf("preparing the rotation: %w", err)
	}
	err = rotator.AddRotator(mgr, &rotator.CertRotator{
		SecretKey: s.key(),
		CertDir:   s.options.Dir,
		CAName:    s.options.CAName,
		// Part of the subject, for people who read it.
		CAOrganization:     "aad-pod-identity",
		DNSName:            s.options.Host,
		IsReady:            make(chan struct{}),
		CaCertDuration:     caDuration,
		ServerCertDuration: servingDuration,
		LookaheadInterval:  renewBefore,
		FieldOwner:         "aad-pod-identity-webhook",
		Webhooks: []rotator.WebhookInfo{
			{Name: s.options.Configuration, Type: rotator.Mutating},
			{Name: s.options.Configuration, Type: rotator.Validating},
		},
	})
	if err != nil {
		return fmt.Errorf("preparing the rotation: %w", err)
	}
	begun := make(chan struct{})
	err = mgr.Add(manager.RunnableFunc(func(ctx context.Context) error {
		close(begun)
		<-ctx.Done()
		return nil
	}))
	if err != nil {
		return fmt.Errorf("preparing the rotation: %w", err)
	}
	if err := run.UntilEnd(ctx, begun, mgr.Start); err != nil && ctx.Err() == nil {
		return fmt.Errorf("rotating: %w", err)
	}
	return nil
}

// publish brings the Secret's certificate into the files, when it is due.
func (s *SelfSigned) publish(ctx context.Context) error {
	tick := time.NewTicker(lookInterval)
	defer tick.Stop()
	var h handover
	said := ""
	for {
		if err := s.look(ctx, &h); err != nil && ctx.Err() == nil && said != err.Error() {
			said = err.Error()
			klog.FromContext(ctx).Error(err, "The Secret's serving certificate cannot be served", logkey.Name, s.key().String())
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

func (s *SelfSigned) look(ctx context.Context, h *handover) error {
	var secret corev1.Secret
	if err := s.secrets.Get(ctx, s.key(), &secret); err != nil {
		if apierrors.IsNotFound(err) {
			return nil // waitForSecret says so; what is served stays
		}
		return fmt.Errorf("reading the Secret: %w", err)
	}
	certPEM, keyPEM := secret.Data[CertFile], secret.Data[KeyFile]
	if len(certPEM) == 0 || len(keyPEM) == 0 {
		return nil // cert-controller is about to fill it
	}
	candidate, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		return fmt.Errorf("reading the Secret's %s and %s: %w", CertFile, KeyFile, err)
	}
	served, err := s.source.Current()
	if err == nil && bytes.Equal(served.Certificate[0], candidate.Certificate[0]) {
		return nil
	}
	servedWorks := err == nil && errors.Join(s.source.Check(ctx), s.trust.Check(ctx, served)) == nil
	if !h.due(candidate.Certificate[0], s.trust.Check(ctx, &candidate) == nil, servedWorks, s.now()) {
		return nil
	}
	klog.FromContext(ctx).Info("New serving certificate", logkey.Name, s.key().String(), "notAfter", candidate.Leaf.NotAfter)
	return publish(s.options.Dir, certPEM, keyPEM)
}
