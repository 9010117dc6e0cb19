package chart_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	"sigs.k8s.io/controller-runtime/pkg/envtest"

	"github.com/aad-pod-identity/aad-pod-identity/test/freeport"
)

// kubeconfigAs writes a kubeconfig of one of the namespace's service accounts.
func (s *server) kubeconfigAs(t *testing.T, serviceAccount string) string {
	t.Helper()
	user, err := s.env.AddUser(envtest.User{Name: "for-" + serviceAccount, Groups: []string{"system:masters"}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := user.KubeConfig()
	if err != nil {
		t.Fatal(err)
	}
	var config *clientcmdapi.Config
	if config, err = clientcmd.Load(raw); err != nil {
		t.Fatal(err)
	}
	for _, user := range config.AuthInfos {
		user.Impersonate = "system:serviceaccount:" + namespace + ":" + serviceAccount
	}
	file := filepath.Join(t.TempDir(), "kubeconfig")
	if err := clientcmd.WriteToFile(*config, file); err != nil {
		t.Fatal(err)
	}
	return file
}

// replica is a process of the webhook with the chart's arguments.
type replica struct {
	name, port, probes string
	cmd                *exec.Cmd
	log                *bytes.Buffer
	ended              chan error
}

// startReplica starts a process and does not wait for it. Without certDir it has
// an empty directory of its own.
func startReplica(t *testing.T, program, kubeconfig, name, certDir string, args []string) *replica {
	t.Helper()
	if certDir == "" {
		certDir = t.TempDir()
	}
	r := &replica{name: name, port: freeport.Get(t), probes: freeport.Get(t), log: &bytes.Buffer{}, ended: make(chan error, 1)}
	full := make([]string, 0, len(args)+7)
	for _, a := range args {
		full = append(full, strings.NewReplacer("$(POD_NAME)", name, "$(POD_UID)", name+"-uid").Replace(a))
	}
	full = append(full, "--kubeconfig="+kubeconfig, "--port="+r.port, "--http-probe-port="+r.probes, "--prometheus-port="+freeport.Get(t),
		"--cert-dir="+certDir, "--shutdown-delay=2s")
	r.cmd = exec.Command(program, full...)
	r.cmd.Stdout, r.cmd.Stderr = r.log, r.log
	if err := r.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { r.ended <- r.cmd.Wait() }()
	t.Cleanup(func() {
		_ = r.cmd.Process.Kill() // ended already unless the test failed
		if t.Failed() {
			_ = r.stopped() // waits for the end of the log
			t.Logf("log of %s:\n%s", r.name, r.log)
		}
	})
	return r
}

func (r *replica) stopped() error {
	err := <-r.ended
	r.ended <- err
	return err
}

// stop ends the process as the kubelet does and returns how it ended.
func (r *replica) stop() error {
	if err := r.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	return r.stopped()
}

// ready returns what the readiness probe says, nil if the replica is ready.
func (r *replica) ready(ctx context.Context) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+net.JoinHostPort("127.0.0.1", r.probes)+"/readyz", nil)
	if err != nil {
		return err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode != http.StatusOK {
		err = errors.New(string(text))
	}
	return err
}

func (r *replica) waitReady(t *testing.T) {
	t.Helper()
	eventually(t, r.name+" is ready", r.ready)
}

// served returns the certificate that the replica presents, DER encoded.
func (r *replica) served(ctx context.Context) ([]byte, error) {
	d := tls.Dialer{Config: &tls.Config{InsecureSkipVerify: true}} //nolint:gosec // the certificate itself is looked at
	conn, err := d.DialContext(ctx, "tcp", net.JoinHostPort("127.0.0.1", r.port))
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	return conn.(*tls.Conn).ConnectionState().PeerCertificates[0].Raw, nil
}

// balancer stands for the Service: new connections go to the replicas that were
// ready when their probe last ran.
type balancer struct {
	port    string
	probing sync.Mutex
	mu      sync.Mutex
	all     []*replica
	good    []*replica
	next    int
}

func startBalancer(t *testing.T) *balancer {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	b := &balancer{}
	if _, b.port, err = net.SplitHostPort(listener.Addr().String()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(func() { cancel(); listener.Close() })
	go wait.UntilWithContext(ctx, b.probe, 100*time.Millisecond)
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go b.forward(conn)
		}
	}()
	return b
}

// set returns when connections go to these replicas only: an endpoint is taken away
// before its process ends.
func (b *balancer) set(ctx context.Context, replicas ...*replica) {
	b.mu.Lock()
	b.all = replicas
	b.mu.Unlock()
	b.probe(ctx)
}

func (b *balancer) probe(ctx context.Context) {
	b.probing.Lock()
	defer b.probing.Unlock()
	b.mu.Lock()
	all := b.all
	b.mu.Unlock()
	var good []*replica
	for _, r := range all {
		if r.ready(ctx) == nil {
			good = append(good, r)
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.good = good
}

func (b *balancer) pick() *replica {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.good) == 0 {
		return nil
	}
	b.next++
	return b.good[b.next%len(b.good)]
}

func (b *balancer) forward(client net.Conn) {
	defer client.Close()
	r := b.pick()
	if r == nil {
		return
	}
	server, err := net.Dial("tcp", net.JoinHostPort("127.0.0.1", r.port))
	if err != nil {
		return
	}
	defer server.Close()
	go func() {
		_, _ = io.Copy(server, client) // the other direction ends both
		server.Close()
	}()
	_, _ = io.Copy(client, server)
}

func eventually(t *testing.T, what string, check func(ctx context.Context) error) {
	t.Helper()
	var last error
	err := wait.PollUntilContextTimeout(t.Context(), 100*time.Millisecond, 2*time.Minute, true, func(ctx context.Context) (bool, error) {
		err := check(ctx)
		if err == nil || ctx.Err() == nil {
			last = err // what the end cut off says nothing
		}
		return err == nil, nil
	})
	if err != nil {
		t.Fatalf("waited in vain until %s: %v", what, last)
	}
}
