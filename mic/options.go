package main

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/spf13/pflag"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/aad-pod-identity/aad-pod-identity/internal/azure/cloud"
	"github.com/aad-pod-identity/aad-pod-identity/internal/run"
	"github.com/aad-pod-identity/aad-pod-identity/mic/compute"
)

// Environment variables that MIC reads besides those of the cloud
// configuration.
const (
	envNamespace       = "MIC_POD_NAMESPACE"
	envForceNamespaced = "FORCENAMESPACED"
)

// options of MIC. Names and defaults of the flags are those of the 1.8
// releases, unless the comment says otherwise.
type options struct {
	run.CommonFlags
	getenv func(string) string

	kubeconfig      string
	cloudConfig     string
	cloudCAFile     string // new
	forceNamespaced bool
	readinessGate   bool // new
	requireUse      bool // new
	// namespace of MIC, from the environment.
	namespace string

	syncRetryDuration time.Duration
	reconcileInterval time.Duration
	maxRetry          int
	retryInterval     time.Duration
	createDeleteBatch int
	clientQPS         float32 // default was 5, which throttled MIC itself
	immutableUserMSIs []string

	leaderInstance  string
	leaderNamespace string
	leaderName      string
	leaderDuration  time.Duration

	// Upgrade of objects that releases before 1.6.0 stored.
	configMapName     string
	typeUpgradeKey    string
	enableTypeUpgrade bool
	// Accepted and without effect, as in the 1.8 releases.
	enableScaleFeatures bool
}

func newOptions(getenv func(string) string) *options {
	return &options{CommonFlags: run.CommonFlags{ProbePort: "8080", PrometheusPort: "8888"}, getenv: getenv, namespace: getenv(envNamespace)}
}

func (o *options) addFlags(fs *pflag.FlagSet) {
	o.AddFlags(fs)
	fs.StringVar(&o.kubeconfig, "kubeconfig", "", "path of a kubeconfig; empty: the service account of the pod")
	fs.StringVar(&o.cloudConfig, "cloudconfig", "", "path of azure.json, reread when it changes; empty: environment variables")
	fs.StringVar(&o.cloudCAFile, "cloud-ca-file", "", "PEM file with CAs to trust, besides the system's, for Azure Resource Manager and Azure AD")
	fs.BoolVar(&o.forceNamespaced, "forceNamespaced", strings.EqualFold(o.getenv(envForceNamespaced), "true"), "confine every AzureIdentity to pods of its own namespace")
	fs.BoolVar(&o.readinessGate, "readiness-gate", false, "set the condition aadpodidentity.k8s.io/identity-assigned of pods that have it as a readiness gate")
	fs.BoolVar(&o.requireUse, "require-use", false, "give a pod an AzureIdentity of another namespace only if its service account has the verb \"use\" on it; looked at again within --identity-assignment-reconcile-interval")
	fs.DurationVar(&o.syncRetryDuration, "syncRetryDuration", time.Hour, "longest wait before an identity that Azure refused is tried again; never more than 5m0s")
	fs.DurationVar(&o.reconcileInterval, "identity-assignment-reconcile-interval", 3*time.Minute, "how often VMs and scale sets are compared with what is wanted although nothing changed")
	fs.IntVar(&o.maxRetry, "update-user-msi-max-retry", 2, "how often an identity that Azure refused is tried again quickly")
	fs.DurationVar(&o.retryInterval, "update-user-msi-retry-interval", time.Second, "wait between these quick tries")
	fs.IntVar(&o.createDeleteBatch, "createDeleteBatch", 20, "how many pods are worked on at once")
	fs.Float32Var(&o.clientQPS, "clientQps", 0, "limit of requests per second to the API server; 0: none but the API server's own")
	fs.StringSliceVar(&o.immutableUserMSIs, "immutable-user-msis", nil, "client IDs, comma-separated, of identities that are never removed from a VM or scale set")
	fs.StringVar(&o.leaderInstance, "leader-election-instance", "", "name of this replica in the leader lock; empty: the host name")
	fs.StringVar(&o.leaderNamespace, "leader-election-namespace", "default", "namespace of the leader lock")
	fs.StringVar(&o.leaderName, "leader-election-name", "aad-pod-identity-mic", "name of the leader lock")
	fs.DurationVar(&o.leaderDuration, "leader-election-duration", 15*time.Second, "how long a leader that does not renew its lock is waited for")
	fs.StringVar(&o.configMapName, "config-map-name", "aad-pod-identity-config", "ConfigMap, in the namespace of MIC, that records the upgrade of stored objects")
	fs.StringVar(&o.typeUpgradeKey, "type-upgrade-status-key", "type-upgrade-status", "key of that ConfigMap; delete it to have the objects looked at again")
	fs.BoolVar(&o.enableTypeUpgrade, "enable-type-upgrade", true, "put the capitalisation of field names right, once, in objects that releases before 1.6.0 stored")
	fs.BoolVar(&o.enableScaleFeatures, "enableScaleFeatures", false, "without effect")
	_ = fs.MarkDeprecated("enableScaleFeatures", "it is without effect") // fails only for an unknown flag
}

