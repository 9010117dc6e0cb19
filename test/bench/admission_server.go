package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	admissionregv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/envtest"

	"github.com/aad-pod-identity/aad-pod-identity/test/apiserver"
	"github.com/aad-pod-identity/aad-pod-identity/test/freeport"
)

// One namespace is seen by the webhook, one by a webhook that says yes to everything,
// one by none: the same server, in the same seconds, gives both the figure and what it
// is compared with.
const (
	judgedNamespace = "judged"
	yesNamespace    = "yes"
	bareNamespace   = "bare"
	benchLabel      = "bench.aadpodidentity.k8s.io/judged"

	rounds       = 2000 // applies to each of them
	latencyTeams = 1    // clients at once where latency is measured
	loadTeams    = 16   // clients at once where memory is measured
	loadTime     = 5 * time.Second
)

var identities = schema.GroupVersionResource{Group: "aadpodidentity.k8s.io", Version: "v1", Resource: "azureidentities"}

// admissionThroughServer measures applies through a real API server, with and
// without the webhook, and the webhook's memory.
func admissionThroughServer(ctx context.Context, e *environment) (_ []Result, err error) {
	if e.assets == "" {
		return nil, errors.New("--assets: needs the directory of etcd, kube-apiserver and helm")
	}
	env, err := e.startAPIServer(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, env.Stop()) }()
	user, err := env.AddUser(envtest.User{Name: "bench", Groups: []string{"system:masters"}}, nil)
	if err != nil {
		return nil, fmt.Errorf("adding a user: %w", err)
	}
	config := user.Config()
	config.QPS = -1
	group, err := newCgroup("aad-pod-identity-bench-webhook")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, group.remove()) }()
	webhook, err := e.startWebhook(ctx, env, user, group)
	if webhook != nil {
		defer func() { err = errors.Join(err, webhook.stop()) }()
	}
	if err != nil {
		return nil, err
	}
	if err := createNamespaces(ctx, config); err != nil {
		return nil, err
	}
	stopYes, err := serveYes(ctx, env, config)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, stopYes()) }()
	client, err := dynamic.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("client of the API server: %w", err)
	}
	if err := provesJudged(ctx, client); err != nil {
		return nil, err
	}
	resting, err := group.workingSet()
	if err != nil {
		return nil, err
	}
	fmt.Printf("bench: %d applies with the webhook, as many with one that says yes and with none, %d at once\n", rounds, latencyTeams)
	before, err := bothCalls(ctx, config)
	if err != nil {
		return nil, err
	}
	took, err := applyRounds(ctx, client)
	if err != nil {
		return nil, err
	}
	after, err := bothCalls(ctx, config)
	if err != nil {
		return nil, err
	}
	fmt.Printf("bench: %d clients for %s\n", loadTeams, loadTime)
	stopSampling := group.peak()
	rate, err := load(ctx, client)
	peak, sampleErr := stopSampling()
	if err := errors.Join(err, sampleErr); err != nil {
		return nil, err
	}
	resident, err := webhook.memory("VmHWM")
	if err != nil {
		return nil, err
	}
	judged, yes, bare := took[judgedNamespace], took[yesNamespace], took[bareNamespace]
	added := func(to durations, p float64) float64 { return to.percentile(p) - bare.percentile(p) }
	return []Result{
		figure("apply through the API server, p50", judged.percentile(50), "ms").against(bare.percentile(50)),
		figure("apply through the API server, p99", judged.percentile(99), "ms").against(bare.percentile(99)),
		figure("webhook's part of an apply, beside one that says yes to all, p50", added(judged, 50), "ms").against(added(yes, 50)),
		figure("webhook's part of an apply, beside one that says yes to all, p99", added(judged, 99), "ms").against(added(yes, 99)).atMost(5),
		figure(fmt.Sprintf("webhook calls within %g ms, by the API server's clock", callLimit*1000), after[0].share(before[0]), "%").against(after[1].share(before[1])).atLeast(99),
		figure(fmt.Sprintf("applies with %d clients", loadTeams), rate, "/s"),
		figure("webhook: memory at rest, as the kubelet counts", resting, "MiB").atMost(40),
		figure("webhook: memory under load, as the kubelet counts", peak, "MiB").atMost(40),
		figure("webhook: the same with all pages of the binary", resident, "MiB"),
	}, nil
}

