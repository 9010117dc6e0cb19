package main

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	admissionregv1 "k8s.io/api/admissionregistration/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"k8s.io/klog/v2"
	"k8s.io/utils/ptr"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/envtest"

	v1 "github.com/aad-pod-identity/aad-pod-identity/api/v1"
	"github.com/aad-pod-identity/aad-pod-identity/test/apiserver"
	"github.com/aad-pod-identity/aad-pod-identity/test/freeport"
	"github.com/aad-pod-identity/aad-pod-identity/test/helmtest"
)

const micUser = "system:serviceaccount:default:aad-pod-id-mic-service-account"

// callSeconds is how long a call of the webhook may take, the most that Kubernetes
// allows: the chart's 3 s may pass on a machine that does something else as well.
const callSeconds = 30

// apiServer is a real API server with our CRDs and webhook configurations, and
// the webhook that they name, served by this process.
type apiServer struct {
	env        *envtest.Environment
	config     *rest.Config
	kubeconfig string
	kubectl    string
	// client writes without a process of kubectl; warnings has what it was told.
	client   client.Client
	warnings warnings
	options  *options
}

// ourWebhooks are the webhook configurations in front of our kinds.
func ourWebhooks() envtest.WebhookInstallOptions {
	return envtest.WebhookInstallOptions{
		MutatingWebhooks:   []*admissionregv1.MutatingWebhookConfiguration{mutatingConfiguration()},
		ValidatingWebhooks: []*admissionregv1.ValidatingWebhookConfiguration{validatingConfiguration()},
	}
}

// startEnvironment starts etcd and the API server, and makes a user who may do
// everything.
func startEnvironment(t *testing.T, env *envtest.Environment) *apiServer {
	t.Helper()
	ctrl.SetLogger(klog.Background())
	config := apiserver.Start(t, env)
	user, err := env.AddUser(envtest.User{Name: "admin", Groups: []string{"system:masters"}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	kubeconfig, err := user.KubeConfig()
	if err != nil {
		t.Fatal(err)
	}
	s := &apiServer{env: env, config: config, kubeconfig: filepath.Join(t.TempDir(), "kubeconfig"), kubectl: apiserver.Kubectl()}
	if err := os.WriteFile(s.kubeconfig, kubeconfig, 0o600); err != nil {
		t.Fatal(err)
	}
	config = rest.CopyConfig(config)
	config.WarningHandler = &s.warnings
	if s.client, err = client.New(config, client.Options{}); err != nil {
		t.Fatal(err)
	}
	return s
}

// warnings are printed as kubectl does.
type warnings struct{ strings.Builder }

func (w *warnings) HandleWarningHeader(_ int, _, text string) {
	w.WriteString("Warning: " + text + "\n")
}

// create makes the objects of a manifest and returns the API server's warnings.
func (s *apiServer) create(t *testing.T, namespace, manifest string) string {
	t.Helper()
	s.warnings.Reset()
	for _, o := range helmtest.Objects(t, manifest) {
		o.SetNamespace(namespace)
		if err := s.client.Create(t.Context(), o); err != nil {
			t.Fatal(err)
		}
	}
	return s.warnings.String()
}

// startWebhook runs the webhook as the binary would, with options and client
// configuration as change leaves them, until the test ends, and waits until it is ready.
func (s *apiServer) startWebhook(t *testing.T, change func(*options, *rest.Config)) {
	t.Helper()
	o := newOptions()
	o.port = s.env.WebhookInstallOptions.LocalServingPort
	o.certDir = s.env.WebhookInstallOptions.LocalServingCertDir
	o.tlsMinVersion = "VersionTLS12"
	o.micUsername = micUser
	o.callTimeout = callSeconds * time.Second
	o.ProbePort, o.PrometheusPort = freeport.Get(t), freeport.Get(t)
	config := rest.CopyConfig(s.config)
	change(o, config)
	if err := o.validate(); err != nil {
		t.Fatal(err)
	}
	s.options = o
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- serve(ctx, o, config) }()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Errorf("the webhook ended with %v", err)
		}
	})
	waitFor(t, "the webhook to be ready", func() bool {
		select {
		case err := <-ended:
			t.Fatalf("the webhook ended: %v", err)
		default:
		}
		status, _ := probe(t, o.ProbePort, "/readyz")
		return status == 200
	})
}

