package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"

	v1 "github.com/aad-pod-identity/aad-pod-identity/api/v1"
	"github.com/aad-pod-identity/aad-pod-identity/internal/run"
	"github.com/aad-pod-identity/aad-pod-identity/nmi/redirect/redirecttest"
	"github.com/aad-pod-identity/aad-pod-identity/test/azure"
	"github.com/aad-pod-identity/aad-pod-identity/test/freeport"
)

// asProcess makes the test binary an NMI whose nat table is not the machine's.
const asProcess = "NMI_TEST_PROCESS"

func TestMain(m *testing.M) {
	if os.Getenv(asProcess) == "" {
		code := m.Run()
		if err := stopShared(); err != nil {
			fmt.Fprintf(os.Stderr, "stopping the API server: %v\n", err)
			code = max(code, 1)
		}
		os.Exit(code)
	}
	os.Exit(run.Main(component, func(ctx context.Context, args []string) error {
		o := newOptions()
		if done, err := o.parse(args, os.LookupEnv); done || err != nil {
			return err
		}
		clients, err := newClients(o)
		if err != nil {
			return err
		}
		redirects, err := inTables(o, redirecttest.NewTables())
		if err != nil {
			return err
		}
		return runWith(ctx, o, clients, redirects)
	}))
}

// node is a machine on which NMIs run one after the other, as processes.
type node struct {
	t                   *testing.T
	imds                string
	dir                 string
	nmi, probe, metrics string // ports
	started             int
	generation          string // of the pod template of those that are started
}

func newNode(t *testing.T, imds string) *node {
	t.Helper()
	dir, err := os.MkdirTemp("", "nmi") //nolint:usetesting // short: the path of a unix socket has 107 bytes
	check(t, err)
	t.Cleanup(func() { check(t, os.RemoveAll(dir)) })
	return &node{t: t, imds: imds, dir: dir, nmi: freeport.Get(t), probe: freeport.Get(t), metrics: freeport.Get(t)}
}

// child is one such process.
type child struct {
	t      *testing.T
	cmd    *exec.Cmd
	socket string
	done   chan error
	mu     sync.Mutex
	out    bytes.Buffer
}

func (c *child) Write(b []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.out.Write(b)
}

func (c *child) log() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.out.String()
}

func (n *node) start(kubeconfig []byte, flags ...string) *child {
	n.t.Helper()
	n.started++
	name := fmt.Sprint(n.started)
	file := filepath.Join(n.dir, "kubeconfig-"+name)
	check(n.t, os.WriteFile(file, kubeconfig, 0o600))
	metadata, err := url.Parse(n.imds)
	check(n.t, err)
	self, err := os.Executable()
	check(n.t, err)
	c := &child{t: n.t, socket: filepath.Join(n.dir, "probe-"+name), done: make(chan error, 1)}
	c.cmd = exec.Command(self, append([]string{
		"--kubeconfig=" + file, "--node=" + testNode, "--nmi-port=" + n.nmi, "--http-probe-port=" + n.probe, "--prometheus-port=" + n.metrics,
		"--metadata-ip=" + metadata.Hostname(), "--metadata-port=" + metadata.Port(), "--handover-dir=" + filepath.Join(n.dir, "handover"), "--probe-socket=" + c.socket,
	}, flags...)...)
	c.cmd.Env = append(os.Environ(), asProcess+"=1", "POD_TEMPLATE_GENERATION="+n.generation)
	c.cmd.Stdout, c.cmd.Stderr = c, c
	check(n.t, c.cmd.Start())
	go func() { c.done <- c.cmd.Wait() }()
	n.t.Cleanup(func() {
		_ = c.cmd.Process.Kill() // unless it has ended
		if n.t.Failed() {
			n.t.Logf("NMI %s:\n%s", name, c.log())
		}
	})
	return c
}

