package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/klog/v2"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/envtest"

	v1 "github.com/aad-pod-identity/aad-pod-identity/api/v1"
	"github.com/aad-pod-identity/aad-pod-identity/internal/uninstall"
	"github.com/aad-pod-identity/aad-pod-identity/nmi/redirect"
	"github.com/aad-pod-identity/aad-pod-identity/nmi/redirect/redirecttest"
	"github.com/aad-pod-identity/aad-pod-identity/test/apiserver"
	"github.com/aad-pod-identity/aad-pod-identity/test/azure"
	"github.com/aad-pod-identity/aad-pod-identity/test/freeport"
)

const (
	subscription = "11111111-1111-1111-1111-111111111111"
	testNode     = "node-1"
	// podIP is the source address of the tests' pod: a further loopback address.
	podIP = "127.0.0.2"
	// patience is how long a state is waited for. It is reached in a fraction.
	patience = 60 * time.Second
	request  = "/metadata/identity/oauth2/token?api-version=2018-02-01&resource=https://vault.azure.net"
)

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func eventually(t *testing.T, what string, missing func() string) {
	t.Helper()
	deadline := time.After(patience)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		why := missing()
		if why == "" {
			return
		}
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("never: %s: %s", what, why)
		}
	}
}

// shared is the API server of all tests of this package, which starts with the first
// that needs it; TestMain stops it.
var shared struct {
	once   sync.Once
	env    *envtest.Environment
	config *rest.Config
	err    error
}

func stopShared() error {
	if shared.env == nil {
		return nil
	}
	return shared.env.Stop()
}

// cluster is a real API server; admin may do all, the config of nmi what the
// chart's role allows.
type cluster struct {
	admin client.Client
	nmi   *rest.Config
	none  *rest.Config // a user without any rights

	addUser func(name string) (*envtest.AuthenticatedUser, error)
}

// startCluster gives a test the API server, in which it finds nothing of others.
func startCluster(t *testing.T) *cluster {
	t.Helper()
	apiserver.Require(t)
	shared.once.Do(func() {
		ctrl.SetLogger(klog.Background())
		shared.env = &envtest.Environment{CRDDirectoryPaths: []string{"../charts/aad-pod-identity/crds"}, ErrorIfCRDPathMissing: true}
		shared.config, shared.err = apiserver.Launch(shared.env)
	})
	check(t, shared.err)
	scheme := runtime.NewScheme()
	check(t, errors.Join(clientgoscheme.AddToScheme(scheme), v1.AddToScheme(scheme)))
	c := &cluster{}
	var err error
	c.admin, err = client.New(shared.config, client.Options{Scheme: scheme})
	check(t, err)
	c.addUser = func(name string) (*envtest.AuthenticatedUser, error) {
		return shared.env.AddUser(envtest.User{Name: name}, nil)
	}
	user := func(name string) *rest.Config {
		u, err := c.addUser(name)
		check(t, err)
		return u.Config()
	}
	c.nmi, c.none = user("nmi"), user("none")

	read := []string{"list", "watch"}
	subjects := []rbacv1.Subject{{Kind: "User", Name: "nmi", APIGroup: rbacv1.GroupName}}
	c.create(t,
		&rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: "nmi"}, Rules: []rbacv1.PolicyRule{
			{APIGroups: []string{""}, Resources: []string{"pods"}, Verbs: read},
			{APIGroups: []string{v1.GroupName}, Resources: []string{"azureassignedidentities", "azurepodidentityexceptions"}, Verbs: read},
		}},
		&rbacv1.ClusterRoleBinding{ObjectMeta: metav1.ObjectMeta{Name: "nmi"}, Subjects: subjects, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "nmi"}},
		&rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "nmi"}, Rules: []rbacv1.PolicyRule{
			{APIGroups: []string{""}, Resources: []string{"configmaps"}, ResourceNames: []string{uninstall.Name}, Verbs: []string{"get", "list", "watch", "patch"}},
		}},
		&rbacv1.RoleBinding{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "nmi"}, Subjects: subjects, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: "nmi"}},
	)
	return c
}

