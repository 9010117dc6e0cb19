package main

import (
	"crypto/tls"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/spf13/pflag"

	"github.com/aad-pod-identity/aad-pod-identity/internal/run"
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
	// shutdownDelay is how long the server goes on after it was told to stop.
	shutdownDelay time.Duration
}

var tlsVersions = map[string]uint16{
	"VersionTLS12": tls.VersionTLS12,
	"VersionTLS13": tls.VersionTLS13,
}

func newOptions() *options {
	return &options{CommonFlags: run.CommonFlags{ProbePort: "8080", PrometheusPort: "8889"}, certificateOptions: certificateOptions{certMode: certModeFiles}}
}

func (o *options) addFlags(fs *pflag.FlagSet) {
	o.AddFlags(fs)
	o.certificateOptions.addFlags(fs)
	fs.IntVar(&o.port, "port", 9443, "port of the webhook, served over TLS")
	fs.StringVar(&o.tlsMinVersion, "tls-min-version", "VersionTLS12", "oldest TLS version that is accepted: VersionTLS12 or VersionTLS13")
	fs.StringVar(&o.kubeconfig, "kubeconfig", "", "path of a kubeconfig; empty: the service account of the pod")
	fs.BoolVar(&o.forceNamespaced, "forceNamespaced", false, "confine every AzureIdentity to pods of its own namespace")
	fs.StringVar(&o.micUsername, "mic-username", "", "user name of MIC, which may correct the spelling of field names in stored objects, such as system:serviceaccount:default:aad-pod-id-mic-service-account")
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
	if o.shutdownDelay < 0 {
		errs = append(errs, fmt.Errorf("--shutdown-delay=%s: must not be negative", o.shutdownDelay))
	}
	if len(errs) > 0 {
		return run.Usagef("%w", errors.Join(errs...))
	}
	return nil
}