// says waits until the probe subcommand prints a text.
func (c *child) says(want string) {
	c.t.Helper()
	eventually(c.t, "the probe says "+want, func() string {
		var out strings.Builder
		err := probe(c.t.Context(), &out, []string{"--probe-socket=" + c.socket})
		var exit *run.ExitError
		if err != nil && !errors.As(err, &exit) {
			return err.Error()
		}
		if !strings.Contains(out.String(), want) || (want == "ok") != (err == nil) {
			return fmt.Sprint(out.String(), err)
		}
		return ""
	})
}

// kill ends the process as nobody can prevent.
func (c *child) kill() {
	c.t.Helper()
	check(c.t, c.cmd.Process.Kill())
	if err := <-c.done; err == nil {
		c.t.Error("a process that was killed ended well")
	}
}

// ends tells the process to end and waits for it.
func (c *child) ends() {
	c.t.Helper()
	check(c.t, c.cmd.Process.Signal(syscall.SIGTERM))
	if err := <-c.done; err != nil {
		c.t.Errorf("NMI ended with %v", err)
	}
}

// kubeconfigs of the users of the cluster.
func (c *cluster) kubeconfigs(t *testing.T) (nmi, none []byte) {
	t.Helper()
	for _, u := range []struct {
		name string
		into *[]byte
	}{{"nmi", &nmi}, {"none", &none}} {
		user, err := c.addUser(u.name)
		check(t, err)
		*u.into, err = user.KubeConfig()
		check(t, err)
	}
	return nmi, none
}

// runningPod makes a pod of the node with an address.
func (c *cluster) runningPod(t *testing.T, name, ip string) *corev1.Pod {
	t.Helper()
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, Labels: map[string]string{v1.BindingLabelKey: "sel"}},
		Spec:       corev1.PodSpec{NodeName: testNode, Containers: []corev1.Container{{Name: "c", Image: "none"}}},
	}
	c.create(t, pod)
	pod.Status = corev1.PodStatus{Phase: corev1.PodRunning, PodIP: ip, PodIPs: []corev1.PodIP{{IP: ip}}}
	check(t, c.admin.Status().Update(t.Context(), pod))
	return pod
}

func assignedTo(pod string, id azure.Identity, status string) *v1.AzureAssignedIdentity {
	return &v1.AzureAssignedIdentity{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: pod + "-default-demo", Labels: map[string]string{v1.NodeNameLabelKey: testNode}},
		Spec: v1.AzureAssignedIdentitySpec{
			Pod: pod, PodNamespace: "default", NodeName: testNode,
			AzureIdentityRef: &v1.AzureIdentity{
				TypeMeta:   metav1.TypeMeta{APIVersion: v1.GroupVersion.String(), Kind: v1.KindAzureIdentity},
				ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "demo"},
				Spec:       v1.AzureIdentitySpec{ClientID: id.ClientID, ResourceID: id.ID},
			},
			AzureBindingRef: &v1.AzureIdentityBinding{
				TypeMeta:   metav1.TypeMeta{APIVersion: v1.GroupVersion.String(), Kind: v1.KindAzureIdentityBinding},
				ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "demo"},
				Spec:       v1.AzureIdentityBindingSpec{AzureIdentity: "demo", Selector: "sel"},
			},
		},
		Status: v1.AzureAssignedIdentityStatus{Status: status},
	}
}

// load asks for tokens until it is stopped.
type load struct {
	done   chan struct{}
	wg     sync.WaitGroup
	ok     atomic.Int64
	mu     sync.Mutex
	failed []string
}

// pace leaves the processors to what happens under load; all clients together ask every
// millisecond still.
const pace = 5 * time.Millisecond

