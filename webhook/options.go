package main

import (
	"crypto/tls"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/spf13/pflag"

	"github.com/aad-pod-identity/aad-pod-identity/internal/run"
	"github.com/aad-pod-identity/aad-pod-identity/internal/validation"
	"github.com/aad-pod-identity/aad-pod-identity/webhook/lookup"
	"github.com/aad-pod-identity/aad-pod-identity/webhook/mutate"
)

// options of the server.
type options struct {
	run.CommonFlags
	certificateOptions
	// port serves the API server's calls over TLS.
	port int
	// tlsMinVersion is a key of tlsVersions.
	tlsMinVersion string
	// kubeconfig is empty inside a cluster.
	kubeconfig string
	// forceNamespaced confines every identity to pods of its own namespace.
	forceNamespaced bool
	// micUsername may rewrite stored objects whose field names are misspelt.
	micUsername string
	// resourceIDCase is a validation.IDCase.
	resourceIDCase string
	// requireUse warns about pods whose service account may not use an identity of
	// another namespace.
	requireUse bool
	// injectSelector gives pods the binding label of their ServiceAccount or
	// Namespace.
	injectSelector bool
	// readinessGate is a mutate.GateMode.
	readinessGate string
	// shutdownDelay is how long the server goes on after it was told to stop.
	shutdownDelay time.Duration
	// callTimeout has no flag: it goes with what the chart tells the API server.
	callTimeout time.Duration
}

var tlsVersions = map[string]uint16{
	"VersionTLS12": tls.VersionTLS12,
	"VersionTLS13": tls.VersionTLS13,
}

func newOptions() *options {
	return &options{CommonFlags: run.CommonFlags{ProbePort: "8080", PrometheusPort: "8889"}, certificateOptions: certificateOptions{certMode: certModeFiles}, readinessGate: string(mutate.GateOff), resourceIDCase: string(validation.RejectCase), callTimeout: callTimeout}
}

func (o *options) addFlags(fs *pflag.FlagSet) {
	o.AddFlags(fs)
	o.certificateOptions.addFlags(fs)
	fs.IntVar(&o.port, "port", 9443, "port of the webhook, served over TLS")
	fs.StringVar(&o.tlsMinVersion, "tls-min-version", "VersionTLS12", "oldest TLS version that is accepted: VersionTLS12 or VersionTLS13")
	fs.StringVar(&o.kubeconfig, "kubeconfig", "", "path of a kubeconfig; empty: the service account of the pod")
	fs.BoolVar(&o.forceNamespaced, "forceNamespaced", false, "confine every AzureIdentity to pods of its own namespace")
	fs.StringVar(&o.micUsername, "mic-username", "", "user name of MIC, which may correct the spelling of field names in stored objects, such as system:serviceaccount:default:aad-pod-id-mic-service-account")
	fs.StringVar(&o.resourceIDCase, "resource-id-case", o.resourceIDCase, "what becomes of a resource ID that is miscapitalised and nothing else: reject, warn (admitted with a warning that holds the right ID) or canonicalize (the right ID is stored)")
	fs.BoolVar(&o.requireUse, "require-use", false, "warn at the creation of a pod when its service account lacks the verb \"use\" on an AzureIdentity of another namespace; MIC must run with --require-use")
	fs.BoolVar(&o.injectSelector, "inject-selector", false, "give pods without the label aadpodidbinding the one that the annotation aadpodidentity.k8s.io/selector of their ServiceAccount or Namespace names")
	fs.StringVar(&o.readinessGate, "readiness-gate", o.readinessGate, "which labelled pods get the readiness gate aadpodidentity.k8s.io/identity-assigned: off, opt-in (annotation of the pod or label of its namespace) or all; MIC must run with --readiness-gate")
	fs.DurationVar(&o.shutdownDelay, "shutdown-delay", 5*time.Second, "how long to go on serving after SIGTERM, until no Service sends calls here any more")
}

// validate returns every mistake in the options.
func (o *options) validate() error {
	errs := append(o.Validate(), o.certificateOptions.validate()...)
	if err := run.ValidatePort("port", strconv.Itoa(o.port)); err != nil {
		errs = append(errs, err)
	}
	if _, ok := tlsVersions[o.tlsMinVersion]; !ok {
		errs = append(errs, fmt.Errorf("--tls-min-version=%q: must be VersionTLS12 or VersionTLS13", o.tlsMinVersion))
	}
	if _, err := mutate.ParseGateMode(o.readinessGate); err != nil {
		errs = append(errs, fmt.Errorf("--readiness-gate=%q: %w", o.readinessGate, err))
	}
	if _, err := validation.ParseIDCase(o.resourceIDCase); err != nil {
		errs = append(errs, fmt.Errorf("--resource-id-case=%q: %w", o.resourceIDCase, err))
	}
	if o.shutdownDelay < 0 {
		errs = append(errs, fmt.Errorf("--shutdown-delay=%s: must not be negative", o.shutdownDelay))
	}
	if len(errs) > 0 {
		return run.Usagef("%w", errors.Join(errs...))
	}
	return nil
}

// lookup is what the options need to know of the cluster: ServiceAccounts and
// Namespaces are watched only where something depends on them.
func (o *options) lookup() lookup.Options {
	return lookup.Options{
		ServiceAccounts: o.injectSelector,
		Namespaces:      o.injectSelector || o.readinessGate == string(mutate.GateOptIn),
	}
}
