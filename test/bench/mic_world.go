package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/go-logr/logr"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/envtest"
	"sigs.k8s.io/controller-runtime/pkg/log"

	v1 "github.com/aad-pod-identity/aad-pod-identity/api/v1"
	"github.com/aad-pod-identity/aad-pod-identity/internal/azure/cloud"
	"github.com/aad-pod-identity/aad-pod-identity/test/apiserver"
	"github.com/aad-pod-identity/aad-pod-identity/test/azure"
	"github.com/aad-pod-identity/aad-pod-identity/test/freeport"
)

// Names in the world of MIC's scenarios.
const (
	micSubscription = "11111111-2222-3333-4444-555555555555"
	micNodeGroup    = "nodes"
	micIDGroup      = "identities"
	micClientID     = "0d0d0d0d-1111-4111-8111-0d0d0d0d0d0d"
	micObjectID     = "0d0d0d0d-2222-4222-8222-0d0d0d0d0d0d"
	micSecret       = "bench" //nolint:gosec // a secret of the emulator, which ends with the run
	micUserAgent    = "aad-pod-identity/MIC"

	nodesPerSet = 10
)

// micWorld is a real API server, the Azure emulator and MIC as processes of their
// own, and scale sets with ten nodes each.
type micWorld struct {
	e         *environment
	env       *envtest.Environment
	config    *rest.Config
	client    client.WithWatch
	clientset kubernetes.Interface
	control   *azure.Control
	emulator  *process
	sets      int

	kubeconfig string
	mic        *process
	metrics    string
}

// newMICWorld starts API server and emulator with the given number of scale sets.
// MIC is not running yet.
func newMICWorld(ctx context.Context, e *environment, sets int, settings azure.Settings) (*micWorld, error) {
	w, err := newCloud(ctx, e)
	if err != nil {
		return nil, err
	}
	w.sets = sets
	if err := w.fillAzure(ctx, settings); err != nil {
		return nil, errors.Join(err, w.close())
	}
	return w, nil
}

// newCloud starts API server and emulator, and there is nothing in them.
func newCloud(ctx context.Context, e *environment, emulator ...string) (_ *micWorld, err error) {
	if e.assets == "" {
		return nil, errors.New("--assets: needs the directory of etcd and kube-apiserver")
	}
	log.SetLogger(logr.Discard()) // or envtest complains
	w := &micWorld{e: e}
	defer func() {
		if err != nil {
			err = errors.Join(err, w.close())
		}
	}()
	w.env = &envtest.Environment{BinaryAssetsDirectory: e.assets, CRDDirectoryPaths: []string{filepath.Join(chart, "crds")}, ErrorIfCRDPathMissing: true}
	if _, err := apiserver.Launch(w.env); err != nil {
		return nil, err
	}
	if err := w.connect(); err != nil {
		return nil, err
	}
	return w, w.startEmulator(ctx, emulator...)
}

func (w *micWorld) connect() error {
	user, err := w.env.AddUser(envtest.User{Name: "bench", Groups: []string{"system:masters"}}, nil)
	if err != nil {
		return fmt.Errorf("adding a user: %w", err)
	}
	kubeconfig, err := user.KubeConfig()
	if err != nil {
		return fmt.Errorf("writing a kubeconfig: %w", err)
	}
	w.kubeconfig = filepath.Join(w.e.dir, "mic-kubeconfig")
	if err := os.WriteFile(w.kubeconfig, kubeconfig, 0o600); err != nil {
		return fmt.Errorf("writing a kubeconfig: %w", err)
	}
	w.config = user.Config()
	w.config.QPS = -1
	w.config.WarningHandlerWithContext = rest.NoWarnings{}
	scheme := runtime.NewScheme()
	if err := errors.Join(clientgoscheme.AddToScheme(scheme), v1.AddToScheme(scheme)); err != nil {
		return fmt.Errorf("registering kinds: %w", err)
	}
	if w.client, err = client.NewWithWatch(w.config, client.Options{Scheme: scheme}); err != nil {
		return fmt.Errorf("client of the API server: %w", err)
	}
	core := rest.CopyConfig(w.config)
	core.ContentType = "application/vnd.kubernetes.protobuf"
	if w.clientset, err = kubernetes.NewForConfig(core); err != nil {
		return fmt.Errorf("client of the API server: %w", err)
	}
	return nil
}