// bothCalls reads the counts of our webhook, and of that which says yes.
func bothCalls(ctx context.Context, config *rest.Config) (both [2]calls, err error) {
	for i, domain := range []string{ourDomain, yesDomain} {
		if both[i], err = webhookCalls(ctx, config, domain); err != nil {
			return both, err
		}
	}
	return both, nil
}

// startAPIServer starts etcd and the API server with the chart's CRDs and webhook
// configurations, the latter confined to one namespace.
func (e *environment) startAPIServer(ctx context.Context) (*envtest.Environment, error) {
	raw, err := e.template(ctx, "webhook-configurations.yaml", "webhook.certManager.check=false")
	if err != nil {
		return nil, err
	}
	mutating, validating := &admissionregv1.MutatingWebhookConfiguration{}, &admissionregv1.ValidatingWebhookConfiguration{}
	decoder := utilyaml.NewYAMLOrJSONDecoder(strings.NewReader(string(raw)), 4096)
	for _, into := range []any{mutating, validating} {
		if err := decoder.Decode(into); err != nil {
			return nil, fmt.Errorf("reading the chart's webhook configurations: %w", err)
		}
	}
	selector := &metav1.LabelSelector{MatchLabels: map[string]string{benchLabel: "true"}}
	for i := range mutating.Webhooks {
		mutating.Webhooks[i].NamespaceSelector = selector
	}
	for i := range validating.Webhooks {
		validating.Webhooks[i].NamespaceSelector = selector
	}
	env := &envtest.Environment{
		BinaryAssetsDirectory: e.assets,
		CRDDirectoryPaths:     []string{filepath.Join(chart, "crds")},
		ErrorIfCRDPathMissing: true,
		WebhookInstallOptions: envtest.WebhookInstallOptions{
			MutatingWebhooks:   []*admissionregv1.MutatingWebhookConfiguration{mutating},
			ValidatingWebhooks: []*admissionregv1.ValidatingWebhookConfiguration{validating},
		},
	}
	if err := startWithRoom(env); err != nil {
		return nil, err
	}
	return env, nil
}

// startWithRoom lets etcd and the API server collect garbage less often than they do
// by themselves. They share the machine's processors with what is measured, and
// their collections would be most of what is slow, with the webhook and without.
func startWithRoom(env *envtest.Environment) error {
	const variable = "GOGC" // of the processes to be started; this one has read its own
	before, set := os.LookupEnv(variable)
	if err := os.Setenv(variable, "800"); err != nil {
		return err
	}
	_, err := apiserver.Launch(env)
	if set {
		return errors.Join(err, os.Setenv(variable, before))
	}
	return errors.Join(err, os.Unsetenv(variable))
}

func (e *environment) startWebhook(ctx context.Context, env *envtest.Environment, user *envtest.AuthenticatedUser, group *cgroup) (*process, error) {
	binary, err := e.build(ctx, "./webhook")
	if err != nil {
		return nil, err
	}
	kubeconfig, err := user.KubeConfig()
	if err != nil {
		return nil, fmt.Errorf("writing a kubeconfig: %w", err)
	}
	path := filepath.Join(e.dir, "kubeconfig")
	if err := os.WriteFile(path, kubeconfig, 0o600); err != nil {
		return nil, fmt.Errorf("writing a kubeconfig: %w", err)
	}
	probe, err := freeport.Find()
	if err != nil {
		return nil, err
	}
	metrics, err := freeport.Find()
	if err != nil {
		return nil, err
	}
	install := env.WebhookInstallOptions
	name, args, err := group.wrap(ctx, binary, "--kubeconfig="+path, "--cert-dir="+install.LocalServingCertDir, fmt.Sprintf("--port=%d", install.LocalServingPort),
		"--http-probe-port="+probe, "--prometheus-port="+metrics, "--shutdown-delay=0s")
	if err != nil {
		return nil, err
	}
	p, err := e.start(ctx, name, args...)
	if err != nil {
		return nil, err
	}
	return p, waitReady(ctx, probe)
}

