package chart_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// Names and selectors of chart 4.1.18, by what it rendered for a release called
// aad-pod-identity. A selector cannot be changed by an upgrade.
func TestNamesAndSelectorsOfChart4118(t *testing.T) {
	all := mustRender(t)
	for _, key := range []string{
		"Deployment/aad-pod-identity-mic",
		"DaemonSet/aad-pod-identity-nmi",
		"ServiceAccount/aad-pod-identity-mic",
		"ServiceAccount/aad-pod-identity-nmi",
		"ClusterRole/aad-pod-identity-mic",
		"ClusterRole/aad-pod-identity-nmi",
		"ClusterRoleBinding/aad-pod-identity-mic",
		"ClusterRoleBinding/aad-pod-identity-nmi",
		"AzurePodIdentityException/mic",
		"AzurePodIdentityException/kube-system/aks-addon-exception",
	} {
		all.get(t, key)
	}
	for key, component := range map[string]string{
		"Deployment/aad-pod-identity-mic": "mic", "DaemonSet/aad-pod-identity-nmi": "nmi",
	} {
		o := all.get(t, key)
		got, _, err := unstructured.NestedStringMap(o.Object, "spec", "selector", "matchLabels")
		if err != nil {
			t.Fatal(err)
		}
		want := map[string]string{
			"app.kubernetes.io/name":      "aad-pod-identity",
			"app.kubernetes.io/instance":  "aad-pod-identity",
			"app.kubernetes.io/component": component,
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("selector of %s (-want +got):\n%s", key, diff)
		}
		labels, _, err := unstructured.NestedStringMap(o.Object, "spec", "template", "metadata", "labels")
		if err != nil {
			t.Fatal(err)
		}
		// The troubleshooting guide selects logs by it.
		if labels["component"] != component {
			t.Errorf("%s: pod label component=%q, want %q", key, labels["component"], component)
		}
		sa, _, _ := unstructured.NestedString(o.Object, "spec", "template", "spec", "serviceAccountName")
		if sa != o.GetName() {
			t.Errorf("%s: service account %q, want %q", key, sa, o.GetName())
		}
	}
}

// Names are the chart's and not the release's, as they were.
func TestNamesFollowNameOverrideAndNotTheRelease(t *testing.T) {
	out, err := helm(t, "template", "other", chartDir, "--namespace", namespace, "--kube-version", kubeVersion,
		"--set", "rbac.createUserFacingClusterRoles=true")
	if err != nil {
		t.Fatal(err)
	}
	all := parse(t, out)
	all.get(t, "Deployment/aad-pod-identity-mic")
	all.get(t, "ClusterRole/other-aad-pod-identity-view")
	all.get(t, "ClusterRole/other-aad-pod-identity-edit")

	all = mustRender(t, "--set", "nameOverride=pods,fullnameOverride=users,rbac.createUserFacingClusterRoles=true")
	all.get(t, "Deployment/pods-mic")
	all.get(t, "DaemonSet/pods-nmi")
	all.get(t, "Deployment/pods-webhook")
	all.get(t, "ClusterRole/users-view")

	long := strings.Repeat("x", 59)
	for key, o := range mustRender(t, "--set", "nameOverride="+long) {
		// Names that become labels or host names; the others may be longer.
		if kinds := []string{"Service", "Job", "Deployment", "DaemonSet"}; slices.Contains(kinds, o.GetKind()) && len(o.GetName()) > 63 {
			t.Errorf("%s: name longer than a DNS label", key)
		}
	}
}

