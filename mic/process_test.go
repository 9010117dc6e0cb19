package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/klog/v2"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/envtest"

	v1 "github.com/aad-pod-identity/aad-pod-identity/api/v1"
	"github.com/aad-pod-identity/aad-pod-identity/mic/controller"
	"github.com/aad-pod-identity/aad-pod-identity/test/apiserver"
	"github.com/aad-pod-identity/aad-pod-identity/test/azure"
	"github.com/aad-pod-identity/aad-pod-identity/test/freeport"
)

// beMIC in the environment makes the test binary be MIC, so that tests start,
// signal and kill real processes.
const beMIC = "TEST_BINARY_IS_MIC"

func TestMain(m *testing.M) {
	if os.Getenv(beMIC) != "" {
		main()
	}
	os.Exit(m.Run())
}

const (
	testSub   = "11111111-2222-3333-4444-555555555555"
	testGroup = "nodes"
	patience  = 60 * time.Second
)

// process is a running MIC.
type process struct {
	t       *testing.T
	cmd     *exec.Cmd
	name    string
	probe   string
	metrics string
	ended   chan struct{}

	mu  sync.Mutex
	log bytes.Buffer
}

// Write implements io.Writer for the process's output.
func (p *process) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.log.Write(b)
}

func (p *process) output() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.log.String()
}

// start runs MIC with flags and environment besides the ones it needs.
func start(t *testing.T, name string, environment, args []string) *process {
	t.Helper()
	probe, metrics := freeport.Get(t), freeport.Get(t)
	p := &process{t: t, name: name, probe: probe, metrics: metrics, ended: make(chan struct{})}
	p.cmd = exec.CommandContext(context.WithoutCancel(t.Context()), os.Args[0],
		append([]string{"--http-probe-port=" + probe, "--prometheus-port=" + metrics, "--leader-election-instance=" + name}, args...)...)
	p.cmd.Env = append(append(os.Environ(), beMIC+"=1"), environment...)
	p.cmd.Stdout, p.cmd.Stderr = p, p
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		_ = p.cmd.Wait() // its exit code is asked for where it matters
		close(p.ended)
	}()
	t.Cleanup(func() {
		_ = p.cmd.Process.Kill() // it may have ended
		<-p.ended
		if t.Failed() {
			t.Logf("output of %s:\n%s", name, p.output())
		}
	})
	return p
}

// exit waits for the end and returns the exit code.
func (p *process) exit() int {
	p.t.Helper()
	select {
	case <-p.ended:
	case <-time.After(patience):
		p.t.Fatalf("%s does not end", p.name)
	}
	return p.cmd.ProcessState.ExitCode()
}

// says waits until a path of the probe server answers with a status and text.
func (p *process) says(path string, status int, text string) {
	p.t.Helper()
	eventually(p.t, p.name+" "+path, func() string {
		code, body, err := get(p.t, "http://127.0.0.1:"+p.probe+path)
		if err != nil || code != status || strings.TrimSpace(body) != text {
			return fmt.Sprintf("%d %q %v", code, body, err)
		}
		return ""
	})
}

func get(t *testing.T, url string) (int, string, error) {
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return 0, "", err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	return response.StatusCode, string(body), err
}

func eventually(t *testing.T, what string, state func() string) {
	t.Helper()
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		missing := state()
		if missing == "" {
			return
		}
		select {
		case <-deadline.C:
			t.Fatalf("%s: %s", what, missing)
		case <-tick.C:
		}
	}
}