// kubectlResult is what a user sees.
type kubectlResult struct {
	stdout, stderr string
	failed         bool
}

func (s *apiServer) run(t *testing.T, stdin string, args ...string) kubectlResult {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), s.kubectl, append([]string{"--kubeconfig", s.kubeconfig}, args...)...)
	var stdout, stderr strings.Builder
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &stdout, &stderr
	err := cmd.Run()
	return kubectlResult{stdout.String(), stderr.String(), err != nil}
}

// must runs kubectl and fails the test if kubectl does; it returns the output.
func (s *apiServer) must(t *testing.T, stdin string, args ...string) string {
	t.Helper()
	r := s.run(t, stdin, args...)
	if r.failed {
		t.Fatalf("kubectl %s: %s", strings.Join(args, " "), r.stderr)
	}
	return r.stdout
}

func waitFor(t *testing.T, what string, done func() bool) {
	t.Helper()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(2 * time.Minute)
	for !done() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

// The webhook configurations are those of the chart, without the entries for pods and
// with a longer timeout.

func ownKinds() []admissionregv1.RuleWithOperations {
	return []admissionregv1.RuleWithOperations{{
		Operations: []admissionregv1.OperationType{admissionregv1.Create, admissionregv1.Update},
		Rule: admissionregv1.Rule{
			APIGroups:   []string{v1.GroupName},
			APIVersions: []string{"v1"},
			Resources:   []string{"azureidentities", "azureidentitybindings", "azurepodidentityexceptions", "azureassignedidentities"},
			Scope:       ptr.To(admissionregv1.NamespacedScope),
		},
	}}
}

func exceptMIC() []admissionregv1.MatchCondition {
	return []admissionregv1.MatchCondition{{
		Name:       "not-mic",
		Expression: `!(request.resource.resource == "azureassignedidentities" && request.userInfo.username == ` + strconv.Quote(micUser) + `)`,
	}, {
		Name: "something-to-judge",
		Expression: `request.operation == "CREATE" || object.?spec != oldObject.?spec || ` +
			`(request.resource.resource == "azureidentities" && object.metadata.?annotations != oldObject.metadata.?annotations)`,
	}}
}

func clientTo(path string) admissionregv1.WebhookClientConfig {
	return admissionregv1.WebhookClientConfig{Service: &admissionregv1.ServiceReference{Namespace: "default", Name: "webhook", Path: &path}}
}

func mutatingConfiguration() *admissionregv1.MutatingWebhookConfiguration {
	return &admissionregv1.MutatingWebhookConfiguration{
		ObjectMeta: metav1.ObjectMeta{Name: "aad-pod-identity"},
		Webhooks: []admissionregv1.MutatingWebhook{{
			Name:                    "mutate.aadpodidentity.k8s.io",
			ClientConfig:            clientTo(pathMutate),
			Rules:                   ownKinds(),
			MatchConditions:         exceptMIC(),
			FailurePolicy:           ptr.To(admissionregv1.Fail),
			SideEffects:             ptr.To(admissionregv1.SideEffectClassNone),
			TimeoutSeconds:          ptr.To[int32](callSeconds),
			AdmissionReviewVersions: []string{"v1"},
		}},
	}
}

func validatingConfiguration() *admissionregv1.ValidatingWebhookConfiguration {
	return &admissionregv1.ValidatingWebhookConfiguration{
		ObjectMeta: metav1.ObjectMeta{Name: "aad-pod-identity"},
		Webhooks: []admissionregv1.ValidatingWebhook{{
			Name:                    "validate.aadpodidentity.k8s.io",
			ClientConfig:            clientTo(pathValidate),
			Rules:                   ownKinds(),
			MatchConditions:         exceptMIC(),
			FailurePolicy:           ptr.To(admissionregv1.Fail),
			SideEffects:             ptr.To(admissionregv1.SideEffectClassNone),
			TimeoutSeconds:          ptr.To[int32](callSeconds),
			AdmissionReviewVersions: []string{"v1"},
		}},
	}
}