// validate returns every mistake in the options and the environment, and sets
// what depends on the machine.
func (o *options) validate() error {
	errs := o.Validate()
	add := func(format string, a ...any) { errs = append(errs, fmt.Errorf(format, a...)) }
	if o.namespace == "" {
		add("environment variable %s must be set to the namespace that MIC runs in", envNamespace)
	}
	for _, d := range []struct {
		flag  string
		value time.Duration
		min   time.Duration
	}{
		{"syncRetryDuration", o.syncRetryDuration, time.Second},
		{"identity-assignment-reconcile-interval", o.reconcileInterval, time.Second},
		{"update-user-msi-retry-interval", o.retryInterval, 0},
		{"leader-election-duration", o.leaderDuration, 4 * time.Second},
	} {
		if d.value < d.min {
			add("--%s=%s: must be at least %s", d.flag, d.value, d.min)
		}
	}
	if o.maxRetry < 0 {
		add("--update-user-msi-max-retry=%d: must not be negative", o.maxRetry)
	}
	if o.createDeleteBatch < 1 {
		add("--createDeleteBatch=%d: must be at least 1", o.createDeleteBatch)
	}
	if o.clientQPS < 0 {
		add("--clientQps=%g: must not be negative", o.clientQPS)
	}
	for _, f := range []struct{ flag, value string }{
		{"leader-election-namespace", o.leaderNamespace}, {"leader-election-name", o.leaderName}, {"config-map-name", o.configMapName},
	} {
		if problems := validation.IsDNS1123Subdomain(f.value); len(problems) > 0 {
			add("--%s=%q: %s", f.flag, f.value, problems[0])
		}
	}
	if problems := validation.IsConfigMapKey(o.typeUpgradeKey); len(problems) > 0 {
		add("--type-upgrade-status-key=%q: %s", o.typeUpgradeKey, problems[0])
	}
	if o.leaderInstance == "" {
		host, err := os.Hostname()
		if err != nil {
			add("--leader-election-instance is empty and the host name is not known: %w", err)
		}
		o.leaderInstance = host
	}
	if len(errs) > 0 {
		return run.Usagef("%w", errors.Join(errs...))
	}
	return nil
}

// longestBackoff of an identity that Azure refused. A team that repairs its
// role assignment should not wait for an hour.
const longestBackoff = 5 * time.Minute

func (o *options) backoff() compute.Backoff {
	return compute.Backoff{
		Quick: o.maxRetry, Interval: o.retryInterval,
		First: min(30*time.Second, o.syncRetryDuration), Max: min(longestBackoff, o.syncRetryDuration),
	}
}

func (o *options) cloudOptions() cloud.Options {
	return cloud.Options{
		ConfigFile: o.cloudConfig, EnvironmentFile: o.getenv(cloud.EnvEnvironmentFile),
		CAFile: o.cloudCAFile, Getenv: o.getenv,
	}
}