// A row is a value and what it must become. Empty values leave flags out.
func TestValuesBecomeArguments(t *testing.T) {
	const mic, nmi, webhook = "Deployment/aad-pod-identity-mic", "DaemonSet/aad-pod-identity-nmi", "Deployment/aad-pod-identity-webhook"
	tests := map[string]struct {
		set    string
		object string
		want   []string
		absent []string
	}{
		"MIC's defaults are MIC's own": {
			object: mic,
			want:   []string{"--cloudconfig=/etc/kubernetes/azure.json"},
			absent: []string{"--leader-election", "--http-probe-port", "--clientQps", "--createDeleteBatch", "--prometheus-port", "--v=", "--cloud-ca-file"},
		},
		"0 is the default, as it was": {
			set: "mic.createDeleteBatch=0,mic.logVerbosity=0", object: mic, absent: []string{"--createDeleteBatch", "--v="},
		},
		"immutable identities are one list": {
			set: "mic.immutableUserMSIs={a,b}", object: mic, want: []string{"--immutable-user-msis=a,b"},
		},
		"a CA is mounted and named": {
			set: "customCloud.caBundle=-----BEGIN CERTIFICATE-----", object: mic,
			want: []string{"--cloud-ca-file=/etc/aad-pod-identity/cloud-ca/ca.crt"},
		},
		"NMI's defaults": {
			object: nmi,
			want: []string{"--node=$(NODE_NAME)", "--nmi-listen-address=$(HOST_IP)", "--http-probe-port=8085", "--operation-mode=standard",
				"--MICNamespace=" + namespace, "--mic-service-account=aad-pod-identity-mic", "--metadata-header-required=true", "--enableScaleFeatures=true"},
			absent: []string{"--block-instance-metadata", "--forceNamespaced", "--retry-attempts", "--prometheus-port"},
		},
		"NMI without a probe port keeps the chart's": {
			set: "nmi.probePort=", object: nmi, want: []string{"--http-probe-port=8085"},
		},
		"false is said, since the flag defaults to true": {
			set: "nmi.metadataHeaderRequired=false", object: nmi, want: []string{"--metadata-header-required=false"},
		},
		"MIC's namespace may be said, but an account of MIC's name there is not MIC's": {
			set: "nmi.micNamespace=elsewhere", object: nmi, want: []string{"--MICNamespace=elsewhere", "--mic-service-account="}, absent: []string{"--mic-service-account=aad"},
		},
		"without RBAC, MIC's service account is that of any pod of the namespace, and tells NMI nothing": {
			set: "rbac.enabled=false", object: nmi, want: []string{"--mic-service-account="}, absent: []string{"--mic-service-account=default"},
		},
		"managed mode confines identities to their namespace": {
			set: "operationMode=managed", object: nmi, want: []string{"--operation-mode=managed", "--forceNamespaced=true"}, absent: []string{"--allowed-authority-hosts", "--cloud-ca-file"},
		},
		"NMI knows where credentials may go": {
			set: "allowedAuthorityHosts={adfs.example.com,10.0.0.4:8443}", object: nmi, want: []string{"--allowed-authority-hosts=adfs.example.com,10.0.0.4:8443"},
		},
		"NMI trusts the CA of the cloud": {
			set: "customCloud.caBundle=-----BEGIN CERTIFICATE-----", object: nmi, want: []string{"--cloud-ca-file=/etc/aad-pod-identity/cloud-ca/ca.crt"},
		},
		"the readiness gate is off in the webhook": {object: webhook, absent: []string{"--readiness-gate", "--inject-selector"}},
		"and in MIC": {object: mic, absent: []string{"--readiness-gate"}},
		"one value gives it to the webhook": {
			set: "readinessGate.enabled=true", object: webhook, want: []string{"--readiness-gate=opt-in"},
		},
		"and to MIC": {
			set: "readinessGate.enabled=true", object: mic, want: []string{"--readiness-gate=true"},
		},
		"all pods may be gated": {
			set: "readinessGate.enabled=true,readinessGate.allPods=true", object: webhook, want: []string{"--readiness-gate=all"},
		},
		"all pods of a feature that is off are none": {
			set: "readinessGate.allPods=true", object: webhook, absent: []string{"--readiness-gate"},
		},
		"the webhook gives pods their label": {
			set: "webhook.injectSelector=true", object: webhook, want: []string{"--inject-selector=true"},
		},
		"the webhook decides by namespace as MIC does": {
			set: "forceNamespaced=true", object: webhook, want: []string{"--forceNamespaced=true"},
		},
		"the webhook knows MIC": {
			object: webhook, want: []string{"--mic-username=system:serviceaccount:" + namespace + ":aad-pod-identity-mic"}, absent: []string{"--forceNamespaced"},
		},
		"further arguments go last": {
			set: "webhook.extraArgs={--enableProfile}", object: webhook, want: []string{"--enableProfile"},
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			args := arguments(t, mustRender(t, "--set", tc.set).get(t, tc.object))
			for _, want := range tc.want {
				if !slices.Contains(args, want) {
					t.Errorf("no argument %s among %q", want, args)
				}
			}
			for _, absent := range tc.absent {
				if slices.ContainsFunc(args, func(a string) bool { return strings.HasPrefix(a, absent) }) {
					t.Errorf("an argument %s... among %q", absent, args)
				}
			}
		})
	}
}