// create makes objects for the time of the test.
func (c *cluster) create(t *testing.T, objects ...client.Object) {
	t.Helper()
	for _, o := range objects {
		if err := c.admin.Create(t.Context(), o); err != nil {
			t.Fatalf("creating %T %s: %v", o, o.GetName(), err)
		}
		t.Cleanup(func() {
			err := c.admin.Delete(context.WithoutCancel(t.Context()), o, client.GracePeriodSeconds(0))
			if client.IgnoreNotFound(err) != nil {
				t.Errorf("removing %T %s: %v", o, o.GetName(), err)
			}
		})
	}
}

// process is NMI in this process.
type process struct {
	t                   *testing.T
	tables              *redirecttest.Tables
	nmi, probe, metrics string // ports
	stop                func() error
}

// start runs NMI as a user, with a fake nat table and an emulated IMDS.
func start(t *testing.T, config *rest.Config, imds string, further ...string) *process {
	t.Helper()
	p := &process{t: t, tables: redirecttest.NewTables(), nmi: freeport.Get(t), probe: freeport.Get(t), metrics: freeport.Get(t)}
	metadata, err := url.Parse(imds)
	check(t, err)
	o, err := parse(t, nil, append(further,
		"--node="+testNode, "--nmi-port="+p.nmi, "--http-probe-port="+p.probe, "--prometheus-port="+p.metrics,
		"--metadata-ip="+metadata.Hostname(), "--metadata-port="+metadata.Port(), "--ipt-update-interval-sec=1",
		"--find-identity-retry-interval=1", "--retry-attempts-for-created=0", "--retry-attempts-for-assigned=60")...)
	check(t, err)
	clients, err := clientsFor(config)
	check(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	redirects, err := inTables(o, p.tables)
	check(t, err)
	go func() { done <- runWith(ctx, o, clients, redirects) }()
	stopped := false
	p.stop = func() error {
		stopped = true
		cancel()
		return <-done
	}
	t.Cleanup(func() {
		if !stopped {
			if err := p.stop(); !errors.Is(err, context.Canceled) {
				t.Errorf("NMI ended with %v", err)
			}
		}
	})
	return p
}

// inTables are the redirects that the options ask for, in tables that are not the
// machine's.
func inTables(o *options, tables redirect.IPTables) ([]redirect.Redirect, error) {
	targets, err := o.targets()
	var redirects []redirect.Redirect
	for _, t := range targets {
		redirects = append(redirects, redirect.Redirect{Tables: tables, Target: t})
	}
	return redirects, err
}

// get asks a port of NMI from an address.
func (p *process) get(from, port, path string) (int, string, error) {
	tr := &http.Transport{DialContext: (&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}).DialContext, DisableKeepAlives: true}
	req, err := http.NewRequestWithContext(p.t.Context(), http.MethodGet, "http://127.0.0.1:"+port+path, nil)
	if err != nil {
		return 0, "", err
	}
	req.Header.Set("Metadata", "true")
	resp, err := (&http.Client{Transport: tr}).Do(req)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(body), err
}

// says waits until a probe answers as told.
func (p *process) says(path string, status int, text string) {
	p.t.Helper()
	eventually(p.t, path, func() string {
		s, body, err := p.get("127.0.0.1", p.probe, path)
		if err != nil || s != status || !strings.Contains(body, text) {
			return fmt.Sprintf("status %d, %q, %v; want %d, %q", s, body, err, status, text)
		}
		return ""
	})
}

// answers waits until the pod's token request is answered as told.
func (p *process) answers(when string, status int, text string) {
	p.t.Helper()
	eventually(p.t, when, func() string {
		s, body, err := p.get(podIP, p.nmi, request)
		if err != nil || s != status || !strings.Contains(body, text) {
			return fmt.Sprintf("status %d, %q, %v; want %d, %q", s, body, err, status, text)
		}
		return ""
	})
}

