package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/spf13/pflag"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"

	"github.com/aad-pod-identity/aad-pod-identity/certs"
)

// Values of --cert-mode.
const (
	certModeFiles = "files"
	certModeSelf  = "self"
)

// certificateOptions say where the serving certificate comes from.
type certificateOptions struct {
	// certMode is certModeFiles or certModeSelf.
	certMode string
	// certDir holds tls.crt and tls.key.
	certDir string
	// certSecret holds the certificates of certModeSelf.
	certSecret string
	// namespace and service by which API servers know the webhook.
	namespace, service string
	// configuration is the name of both webhook configurations.
	configuration string
	// expiryWarning is how long before its end people are told of a certificate
	// that was not renewed.
	expiryWarning time.Duration
	// podName and podUID of the pod that the events are about.
	podName, podUID string
}

func (o *certificateOptions) addFlags(fs *pflag.FlagSet) {
	fs.StringVar(&o.certMode, "cert-mode", o.certMode, "where the serving certificate comes from: files (somebody else writes them into --cert-dir) or self (made, renewed and put into the webhook configurations here)")
	fs.StringVar(&o.certDir, "cert-dir", "/etc/aad-pod-identity/webhook/certs", "directory with the serving certificate, tls.crt and tls.key; reread when it changes, and written with --cert-mode=self")
	fs.StringVar(&o.certSecret, "cert-secret", "", "Secret of --namespace that holds the certificates of --cert-mode=self; it must exist and may be empty")
	fs.StringVar(&o.namespace, "namespace", "", "namespace of the webhook")
	fs.StringVar(&o.service, "service", "", "name of the webhook's Service; the serving certificate must be for <service>.<namespace>.svc; empty: not checked")
	fs.StringVar(&o.configuration, "webhook-configuration", "", "name of the MutatingWebhookConfiguration and ValidatingWebhookConfiguration whose caBundle must vouch for the serving certificate; empty: not checked")
	fs.DurationVar(&o.expiryWarning, "cert-expiry-warning", 7*24*time.Hour, "how long before its end a serving certificate that was not renewed is logged and reported as an event, but at most a tenth of its life")
	fs.StringVar(&o.podName, "pod-name", "", "name of the pod that events are about; empty: no events")
	fs.StringVar(&o.podUID, "pod-uid", "", "UID of that pod")
}

// validate returns every mistake in the options.
func (o *certificateOptions) validate() []error {
	var errs []error
	if o.certDir == "" {
		errs = append(errs, errors.New("--cert-dir: must not be empty"))
	}
	if o.expiryWarning < 0 {
		errs = append(errs, fmt.Errorf("--cert-expiry-warning=%s: must not be negative", o.expiryWarning))
	}
	require := func(why, flag, value string) {
		if value == "" {
			errs = append(errs, fmt.Errorf("--%s: required with %s", flag, why))
		}
	}
	switch o.certMode {
	case certModeFiles:
		if o.certSecret != "" {
			errs = append(errs, fmt.Errorf("--cert-secret=%q: only with --cert-mode=self; with files the Secret is mounted into --cert-dir", o.certSecret))
		}
	case certModeSelf:
		why := "--cert-mode=self"
		require(why, "cert-secret", o.certSecret)
		require(why, "service", o.service)
		require(why, "webhook-configuration", o.configuration)
	default:
		errs = append(errs, fmt.Errorf("--cert-mode=%q: must be files or self", o.certMode))
	}
	if o.service != "" {
		require("--service", "namespace", o.namespace)
	}
	if o.podName != "" {
		require("--pod-name", "namespace", o.namespace)
	}
	return errs
}

// host is the name by which API servers know the webhook, "" for any.
func (o *certificateOptions) host() string {
	if o.service == "" {
		return ""
	}
	return o.service + "." + o.namespace + ".svc"
}

// certificate is the serving certificate and what keeps it good.
type certificate struct {
	*certs.Source
	// trust is nil where the webhook configurations are not known.
	trust *certs.Trust
	run   []func(context.Context) error
}

func newCertificate(o *certificateOptions, config *rest.Config, registry prometheus.Registerer) (*certificate, error) {
	source, err := certs.NewSource(o.certDir, o.host(), registry)
	if err != nil {
		return nil, err
	}
	event, err := certs.Events(config, certs.Pod{Namespace: o.namespace, Name: o.podName, UID: types.UID(o.podUID)})
	if err != nil {
		return nil, err
	}
	c := &certificate{Source: source}
	c.run = append(c.run, source.Run, certs.NewWarner(source, o.expiryWarning, event).Run)
	if o.configuration == "" {
		return c, nil
	}
	if c.trust, err = certs.NewTrust(config, o.configuration, o.host()); err != nil {
		return nil, err
	}
	c.run = append(c.run, c.trust.Run)
	if o.certMode == certModeSelf {
		self, err := certs.NewSelfSigned(config, certs.SelfSignedOptions{
			Namespace:     o.namespace,
			Secret:        o.certSecret,
			Configuration: o.configuration,
			Host:          o.host(),
			Dir:           o.certDir,
			CAName:        o.service + "-ca",
		}, source, c.trust, registry)
		if err != nil {
			return nil, err
		}
		c.run = append(c.run, self.Run)
	}
	return c, nil
}

// Check says why API servers would not accept the certificate that is served where
// they need it, or nil.
func (c *certificate) Check(ctx context.Context) error {
	if err := c.Source.Check(ctx); err != nil || c.trust == nil {
		return err
	}
	cert, err := c.Current()
	if err != nil {
		return err
	}
	return c.trust.Ready(ctx, cert)
}
