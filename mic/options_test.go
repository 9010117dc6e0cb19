package main

import (
	"strings"
	"testing"
	"time"

	"github.com/spf13/pflag"

	"github.com/aad-pod-identity/aad-pod-identity/internal/azure/cloud"
	"github.com/aad-pod-identity/aad-pod-identity/mic/compute"
)

// parse reads flags without setting up the process's logging.
func parse(t *testing.T, environment map[string]string, args ...string) (*options, error) {
	t.Helper()
	o := newOptions(func(k string) string { return environment[k] })
	fs := pflag.NewFlagSet("mic", pflag.ContinueOnError)
	o.addFlags(fs)
	if err := fs.Parse(args); err != nil {
		t.Fatal(err)
	}
	return o, o.validate()
}

var minimal = map[string]string{"MIC_POD_NAMESPACE": "mic-system"}

// TestDefaults holds the defaults that clusters rely on.
func TestDefaults(t *testing.T) {
	o, err := parse(t, minimal)
	if err != nil {
		t.Fatal(err)
	}
	for what, ok := range map[string]bool{
		"http-probe-port":                        o.ProbePort == "8080",
		"prometheus-port":                        o.PrometheusPort == "8888",
		"forceNamespaced":                        !o.forceNamespaced,
		"readiness-gate":                         !o.readinessGate,
		"syncRetryDuration":                      o.syncRetryDuration == time.Hour,
		"leader-election-instance":               o.leaderInstance != "",
		"leader-election-namespace":              o.leaderNamespace == "default",
		"leader-election-name":                   o.leaderName == "aad-pod-identity-mic",
		"leader-election-duration":               o.leaderDuration == 15*time.Second,
		"createDeleteBatch":                      o.createDeleteBatch == 20,
		"clientQps":                              o.clientQPS == 0,
		"immutable-user-msis":                    len(o.immutableUserMSIs) == 0,
		"config-map-name":                        o.configMapName == "aad-pod-identity-config",
		"type-upgrade-status-key":                o.typeUpgradeKey == "type-upgrade-status",
		"enable-type-upgrade":                    o.enableTypeUpgrade,
		"update-user-msi-max-retry":              o.maxRetry == 2,
		"update-user-msi-retry-interval":         o.retryInterval == time.Second,
		"identity-assignment-reconcile-interval": o.reconcileInterval == 3*time.Minute,
		"enableProfile":                          !o.EnableProfile,
		"namespace":                              o.namespace == "mic-system",
	} {
		if !ok {
			t.Errorf("default of %s is another", what)
		}
	}
}

// TestFlagsOfThePreviousRelease are all accepted, as its chart writes them.
func TestFlagsOfThePreviousRelease(t *testing.T) {
	o, err := parse(t, minimal,
		"--kubeconfig=/k", "--cloudconfig=/etc/kubernetes/azure.json", "--forceNamespaced=true", "--syncRetryDuration=10m",
		"--leader-election-instance=me", "--leader-election-namespace=kube-system", "--leader-election-name=lock", "--leader-election-duration=30s",
		"--http-probe-port=8181", "--prometheus-port=8889", "--enableProfile=true", "--enableScaleFeatures=true", "--createDeleteBatch=50", "--clientQps=100",
		"--immutable-user-msis=a,b", "--config-map-name=c", "--type-upgrade-status-key=k", "--enable-type-upgrade=false", "--update-user-msi-max-retry=5",
		"--update-user-msi-retry-interval=3s", "--identity-assignment-reconcile-interval=1m", "--custom-user-agent=mine", "--log-format=json", "-v=5",
	)
	if err != nil {
		t.Fatal(err)
	}
	if !o.forceNamespaced || o.leaderInstance != "me" || o.createDeleteBatch != 50 || len(o.immutableUserMSIs) != 2 || o.CustomUserAgent != "mine" || o.clientQPS != 100 {
		t.Errorf("options %+v", o)
	}
	if got, want := o.backoff(), (compute.Backoff{Quick: 5, Interval: 3 * time.Second, First: 30 * time.Second, Max: 5 * time.Minute}); got != want {
		t.Errorf("backoff %+v, want %+v", got, want)
	}
}

func TestForceNamespacedFromTheEnvironment(t *testing.T) {
	o, err := parse(t, map[string]string{"MIC_POD_NAMESPACE": "x", "FORCENAMESPACED": "TRUE"})
	if err != nil || !o.forceNamespaced {
		t.Errorf("%v, %v", o.forceNamespaced, err)
	}
}

func TestAllMistakesAreTold(t *testing.T) {
	_, err := parse(t, nil, "--http-probe-port=0", "--createDeleteBatch=0", "--clientQps=-1", "--update-user-msi-max-retry=-1",
		"--update-user-msi-retry-interval=-1s", "--identity-assignment-reconcile-interval=0s", "--syncRetryDuration=0s",
		"--leader-election-name=Not A Name", "--leader-election-duration=1s")
	if err == nil {
		t.Fatal("no error")
	}
	for _, want := range []string{
		"MIC_POD_NAMESPACE", "--http-probe-port", "--createDeleteBatch=0", "--clientQps=-1", "--update-user-msi-max-retry=-1", "--update-user-msi-retry-interval=-1s",
		"--identity-assignment-reconcile-interval=0s", "--syncRetryDuration=0s", `--leader-election-name="Not A Name"`, "--leader-election-duration=1s",
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("the error lacks %q:\n%v", want, err)
		}
	}
}

func TestImmutableIdentities(t *testing.T) {
	const id = "/subscriptions/s/resourceGroups/g/providers/Microsoft.ManagedIdentity/userAssignedIdentities/"
	o, err := parse(t, minimal, "--immutable-user-msis=AAAA-1, bbbb-2")
	if err != nil {
		t.Fatal(err)
	}
	a := &azureAccess{options: o}
	for name, test := range map[string]struct {
		cluster              string
		resourceID, clientID string
		want                 bool
	}{
		"one of the flag, in another case":           {"", id + "x", "aaaa-1", true},
		"one of the flag, after a blank":             {"", id + "x", "BBBB-2", true},
		"another":                                    {"", id + "x", "cccc-3", false},
		"one without a client ID":                    {"", id + "x", "", false},
		"the cluster's own by client ID":             {"DDDD-4", id + "x", "dddd-4", true},
		"the cluster's own by resource ID":           {strings.ToLower(id) + "x", id + "X", "eeee-5", true},
		"another than the cluster's own":             {id + "x", id + "y", "eeee-5", false},
		"nothing is the cluster's own if it's unset": {"", "", "", false},
	} {
		t.Run(name, func(t *testing.T) {
			a.cloud.Store(&cloud.Cloud{Config: &cloud.Config{UserAssignedIdentityID: test.cluster}})
			if got := a.immutable(test.resourceID, test.clientID); got != test.want {
				t.Errorf("%v, want %v", got, test.want)
			}
		})
	}
}