func TestManagedModeHasNoMIC(t *testing.T) {
	for key := range mustRender(t, "--set", "operationMode=managed,mic.podDisruptionBudget.minAvailable=1,customCloud.caBundle=-----BEGIN CERTIFICATE-----") {
		if strings.Contains(key, "mic") {
			t.Errorf("%s is rendered in managed mode", key)
		}
	}
}

func TestExceptions(t *testing.T) {
	tests := map[string]struct {
		set  string
		want bool
	}{
		"by default":                            {want: true},
		"the string true":                       {set: `installMICException="true"`, want: true},
		"false":                                 {set: "installMICException=false"},
		"the string false, once taken for true": {set: `installMICException="false"`},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			all := mustRender(t, "--set-json", tc.set)
			for _, key := range []string{"AzurePodIdentityException/mic", "AzurePodIdentityException/kube-system/aks-addon-exception"} {
				if got := all[key] != nil; got != tc.want {
					t.Errorf("%s rendered: %v, want %v", key, got, tc.want)
				}
			}
		})
	}
}

// On the node's network a port is a host port: the pod that replaces another could
// not be scheduled beside it.
func TestNMIHasNoPorts(t *testing.T) {
	c := container(t, mustRender(t, "--set", "nmi.prometheusPort=9090").get(t, "DaemonSet/aad-pod-identity-nmi"))
	if c["ports"] != nil {
		t.Errorf("NMI has ports %v", c["ports"])
	}
}

// The blast radius of the webhook.
func TestWebhookConfigurations(t *testing.T) {
	all := mustRender(t)
	for _, kind := range []string{"MutatingWebhookConfiguration", "ValidatingWebhookConfiguration"} {
		o := all.get(t, kind+"/aad-pod-identity-webhook")
		if got := o.GetAnnotations()["cert-manager.io/inject-ca-from"]; got != namespace+"/aad-pod-identity-webhook" {
			t.Errorf("%s: CA from %q", kind, got)
		}
		hooks, _, err := unstructured.NestedSlice(o.Object, "webhooks")
		if err != nil {
			t.Fatal(err)
		}
		for _, h := range hooks {
			hook := h.(map[string]any)
			name := hook["name"].(string)
			rules := hook["rules"].([]any)
			groups := rules[0].(map[string]any)["apiGroups"].([]any)
			if timeout := hook["timeoutSeconds"].(int64); timeout > 3 {
				t.Errorf("%s holds a request for %d s", name, timeout)
			}
			if hook["sideEffects"] != "None" {
				t.Errorf("%s would break dry runs", name)
			}
			switch {
			case groups[0] == "aadpodidentity.k8s.io":
				if hook["failurePolicy"] != "Fail" || hook["matchConditions"] == nil {
					t.Errorf("%s: failurePolicy %v, matchConditions %v", name, hook["failurePolicy"], hook["matchConditions"])
				}
			case hook["failurePolicy"] != "Ignore":
				t.Errorf("%s can keep pods from being created", name)
			default:
				for _, path := range [][]string{{"namespaceSelector", "matchExpressions"}, {"objectSelector", "matchExpressions"}} {
					if e, _, _ := unstructured.NestedSlice(hook, path...); len(e) == 0 {
						t.Errorf("%s is asked about every pod (no %s)", name, path[0])
					}
				}
			}
		}
	}
}