func (w *micWorld) startEmulator(ctx context.Context, further ...string) error {
	binary, err := w.e.build(ctx, "./test/azure/emulator")
	if err != nil {
		return err
	}
	listen, err := freeport.Find()
	if err != nil {
		return err
	}
	control, err := freeport.Find()
	if err != nil {
		return err
	}
	if w.emulator, err = w.e.start(ctx, binary, append(further, "--listen=127.0.0.1:"+listen, "--control=127.0.0.1:"+control, "--quiet")...); err != nil {
		return err
	}
	w.control = azure.NewControl("http://127.0.0.1:" + control)
	return poll(ctx, time.Minute, "the emulator", func() error { return w.control.Healthy(ctx) })
}

// fillAzure makes scale sets, MIC's principal and its rights.
func (w *micWorld) fillAzure(ctx context.Context, settings azure.Settings) error {
	// The baseline uses armcompute as it is, which wants this status.
	settings.PatchStatus = http.StatusOK
	if err := w.control.SetSettings(ctx, settings); err != nil {
		return err
	}
	if _, err := w.control.PutApp(ctx, azure.App{Name: "mic", ClientID: micClientID, ObjectID: micObjectID, Secrets: []string{micSecret}}); err != nil {
		return err
	}
	for _, role := range []string{azure.RoleVirtualMachineContributor, azure.RoleManagedIdentityOperator} {
		if err := w.control.Grant(ctx, azure.Role{PrincipalID: micObjectID, Role: role, Scope: "/subscriptions/" + micSubscription}); err != nil {
			return err
		}
	}
	for set := range w.sets {
		if _, err := w.control.PutCompute(ctx, azure.Compute{ID: setID(set)}); err != nil {
			return err
		}
	}
	return w.writeConfiguration(ctx)
}

// cloudOptions say where MIC's configuration is.
func (w *micWorld) cloudOptions() cloud.Options {
	file := func(name string) string { return filepath.Join(w.e.dir, name) }
	return cloud.Options{ConfigFile: file("azure.json"), EnvironmentFile: file("environment.json"), CAFile: file("mic-ca.pem"), Getenv: os.Getenv}
}

func (w *micWorld) writeConfiguration(ctx context.Context) error {
	info, err := w.control.Info(ctx)
	if err != nil {
		return err
	}
	config, err := json.Marshal(map[string]any{
		"cloud": "AzureStackCloud", "tenantId": info.TenantID, "subscriptionId": micSubscription, "resourceGroup": micNodeGroup,
		"vmType": "vmss", "aadClientId": micClientID, "aadClientSecret": micSecret,
	})
	if err != nil {
		return fmt.Errorf("encoding azure.json: %w", err)
	}
	o := w.cloudOptions()
	for path, content := range map[string][]byte{o.ConfigFile: config, o.EnvironmentFile: info.Environment, o.CAFile: []byte(info.CAPEM)} {
		if err := os.WriteFile(path, content, 0o600); err != nil {
			return fmt.Errorf("writing MIC's configuration: %w", err)
		}
	}
	return nil
}

func setID(set int) string {
	return azure.VMSSID(micSubscription, micNodeGroup, fmt.Sprintf("set%03d", set))
}

// startMIC starts MIC with default flags and waits until it works.
func (w *micWorld) startMIC(ctx context.Context) error {
	binary, err := w.e.build(ctx, "./mic")
	if err != nil {
		return err
	}
	probe, err := freeport.Find()
	if err != nil {
		return err
	}
	if w.metrics, err = freeport.Find(); err != nil {
		return err
	}
	o := w.cloudOptions()
	w.mic, err = w.e.startWith(ctx, []string{"MIC_POD_NAMESPACE=default", "AZURE_ENVIRONMENT_FILEPATH=" + o.EnvironmentFile}, binary,
		"--kubeconfig="+w.kubeconfig, "--cloudconfig="+o.ConfigFile, "--cloud-ca-file="+o.CAFile,
		"--http-probe-port="+probe, "--prometheus-port="+w.metrics)
	if err != nil {
		return err
	}
	return poll(ctx, 5*time.Minute, "MIC, whose log is "+w.mic.log, func() error {
		body, err := fetch(ctx, "http://127.0.0.1:"+probe+"/healthz")
		if err == nil && strings.TrimSpace(string(body)) != "Active" {
			err = fmt.Errorf("it is %q", body)
		}
		return err
	})
}

// micAlive says that MIC runs. A process that ended has no memory.
func (w *micWorld) micAlive() error {
	if _, err := w.mic.memory("VmRSS"); err != nil {
		raw, _ := os.ReadFile(w.mic.log) // the error is what matters
		lines := strings.Split(strings.TrimSpace(string(raw)), "\n")
		return fmt.Errorf("MIC has ended, with %q: %w", lines[len(lines)-1], err)
	}
	return nil
}