// startLoad starts clients that never try again: half keep their connection, half
// open one for each request.
func (n *node) startLoad(clients int) *load {
	l := &load{done: make(chan struct{})}
	for i := range clients {
		tr := &http.Transport{
			DialContext:       (&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(podIP)}}).DialContext,
			DisableKeepAlives: i%2 == 0,
		}
		l.wg.Go(func() {
			defer tr.CloseIdleConnections()
			wait.Until(func() {
				if err := getToken(n.t.Context(), tr, "http://127.0.0.1:"+n.nmi+request); err != nil {
					l.mu.Lock()
					l.failed = append(l.failed, err.Error())
					l.mu.Unlock()
					return
				}
				l.ok.Add(1)
			}, pace, l.done)
		})
	}
	return l
}

// getToken sends one request. Its body keeps the transport from sending it again
// by itself.
func getToken(ctx context.Context, tr http.RoundTripper, url string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, struct{ io.Reader }{strings.NewReader("x")})
	if err != nil {
		return err
	}
	req.ContentLength = 1
	req.Header.Set("Metadata", "true")
	resp, err := tr.RoundTrip(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && (resp.StatusCode != http.StatusOK || !bytes.Contains(body, []byte("access_token"))) {
		err = fmt.Errorf("status %d: %.200s", resp.StatusCode, body)
	}
	return err
}

func (l *load) more(t *testing.T, what string) {
	t.Helper()
	before := l.ok.Load()
	eventually(t, what, func() string {
		if now := l.ok.Load(); now < before+500 {
			return fmt.Sprintf("%d answers", now-before)
		}
		return ""
	})
}

func (l *load) stop(t *testing.T) {
	t.Helper()
	close(l.done)
	l.wg.Wait()
	t.Logf("%d requests answered, %d failed", l.ok.Load(), len(l.failed))
	if len(l.failed) > 0 {
		t.Errorf("%d requests failed, the first: %v", len(l.failed), l.failed[:min(5, len(l.failed))])
	}
}

// TestRollingUpdate replaces NMI three times under load: no request fails, not even
// one that waits for MIC meanwhile.
func TestRollingUpdate(t *testing.T) {
	c := startCluster(t)
	id, imds := emulate(t)
	c.runningPod(t, "web", podIP)
	c.runningPod(t, "late", "127.0.0.3")
	c.create(t, assignedTo("web", id, v1.AssignedIDAssigned))
	kubeconfig, _ := c.kubeconfigs(t)
	n := newNode(t, imds)
	serving := n.start(kubeconfig)
	serving.says("ok")
	l := n.startLoad(8)
	l.more(t, "the load runs")

	late := assignedTo("late", id, v1.AssignedIDCreated)
	c.create(t, late)
	waiting := make(chan error, 1)
	tr := &http.Transport{DialContext: (&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP("127.0.0.3")}}).DialContext}
	defer tr.CloseIdleConnections()
	go func() { waiting <- getToken(t.Context(), tr, "http://127.0.0.1:"+n.nmi+request) }()
	eventually(t, "a request waits", func() string {
		_, text, err := n.get(n.metrics, "/metrics")
		if err != nil || !strings.Contains(text, "\naadpodidentity_nmi_waiting_requests 1\n") {
			return fmt.Sprint("no waiter, ", err)
		}
		return ""
	})

	for round := range 3 {
		next := n.start(kubeconfig)
		next.says("ok")
		serving.says("another NMI has taken over")
		l.more(t, "the load runs on")
		old := serving
		ended := make(chan struct{})
		go func() { defer close(ended); old.ends() }()
		l.more(t, "the load runs while the old one ends")
		if round == 0 {
			// The old one, which is told to end, still waits with the request.
			late.Status.Status = v1.AssignedIDAssigned
			check(t, c.admin.Update(t.Context(), late))
			if err := <-waiting; err != nil {
				t.Errorf("the request that waited: %v", err)
			}
		}
		<-ended
		l.more(t, "the load runs without the old one")
		serving = next
	}
	l.stop(t)
	status, body, err := n.get(n.probe, "/readyz")
	if err != nil || status != http.StatusOK {
		t.Errorf("the node's probe port: %d %s %v", status, body, err)
	}
	serving.ends()
}