// emulate is an Azure with one VM that has one identity.
func emulate(t *testing.T) (id azure.Identity, imds string) {
	t.Helper()
	e, err := azure.New(azure.Options{})
	check(t, err)
	id, err = e.PutIdentity(azure.Identity{ID: azure.IdentityID(subscription, "rg", "demo")})
	check(t, err)
	vm := azure.VMID(subscription, "rg", "vm")
	_, err = e.PutCompute(azure.Compute{ID: vm, UserAssigned: []azure.Assignment{{ID: id.ID}}})
	check(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	imds, err = e.StartIMDS(ctx, vm, "127.0.0.1:0")
	check(t, err)
	t.Cleanup(func() { cancel(); e.Close() })
	return id, imds
}

// TestNMI follows a pod from its creation to the uninstall of the release, on a
// real API server, with the rights that the chart gives.
func TestNMI(t *testing.T) {
	c := startCluster(t)
	id, imds := emulate(t)
	p := start(t, c.nmi, imds)
	p.says("/readyz", http.StatusOK, "ok")
	p.says("/healthz", http.StatusOK, "Active")
	target := "127.0.0.1:" + p.nmi
	if !p.tables.Redirects(target) {
		t.Errorf("ready without the redirect: %q", p.tables.Rules())
	}

	status, body, err := p.get(podIP, p.nmi, request)
	if err != nil || status != http.StatusInternalServerError || !strings.Contains(body, "unknown_pod") {
		t.Errorf("before there is a pod: status %d, %s, %v", status, body, err)
	}
	pod := c.runningPod(t, "web", podIP)
	p.answers("a pod without an identity", http.StatusNotFound, "identity_not_assigned")

	assigned := assignedTo("web", id, v1.AssignedIDCreated)
	assigned.Annotations = map[string]string{v1.PodUIDAnnotationKey: string(pod.UID)}
	c.create(t, assigned)
	// The request is held until MIC is done.
	got := make(chan string, 1)
	go func() {
		for { // until the watch has delivered the object, the answer is 404
			status, body, err := p.get(podIP, p.nmi, request)
			if err != nil || status != http.StatusNotFound {
				got <- fmt.Sprint(status, " ", body, " ", err)
				return
			}
		}
	}()
	assigned.Status.Status = v1.AssignedIDAssigned
	check(t, c.admin.Update(t.Context(), assigned))
	if answer := <-got; !strings.HasPrefix(answer, "200 ") || !strings.Contains(answer, id.ClientID) {
		t.Errorf("the waiting request got %s", answer)
	}
	// A request is counted after its answer is written.
	for _, want := range []string{
		`aadpodidentity_nmi_operations_duration_seconds_count{namespace="default",operation_type="/metadata/identity/oauth2/token",resource="https://vault.azure.net",status_code="200"} 1`,
		`aadpodidentity_imds_operations_duration_seconds_count{operation_type="adal_token_msi_userassignedid"} 1`,
	} {
		eventually(t, "the metrics count it", func() string {
			_, text, err := p.get("127.0.0.1", p.metrics, "/metrics")
			if err != nil || !strings.Contains(text, want+"\n") {
				return fmt.Sprintf("they lack %s, %v", want, err)
			}
			return ""
		})
	}

	exception := &v1.AzurePodIdentityException{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "x"},
		Spec:       v1.AzurePodIdentityExceptionSpec{PodLabels: map[string]string{v1.BindingLabelKey: "SEL"}},
	}
	c.create(t, exception)
	eventually(t, "the exception holds", func() string {
		// The VM has one identity, which the service gives to whoever names none.
		status, body, err := p.get(podIP, p.nmi, request+"&client_id=00000000-0000-0000-0000-000000000000")
		if err != nil || status != http.StatusBadRequest {
			return fmt.Sprint(status, body, err)
		}
		return ""
	})
	check(t, c.admin.Delete(t.Context(), exception))
	check(t, c.admin.Delete(t.Context(), assigned))
	p.answers("after the assignment was withdrawn", http.StatusNotFound, "identity_not_assigned")

	p.tables.Set([]string{redirecttest.KubeRule}, nil)
	eventually(t, "the redirect is repaired", func() string {
		if !p.tables.Redirects(target) {
			return strings.Join(p.tables.Rules(), "\n")
		}
		return ""
	})

	marker := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: uninstall.Name}, Data: map[string]string{uninstall.PhaseKey: uninstall.PhaseUnassign}}
	c.create(t, marker)
	marker.Data[uninstall.PhaseKey] = uninstall.PhaseRedirect
	check(t, c.admin.Update(t.Context(), marker))
	eventually(t, "the removal is acknowledged", func() string {
		check(t, c.admin.Get(t.Context(), client.ObjectKeyFromObject(marker), marker))
		if marker.Data[uninstall.NMIKey(testNode)] != uninstall.Removed {
			return fmt.Sprint(marker.Data)
		}
		return ""
	})
	if got := p.tables.Rules(); !slices.Equal(got, []string{"-A PREROUTING " + redirecttest.KubeRule}) {
		t.Errorf("acknowledged with rules left: %q", got)
	}
	p.says("/readyz", http.StatusServiceUnavailable, "uninstalled")
	p.says("/healthz", http.StatusOK, "Not Active")
	p.answers("during the uninstall", http.StatusNotFound, "identity_not_assigned")
	check(t, c.admin.Delete(t.Context(), marker))
	p.says("/readyz", http.StatusOK, "ok")

	if err := p.stop(); !errors.Is(err, context.Canceled) {
		t.Errorf("NMI ended with %v", err)
	}
	if !p.tables.Redirects(target) {
		t.Error("the redirect is gone after SIGTERM")
	}
}