// TestMistakes are told in one message and without a stack trace.
func TestMistakes(t *testing.T) {
	dir := t.TempDir()
	file := func(name, content string) string {
		path := filepath.Join(dir, name)
		check(t, os.WriteFile(path, []byte(content), 0o600))
		return path
	}
	kubeconfig := file("kubeconfig", `{"apiVersion":"v1","kind":"Config","clusters":[{"name":"c","cluster":{"server":"https://127.0.0.1:1"}}],"contexts":[{"name":"c","context":{"cluster":"c"}}],"current-context":"c"}`)
	for name, test := range map[string]struct {
		environment []string
		args        []string
		code        int
		want        []string
	}{
		"an unknown flag": {
			args: []string{"--nope"}, code: 2, want: []string{"mic: unknown flag: --nope"},
		},
		"several bad values at once": {
			args: []string{"--createDeleteBatch=0", "--leader-election-duration=1s", "--clientQps=-1"}, code: 2,
			want: []string{"MIC_POD_NAMESPACE", "--createDeleteBatch=0", "--leader-election-duration=1s", "--clientQps=-1"},
		},
		"an unreadable kubeconfig": {
			environment: []string{"MIC_POD_NAMESPACE=default"}, args: []string{"--kubeconfig=/does/not/exist"}, code: 1,
			want: []string{"mic: reading --kubeconfig=/does/not/exist: stat /does/not/exist: no such file or directory"},
		},
		"a missing azure.json": {
			environment: []string{"MIC_POD_NAMESPACE=default"}, args: []string{"--kubeconfig=" + kubeconfig, "--cloudconfig=/does/not/exist.json"}, code: 1,
			want: []string{"mic: reading the cloud configuration: open /does/not/exist.json: no such file or directory"},
		},
		"an azure.json without a tenant": {
			environment: []string{"MIC_POD_NAMESPACE=default"}, args: []string{"--kubeconfig=" + kubeconfig, "--cloudconfig=" + file("azure.json", `{"aadClientId":"a","aadClientSecret":"b"}`)}, code: 1,
			want: []string{filepath.Join(dir, "azure.json") + ") lacks tenantId"},
		},
		"a CA file without a certificate": {
			environment: []string{"MIC_POD_NAMESPACE=default"},
			args:        []string{"--kubeconfig=" + kubeconfig, "--cloudconfig=" + file("good.json", `{"tenantId":"t","aadClientId":"a","aadClientSecret":"b"}`), "--cloud-ca-file=" + file("ca.pem", "nothing")}, code: 1,
			want: []string{"ca.pem holds no PEM certificate"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			p := start(t, "mic", test.environment, test.args)
			if code := p.exit(); code != test.code {
				t.Errorf("exit code %d, want %d", code, test.code)
			}
			out := p.output()
			for _, want := range test.want {
				if !strings.Contains(out, want) {
					t.Errorf("output lacks %q:\n%s", want, out)
				}
			}
			if strings.Contains(out, "goroutine ") {
				t.Errorf("a stack trace:\n%s", out)
			}
		})
	}
}