// TestSuccessorWaits: an NMI that is not ready does not take over, and does when
// there is nobody left to take over from.
func TestSuccessorWaits(t *testing.T) {
	c := startCluster(t)
	id, imds := emulate(t)
	c.runningPod(t, "web", podIP)
	c.create(t, assignedTo("web", id, v1.AssignedIDAssigned))
	kubeconfig, none := c.kubeconfigs(t)
	n := newNode(t, imds)
	serving := n.start(kubeconfig)
	serving.says("ok")
	l := n.startLoad(2)
	next := n.start(none)
	next.says("listen: ")
	next.says("pods is forbidden")
	l.more(t, "the load runs on beside a successor that is not ready")
	serving.says("ok")
	l.stop(t)

	serving.kill()
	eventually(t, "the successor answers", func() string {
		status, body, err := n.get(n.nmi, request)
		if err != nil || status != http.StatusServiceUnavailable || !strings.Contains(body, "NMI is starting") {
			return fmt.Sprint(status, body, err)
		}
		return ""
	})
	// Nobody serves the socket that a killed one leaves.
	next.kill()
	third := n.start(kubeconfig)
	third.says("ok")
	third.ends()
}

// answers waits until the node has a token for the pod.
func (n *node) answers() {
	n.t.Helper()
	eventually(n.t, "a token", func() string {
		if err := getToken(n.t.Context(), &http.Transport{
			DialContext: (&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(podIP)}}).DialContext, DisableKeepAlives: true,
		}, "http://127.0.0.1:"+n.nmi+request); err != nil {
			return err.Error()
		}
		return ""
	})
}

// TestNoHandover: where nothing can be handed over, the update goes on, and tokens are
// refused for no longer than the old NMI takes to end.
func TestNoHandover(t *testing.T) {
	c := startCluster(t)
	id, imds := emulate(t)
	c.runningPod(t, "web", podIP)
	c.create(t, assignedTo("web", id, v1.AssignedIDAssigned))
	kubeconfig, _ := c.kubeconfigs(t)

	t.Run("the directory is gone", func(t *testing.T) {
		n := newNode(t, imds)
		serving := n.start(kubeconfig)
		serving.says("ok")
		check(t, os.RemoveAll(filepath.Join(n.dir, "handover")))
		next := n.start(kubeconfig)
		next.says("ok")
		serving.says("ok")
		serving.ends()
		n.answers()
		next.ends()
	})
	t.Run("to an older pod template", func(t *testing.T) {
		n := newNode(t, imds)
		n.generation = "2"
		serving := n.start(kubeconfig)
		serving.says("ok")
		n.generation = "1" // it was restarted after the handover
		old := n.start(kubeconfig)
		old.says("ok")
		serving.says("ok")
		old.ends()
		n.generation = "3"
		next := n.start(kubeconfig)
		next.says("ok")
		serving.says("another NMI has taken over")
		serving.ends()
		n.answers()
		next.ends()
	})
	t.Run("an address that the old one does not have is taken", func(t *testing.T) {
		n := newNode(t, imds)
		serving := n.start(kubeconfig)
		serving.says("ok")
		other := "127.0.0.1:" + freeport.Get(t)
		l, err := new(net.ListenConfig).Listen(t.Context(), "tcp4", other)
		check(t, err)
		_, port, err := net.SplitHostPort(other)
		check(t, err)
		next := n.start(kubeconfig, "--nmi-port="+port)
		next.says("address already in use")
		serving.says("ok")
		n.answers()
		check(t, l.Close())
		next.says("ok")
		serving.says("another NMI has taken over")
		n.nmi = port
		n.answers()
		serving.ends()
		next.ends()
	})
}

func (n *node) get(port, path string) (int, string, error) {
	return (&process{t: n.t}).get(podIP, port, path)
}