// TestWithoutRights: NMI says what it may not do, is not ready, sets the redirect
// and serves nothing; it does not exit.
func TestWithoutRights(t *testing.T) {
	c := startCluster(t)
	_, imds := emulate(t)
	p := start(t, c.none, imds)
	p.says("/readyz", http.StatusServiceUnavailable, `pods is forbidden: User "none" cannot list resource "pods"`)
	p.says("/readyz", http.StatusServiceUnavailable, "azureassignedidentities")
	p.says("/healthz", http.StatusOK, "Active")
	status, body, err := p.get(podIP, p.nmi, request)
	if err != nil || status != http.StatusServiceUnavailable || !strings.Contains(body, "NMI is starting") {
		t.Errorf("status %d, %s, %v", status, body, err)
	}
	if !p.tables.Redirects("127.0.0.1:" + p.nmi) {
		t.Error("no redirect: pods reach the real service")
	}
}

func TestAddressHeldByAnother(t *testing.T) {
	port := freeport.Get(t)
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp4", "127.0.0.1:"+port)
	check(t, err)
	s := newListening([]string{"127.0.0.1:" + port})
	done := make(chan error, 1)
	go func() { done <- s.run(t.Context()) }()
	s.tried(t.Context())
	if err := s.Ready(t.Context()); err == nil || !strings.Contains(err.Error(), "address already in use") {
		t.Errorf("ready: %v", err)
	}
	check(t, l.Close())
	opened := <-s.arriving
	check(t, <-done)
	check(t, s.Ready(t.Context()))
	check(t, opened.Close())
	if err := newListening([]string{"192.0.2.1:" + port}).run(t.Context()); err == nil {
		t.Error("an address of another machine is no error")
	}
}

// TestAddressHeldByAnotherNMI: one that hands nothing over ends only when this one is
// ready, since the update surges; so the address that it holds counts as listened on.
func TestAddressHeldByAnotherNMI(t *testing.T) {
	health := func(answer, process string) (port string) {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			if process != "" {
				w.Header().Set(processHeader, process)
			}
			_, _ = io.WriteString(w, answer)
		}))
		t.Cleanup(s.Close)
		_, port, err := net.SplitHostPort(s.Listener.Addr().String())
		check(t, err)
		return port
	}
	port := health("Active", "")
	s := newListening([]string{"127.0.0.1:" + port}) // held by the same, for the purpose
	s.held = func(ctx context.Context) bool { return anotherNMI(ctx, port, "this") }
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.run(ctx) }()
	eventually(t, "ready", func() string {
		if err := s.Ready(ctx); err != nil {
			return err.Error()
		}
		return ""
	})
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("ended with %v", err)
	}
	for name, tc := range map[string]struct {
		answer, process string
		want            bool
	}{
		"of 1.8": {"Not Active", "", true}, "that hands nothing over": {"Active", "another", true},
		"this one": {"Active", "this", false}, "something else": {"<html>", "", false},
	} {
		if got := anotherNMI(t.Context(), health(tc.answer, tc.process), "this"); got != tc.want {
			t.Errorf("%s: another NMI is %v", name, got)
		}
	}
}
