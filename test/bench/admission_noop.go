package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"path/filepath"
	"time"

	admissionregv1 "k8s.io/api/admissionregistration/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/envtest"
	"sigs.k8s.io/controller-runtime/pkg/webhook/admission"
)

// serveYes adds a webhook that says yes to everything, called for the namespace of that
// name as ours is for its own: what it costs is the price of any webhook.
func serveYes(ctx context.Context, env *envtest.Environment, config *rest.Config) (stop func() error, err error) {
	options := env.WebhookInstallOptions
	certificate, err := tls.LoadX509KeyPair(filepath.Join(options.LocalServingCertDir, "tls.crt"), filepath.Join(options.LocalServingCertDir, "tls.key"))
	if err != nil {
		return nil, fmt.Errorf("reading the serving certificate: %w", err)
	}
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", net.JoinHostPort(options.LocalServingHost, "0"))
	if err != nil {
		return nil, fmt.Errorf("listening: %w", err)
	}
	yes := admission.HandlerFunc(func(context.Context, admission.Request) admission.Response { return admission.Allowed("") })
	server := &http.Server{
		Handler: endpoint(yes), ReadHeaderTimeout: 10 * time.Second,
		TLSConfig: &tls.Config{Certificates: []tls.Certificate{certificate}, MinVersion: tls.VersionTLS12},
	}
	ended := make(chan error, 1)
	go func() { ended <- server.ServeTLS(listener, "", "") }()
	stop = func() error {
		err := server.Close()
		if served := <-ended; !errors.Is(served, http.ErrServerClosed) {
			err = errors.Join(err, served)
		}
		return err
	}
	if err := registerYes(ctx, options, config, listener.Addr().String()); err != nil {
		return nil, errors.Join(err, stop())
	}
	return stop, nil
}

// registerYes registers it by copies of our own configurations.
func registerYes(ctx context.Context, options envtest.WebhookInstallOptions, config *rest.Config, address string) error {
	clientset, err := kubernetes.NewForConfig(config)
	if err != nil {
		return fmt.Errorf("client of the API server: %w", err)
	}
	url := "https://" + address + "/"
	client := admissionregv1.WebhookClientConfig{URL: &url, CABundle: options.LocalServingCAData}
	selector := &metav1.LabelSelector{MatchLabels: map[string]string{benchLabel: yesNamespace}}
	mutating := options.MutatingWebhooks[0].DeepCopy()
	mutating.ObjectMeta = metav1.ObjectMeta{Name: "yes"}
	for i := range mutating.Webhooks {
		mutating.Webhooks[i].Name = fmt.Sprintf("mutate-%d.%s", i, yesDomain)
		mutating.Webhooks[i].ClientConfig, mutating.Webhooks[i].NamespaceSelector = client, selector
	}
	validating := options.ValidatingWebhooks[0].DeepCopy()
	validating.ObjectMeta = metav1.ObjectMeta{Name: "yes"}
	for i := range validating.Webhooks {
		validating.Webhooks[i].Name = fmt.Sprintf("validate-%d.%s", i, yesDomain)
		validating.Webhooks[i].ClientConfig, validating.Webhooks[i].NamespaceSelector = client, selector
	}
	registrations := clientset.AdmissionregistrationV1()
	if _, err := registrations.MutatingWebhookConfigurations().Create(ctx, mutating, metav1.CreateOptions{}); err != nil {
		return fmt.Errorf("registering a webhook: %w", err)
	}
	if _, err := registrations.ValidatingWebhookConfigurations().Create(ctx, validating, metav1.CreateOptions{}); err != nil {
		return fmt.Errorf("registering a webhook: %w", err)
	}
	return nil
}