func createNamespaces(ctx context.Context, config *rest.Config) error {
	clientset, err := kubernetes.NewForConfig(config)
	if err != nil {
		return fmt.Errorf("client of the API server: %w", err)
	}
	for name, labels := range map[string]map[string]string{judgedNamespace: {benchLabel: "true"}, yesNamespace: {benchLabel: yesNamespace}, bareNamespace: nil} {
		ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels}}
		if _, err := clientset.CoreV1().Namespaces().Create(ctx, ns, metav1.CreateOptions{}); err != nil {
			return fmt.Errorf("creating namespace %s: %w", name, err)
		}
	}
	return nil
}

// provesJudged makes sure that one namespace is judged by the webhook: figures
// of a webhook that is never called would be splendid.
func provesJudged(ctx context.Context, client dynamic.Interface) error {
	bad := benchIdentity("bad")
	unstructured.RemoveNestedField(bad.Object, "spec", "clientID")
	if err := unstructured.SetNestedField(bad.Object, "x", "spec", "ClientID"); err != nil {
		return fmt.Errorf("making a bad identity: %w", err)
	}
	_, err := client.Resource(identities).Namespace(judgedNamespace).Apply(ctx, "bad", bad, metav1.ApplyOptions{FieldManager: "bench"})
	if err == nil || !strings.Contains(err.Error(), "miscapitalised") {
		return fmt.Errorf("the webhook does not judge namespace %s: %w", judgedNamespace, err)
	}
	return nil
}

func benchIdentity(name string) *unstructured.Unstructured {
	return &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "aadpodidentity.k8s.io/v1", "kind": "AzureIdentity",
		"metadata": map[string]any{"name": name},
		"spec": map[string]any{
			"type":       int64(0),
			"resourceID": "/subscriptions/11111111-1111-1111-1111-111111111111/resourcegroups/demo/providers/Microsoft.ManagedIdentity/userAssignedIdentities/" + name,
			"clientID":   "7eb6d1a0-2c4f-4b8e-9d3a-5f1e0c7ba6a9",
		},
	}}
}

func apply(ctx context.Context, client dynamic.Interface, namespace, name string) (time.Duration, error) {
	object := benchIdentity(name)
	started := time.Now()
	_, err := client.Resource(identities).Namespace(namespace).Apply(ctx, name, object, metav1.ApplyOptions{FieldManager: "bench"})
	if err != nil {
		return 0, fmt.Errorf("applying %s/%s: %w", namespace, name, err)
	}
	return time.Since(started), nil
}

// applyRounds applies an object in each namespace, again and again. The first tenth
// warms connections and caches and is not counted.
func applyRounds(ctx context.Context, client dynamic.Interface) (map[string]durations, error) {
	var mutex sync.Mutex
	var group sync.WaitGroup
	var failed error
	took := map[string]durations{}
	for team := range latencyTeams {
		group.Go(func() {
			for i := range (rounds + rounds/10) / latencyTeams {
				for _, namespace := range []string{judgedNamespace, yesNamespace, bareNamespace} {
					d, err := apply(ctx, client, namespace, fmt.Sprintf("round-%d-%d", team, i))
					mutex.Lock()
					if i >= rounds/10/latencyTeams {
						took[namespace] = append(took[namespace], d)
					}
					failed = errors.Join(failed, err)
					stop := failed != nil
					mutex.Unlock()
					if stop {
						return
					}
				}
			}
		})
	}
	group.Wait()
	return took, failed
}

// load applies as fast as many clients can, and returns the applies in a second.
func load(ctx context.Context, client dynamic.Interface) (float64, error) {
	var mutex sync.Mutex
	var group sync.WaitGroup
	var failed error
	count := 0
	started := time.Now()
	for team := range loadTeams {
		group.Go(func() {
			for i := 0; time.Since(started) < loadTime; i++ {
				_, err := apply(ctx, client, judgedNamespace, fmt.Sprintf("load-%d-%d", team, i))
				mutex.Lock()
				count++
				failed = errors.Join(failed, err)
				mutex.Unlock()
				if err != nil {
					return
				}
			}
		})
	}
	group.Wait()
	return float64(count) / time.Since(started).Seconds(), failed
}