// TestTwoReplicas runs two MICs on a real API server against the emulator, as
// the chart configures them for a custom cloud.
func TestTwoReplicas(t *testing.T) {
	ctrl.SetLogger(klog.Background())
	env := &envtest.Environment{CRDDirectoryPaths: []string{"../charts/aad-pod-identity/crds"}, ErrorIfCRDPathMissing: true}
	config := apiserver.Start(t, env)
	user, err := env.AddUser(envtest.User{Name: "mic", Groups: []string{"system:masters"}}, nil)
	check(t, err)
	kubeconfig, err := user.KubeConfig()
	check(t, err)
	cluster, err := controller.NewLiveClient(config)
	check(t, err)
	clientset, err := kubernetes.NewForConfig(config)
	check(t, err)

	e, err := azure.New(azure.Options{})
	check(t, err)
	check(t, e.Start(t.Context()))
	t.Cleanup(e.Close)
	app, err := e.PutApp(azure.App{Secrets: []string{"secret"}})
	check(t, err)
	check(t, e.Grant(azure.Role{PrincipalID: app.ObjectID, Role: azure.RoleContributor, Scope: "/subscriptions/" + testSub}))
	vm := azure.VMID(testSub, testGroup, "vm1")
	_, err = e.PutCompute(azure.Compute{ID: vm})
	check(t, err)
	identity, err := e.PutIdentity(azure.Identity{ID: azure.IdentityID(testSub, testGroup, "demo")})
	check(t, err)

	dir := t.TempDir()
	path := func(name string) string { return filepath.Join(dir, name) }
	for name, content := range map[string][]byte{
		"kubeconfig": kubeconfig, "environment.json": e.EnvironmentFile(), "ca.pem": e.CAPEM(),
		"azure.json": e.AzureJSON(azure.AzureConfig{ClientID: app.ClientID, ClientSecret: "secret", SubscriptionID: testSub, ResourceGroup: testGroup}),
	} {
		check(t, os.WriteFile(path(name), content, 0o600))
	}
	environment := []string{"MIC_POD_NAMESPACE=default", "AZURE_ENVIRONMENT_FILEPATH=" + path("environment.json")}
	args := []string{"--kubeconfig=" + path("kubeconfig"), "--cloudconfig=" + path("azure.json"), "--cloud-ca-file=" + path("ca.pem"), "--leader-election-duration=15s", "--require-use", "-v=1"}

	first := start(t, "first", environment, args)
	first.says("/healthz", http.StatusOK, "Active")
	first.says("/readyz", http.StatusOK, "ok")
	second := start(t, "second", environment, args)
	second.says("/readyz", http.StatusOK, "ok")
	second.says("/healthz", http.StatusOK, "Not Active")

	holders := func() (lease, old string) {
		l, err := clientset.CoordinationV1().Leases("default").Get(t.Context(), "aad-pod-identity-mic", metav1.GetOptions{})
		check(t, err)
		if l.Spec.HolderIdentity != nil {
			lease = *l.Spec.HolderIdentity
		}
		ep, err := clientset.CoreV1().Endpoints("default").Get(t.Context(), "aad-pod-identity-mic", metav1.GetOptions{})
		check(t, err)
		return lease, ep.Annotations["control-plane.alpha.kubernetes.io/leader"]
	}
	if lease, old := holders(); lease != "first" || !strings.Contains(old, `"holderIdentity":"first"`) {
		t.Errorf("lease of %q, old lock %s", lease, old)
	}

	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "app", Labels: map[string]string{v1.BindingLabelKey: "demo"}},
		Spec:       corev1.PodSpec{NodeName: "node0", Containers: []corev1.Container{{Name: "c", Image: "none"}}},
	}
	for _, o := range []client.Object{
		&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node0"}, Spec: corev1.NodeSpec{ProviderID: "azure://" + vm}},
		&v1.AzureIdentity{
			ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "demo"},
			Spec:       v1.AzureIdentitySpec{ResourceID: identity.ID, ClientID: identity.ClientID},
		},
		&v1.AzureIdentityBinding{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "demo"}, Spec: v1.AzureIdentityBindingSpec{AzureIdentity: "demo", Selector: "demo"}},
		pod,
		// This one's service account may not use an identity of another namespace.
		&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "other"}},
		&corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Namespace: "other", Name: "stranger", Labels: map[string]string{v1.BindingLabelKey: "demo"}},
			Spec:       corev1.PodSpec{NodeName: "node0", Containers: []corev1.Container{{Name: "c", Image: "none"}}},
		},
	} {
		check(t, cluster.Create(t.Context(), o))
	}
	onVM := func(want int) {
		t.Helper()
		eventually(t, "identities of the VM", func() string {
			c, err := e.Compute(vm)
			check(t, err)
			if len(c.UserAssigned) != want {
				return fmt.Sprintf("has %d, want %d", len(c.UserAssigned), want)
			}
			return ""
		})
	}
	onVM(1)
	eventually(t, "metrics of the leader", func() string {
		_, text, err := get(t, "http://127.0.0.1:"+first.metrics+"/metrics")
		for _, want := range []string{
			"aadpodidentity_mic_new_leader_election_count 1\n", "aadpodidentity_assigned_identity_addition_count 1\n",
			`aadpodidentity_cloud_provider_operations_duration_seconds_count{operation_type="vm_update"} 1`, "go_goroutines ", "workqueue_depth",
		} {
			if !strings.Contains(text, want) {
				return fmt.Sprintf("lack %q (%v):\n%.2000s", want, err, text)
			}
		}
		return ""
	})

	eventually(t, "event on the stranger", func() string {
		list, err := clientset.CoreV1().Events("other").List(t.Context(), metav1.ListOptions{})
		check(t, err)
		for _, e := range list.Items {
			if strings.Contains(e.Message, "service account other/default of pod other/stranger may not use AzureIdentity default/demo") {
				return ""
			}
		}
		return fmt.Sprintf("is not among %d", len(list.Items))
	})

	// The leader is frozen, which for the others is as if it were dead or cut off; the
	// other one takes over and catches up.
	check(t, first.cmd.Process.Signal(syscall.SIGSTOP))
	check(t, cluster.Delete(t.Context(), pod, client.GracePeriodSeconds(0)))
	second.says("/healthz", http.StatusOK, "Active")
	onVM(0)
	// Awake again it finds that it leads no more, and ends.
	check(t, first.cmd.Process.Signal(syscall.SIGCONT))
	if code := first.exit(); code != 1 || !strings.Contains(first.output(), "lost leader lease") {
		t.Errorf("a leader that lost the lead: exit code %d", code)
	}

	// One that is told to go releases the lock.
	check(t, second.cmd.Process.Signal(syscall.SIGTERM))
	if code := second.exit(); code != 0 {
		t.Errorf("exit code %d after SIGTERM", code)
	}
	if lease, old := holders(); lease != "" || !strings.Contains(old, `"holderIdentity":""`) {
		t.Errorf("after an orderly end: lease of %q, old lock %s", lease, old)
	}
	for _, p := range []*process{first, second} {
		if strings.Contains(p.output(), "secret") || !strings.Contains(p.output(), "became leader") {
			t.Errorf("log of %s:\n%s", p.name, p.output())
		}
	}
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil && !errors.Is(err, os.ErrProcessDone) {
		t.Fatal(err)
	}
}
