package server

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	v1 "github.com/aad-pod-identity/aad-pod-identity/api/v1"
	"github.com/aad-pod-identity/aad-pod-identity/internal/metric"
	"github.com/aad-pod-identity/aad-pod-identity/nmi/podindex"
	"github.com/aad-pod-identity/aad-pod-identity/test/azure"
)

const (
	subscription = "11111111-1111-1111-1111-111111111111"
	vault        = "https://vault.azure.net"
	// Pods of the tests send from further loopback addresses.
	webIP, otherIP, strangerIP, hostIP = "127.0.0.2", "127.0.0.3", "127.0.0.9", "127.0.0.1"
)

var vmID = azure.VMID(subscription, "rg", "vm")

// world is an NMI on an emulated VM that has the identities demo and second.
type world struct {
	t            *testing.T
	azure        *azure.Emulator
	demo, second azure.Identity
	index        *podindex.Index
	registry     *prometheus.Registry
	address      string
	server       *Server
	retired      chan struct{}

	mu      sync.Mutex
	log     []string
	secrets map[types.NamespacedName]map[string][]byte
}

// newWorld starts the world with the pods web and other; options may be changed.
func newWorld(t *testing.T, change func(*Options)) *world {
	t.Helper()
	return newWorldOf(t, podindex.New("node-1"), change)
}

func newWorldOf(t *testing.T, index *podindex.Index, change func(*Options)) *world {
	t.Helper()
	w := &world{t: t, index: index, registry: prometheus.NewRegistry(), retired: make(chan struct{})}
	var err error
	if w.azure, err = azure.New(azure.Options{}); err != nil {
		t.Fatal(err)
	}
	w.demo, w.second = w.identity("demo"), w.identity("second")
	if _, err := w.azure.PutCompute(azure.Compute{
		ID: vmID, SystemAssigned: true, UserAssigned: []azure.Assignment{{ID: w.demo.ID}, {ID: w.second.ID}},
	}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	imds, err := w.azure.StartIMDS(ctx, vmID, "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	metadata, err := url.Parse(imds)
	if err != nil {
		t.Fatal(err)
	}
	o := Options{Metadata: metadata, MetadataHeaderRequired: true, HostToken: true, MICNamespace: "default", MICServiceAccount: "mic"}
	if change != nil {
		change(&o)
	}
	transport := &http.Transport{}
	m := metric.NewNMI(w.registry)
	source, wait := w.source(ctx, o, transport)
	s := New(o, w.index, source, m, transport)
	s.guide.printf = func(_ int, format string, args ...any) {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.log = append(w.log, fmt.Sprintf(format, args...))
	}
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w.address = l.Addr().String()
	arriving := make(chan net.Listener, 1)
	arriving <- l
	w.server = s
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, arriving, w.retired) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("serving: %v", err)
		}
		wait()
		transport.CloseIdleConnections()
		w.azure.Close()
	})
	w.setPod("web", webIP)
	w.setPod("other", otherIP)
	w.index.MarkSynced()
	return w
}

func (w *world) identity(name string) azure.Identity {
	w.t.Helper()
	id, err := w.azure.PutIdentity(azure.Identity{ID: azure.IdentityID(subscription, "rg", name)})
	if err != nil {
		w.t.Fatal(err)
	}
	return id
}

func (w *world) setPod(name, ip string, opts ...func(*corev1.Pod)) {
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, UID: types.UID("uid-" + name), Labels: map[string]string{v1.BindingLabelKey: "sel"}},
		Status:     corev1.PodStatus{Phase: corev1.PodRunning, PodIP: ip},
	}
	for _, o := range opts {
		o(p)
	}
	w.index.SetPod(podindex.NewPod(p))
}

// assign records what MIC would.
func (w *world) assign(pod string, id azure.Identity, status string, opts ...func(*v1.AzureAssignedIdentity)) {
	name := id.ID[strings.LastIndex(id.ID, "/")+1:]
	a := assignment(name, status, func(a *v1.AzureAssignedIdentity) {
		a.Name, a.Spec.Pod = pod+"-default-"+name, pod
		a.Annotations[v1.PodUIDAnnotationKey] = "uid-" + pod
		a.Spec.AzureIdentityRef.Spec = v1.AzureIdentitySpec{ClientID: id.ClientID, ResourceID: id.ID}
	})
	for _, o := range opts {
		o(a)
	}
	w.index.SetAssigned(a)
}

// client sends from an address to NMI, whatever host it is asked for: as the
// redirect does.
func (w *world) client(from string) *http.Client {
	dialer := &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
	tr := &http.Transport{
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return dialer.DialContext(ctx, network, w.address)
		},
		DisableCompression: true,
	}
	w.t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr}
}

// reply is an answer of NMI.
type reply struct {
	status int
	header http.Header
	body   string
	// oauth is the error of an error's body.
	oauth struct {
		Code        string `json:"error"`
		Description string `json:"error_description"`
	}
}

// get asks with the Metadata header, unless header says otherwise (nil removes).
func (w *world) get(from, pathAndQuery string, header map[string]string) reply {
	w.t.Helper()
	r, err := w.try(w.t.Context(), from, pathAndQuery, header)
	if err != nil {
		w.t.Fatal(err)
	}
	return r
}

func (w *world) try(ctx context.Context, from, pathAndQuery string, header map[string]string) (reply, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://169.254.169.254"+pathAndQuery, nil)
	if err != nil {
		return reply{}, err
	}
	req.Header.Set("Metadata", "true")
	for k, v := range header {
		if v == "" {
			req.Header.Del(k)
		} else {
			req.Header.Set(k, v)
		}
	}
	resp, err := w.client(from).Do(req)
	if err != nil {
		return reply{}, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return reply{}, err
	}
	out := reply{status: resp.StatusCode, header: resp.Header, body: string(body)}
	_ = json.Unmarshal(body, &out.oauth) // not every body is an error
	return out, nil
}

// tokenOf decodes a token answer, which must be all strings.
func (r reply) tokenOf(t *testing.T) map[string]string {
	t.Helper()
	var m map[string]string
	if err := json.Unmarshal([]byte(r.body), &m); err != nil || r.status != http.StatusOK {
		t.Fatalf("status %d, %v: %s", r.status, err, r.body)
	}
	return m
}

func (w *world) lines() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return append([]string(nil), w.log...)
}

func (w *world) tokenCalls() int {
	return len(w.azure.Calls(azure.CallFilter{Operation: azure.OpIMDSToken}))
}

const tokenURL = "/metadata/identity/oauth2/token?api-version=2018-02-01&resource=" + vault

// eventually polls a condition that other goroutines bring about.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.After(30 * time.Second)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("never: %s", what)
		}
	}
}