// lookedAtAll waits until a MIC that has started has seen to all pods.
func (w *micWorld) lookedAtAll(ctx context.Context, pods int) error {
	return poll(ctx, 10*time.Minute, "MIC to see to all pods", func() error {
		reconciled, err := w.sum(ctx, "controller_runtime_reconcile_total")
		if err != nil {
			return err
		}
		queued, err := w.sum(ctx, "workqueue_depth")
		if err == nil && (reconciled < float64(pods) || queued > 0) {
			err = fmt.Errorf("%.0f reconciled, %.0f queued", reconciled, queued)
		}
		return err
	})
}

func (w *micWorld) stopMIC() error {
	p := w.mic
	w.mic = nil
	return p.stop()
}

// close ends everything.
func (w *micWorld) close() error {
	var errs []error
	if w.mic != nil {
		errs = append(errs, w.stopMIC())
	}
	if w.emulator != nil {
		errs = append(errs, w.emulator.stop())
	}
	return errors.Join(append(errs, w.env.Stop())...)
}

// requests is how many requests MIC has sent to the API server, by its own count.
func (w *micWorld) requests(ctx context.Context) (float64, error) {
	const name = "rest_client_requests_total"
	sum, err := w.sum(ctx, name)
	if err == nil && sum == 0 {
		err = fmt.Errorf("MIC counts no request in %s", name)
	}
	return sum, err
}

// sum is that of all values of one of MIC's metrics.
func (w *micWorld) sum(ctx context.Context, metric string) (float64, error) {
	values, err := metricValues(ctx, w.metrics, metric)
	if err != nil {
		return 0, fmt.Errorf("MIC: %w", err)
	}
	sum := 0.0
	for _, n := range values {
		sum += n
	}
	return sum, nil
}

// metricValues reads the values of a counter or gauge, one for each set of labels, that
// a program serves on a port of this machine.
func metricValues(ctx context.Context, port, name string) ([]float64, error) {
	raw, err := fetch(ctx, "http://127.0.0.1:"+port+"/metrics")
	if err != nil {
		return nil, fmt.Errorf("reading metrics: %w", err)
	}
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(bytes.NewReader(raw))
	if err != nil {
		return nil, fmt.Errorf("parsing metrics: %w", err)
	}
	var values []float64
	for _, m := range families[name].GetMetric() {
		values = append(values, m.GetCounter().GetValue()+m.GetGauge().GetValue()) // one of them is not there, and so 0
	}
	return values, nil
}

// armCalls are what MIC has asked ARM since the calls were cleared: PATCHes, reads
// of scale sets, polls of operations.
func (w *micWorld) armCalls(ctx context.Context) (writes, reads, polls float64, err error) {
	all, err := w.control.Calls(ctx, azure.CallFilter{Service: azure.ServiceARM})
	if err != nil {
		return 0, 0, 0, err
	}
	for _, c := range all {
		switch {
		case !strings.Contains(c.UserAgent, micUserAgent):
		case c.Operation == azure.OpVMSSUpdate:
			writes++
		case c.Operation == azure.OpVMSSGet:
			reads++
		case c.Operation == azure.OpOperationGet:
			polls++
		}
	}
	return writes, reads, polls, nil
}

func fetch(ctx context.Context, url string) ([]byte, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, fmt.Errorf("making a request: %w", err)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return nil, err
	}
	defer func() { _ = response.Body.Close() }()
	return io.ReadAll(response.Body)
}

// poll waits until check passes.
func poll(ctx context.Context, patience time.Duration, what string, check func() error) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := check()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waiting for %s: %w", what, err)
		case <-tick.C:
		}
	}
}

// makeNodes makes the nodes of all scale sets.
func (w *micWorld) makeNodes(ctx context.Context) error {
	return inParallel(ctx, w.sets*nodesPerSet, func(ctx context.Context, i int) error {
		n := &corev1.Node{
			ObjectMeta: metav1.ObjectMeta{Name: nodeName(i)},
			Spec:       corev1.NodeSpec{ProviderID: "azure://" + azure.InstanceID(setID(i/nodesPerSet), strconv.Itoa(i%nodesPerSet))},
		}
		_, err := w.clientset.CoreV1().Nodes().Create(ctx, n, metav1.CreateOptions{})
		return err
	})
}

func nodeName(i int) string { return fmt.Sprintf("node%04d", i) }