// Hooks run as they must: permissions before the Job, and nothing stays.
func TestHooks(t *testing.T) {
	weights := map[string]string{"ServiceAccount": "-20", "Role": "-20", "ClusterRole": "-20", "RoleBinding": "-10", "ClusterRoleBinding": "-10", "Job": "0"}
	events := map[string]string{"prepare": "pre-install,pre-upgrade,pre-rollback", "uninstall": "pre-delete", "cleanup": "post-delete"}
	jobs := 0
	for key, o := range mustRender(t) {
		a := o.GetAnnotations()
		if a["helm.sh/hook"] == "" {
			continue
		}
		name := strings.TrimPrefix(o.GetName(), "aad-pod-identity-")
		if a["helm.sh/hook"] != events[name] {
			t.Errorf("%s is a hook for %s", key, a["helm.sh/hook"])
		}
		if want := weights[o.GetKind()]; a["helm.sh/hook-weight"] != want {
			t.Errorf("%s has weight %s, want %s", key, a["helm.sh/hook-weight"], want)
		}
		if a["helm.sh/hook-delete-policy"] != "before-hook-creation,hook-succeeded" {
			t.Errorf("%s has delete policy %s", key, a["helm.sh/hook-delete-policy"])
		}
		if o.GetKind() == "Job" {
			jobs++
			for _, field := range []string{"activeDeadlineSeconds", "backoffLimit", "ttlSecondsAfterFinished"} {
				if _, found, _ := unstructured.NestedInt64(o.Object, "spec", field); !found {
					t.Errorf("%s has no %s", key, field)
				}
			}
			if args := arguments(t, o); args[0] != name {
				t.Errorf("%s runs %q", key, args)
			}
		}
	}
	if jobs != len(events) {
		t.Errorf("%d hook Jobs, want %d", jobs, len(events))
	}
}

// Helm waits 5 minutes for a hook unless told otherwise; the Job is to say what is
// missing before Helm says nothing.
func TestUninstallEndsBeforeHelmsPatience(t *testing.T) {
	job := mustRender(t).get(t, "Job/aad-pod-identity-uninstall")
	deadline, _, _ := unstructured.NestedInt64(job.Object, "spec", "activeDeadlineSeconds")
	if deadline <= 240 || deadline >= 300 {
		t.Errorf("activeDeadlineSeconds is %d, want it between --timeout=240s and Helm's 300 s", deadline)
	}
	if args := arguments(t, job); !slices.Contains(args, "--timeout=240s") {
		t.Errorf("arguments %q", args)
	}
}

func TestACustomCloudIsKnownToMICWithASecretOfItsOwnToo(t *testing.T) {
	const admin = "adminsecret.cloud=AzureStackCloud,adminsecret.subscriptionID=s,adminsecret.resourceGroup=r,adminsecret.vmType=vmss," +
		"adminsecret.tenantID=t,adminsecret.clientID=c,adminsecret.clientSecret=s"
	for name, set := range map[string]string{"azure.json": "", "adminsecret": "," + admin} {
		t.Run(name, func(t *testing.T) {
			out, err := render(t, "--set", "mic.customCloud.enabled=true,mic.customCloud.configPath=/etc/custom.json"+set, "--show-only", "templates/mic-deployment.yaml")
			if err != nil {
				t.Fatal(err)
			}
			// The variable, the mount and the file of the node.
			if !strings.Contains(out, "AZURE_ENVIRONMENT_FILEPATH") || strings.Count(out, "/etc/custom.json") != 3 {
				t.Errorf("MIC does not get the endpoints of its cloud:\n%s", out)
			}
		})
	}
}
