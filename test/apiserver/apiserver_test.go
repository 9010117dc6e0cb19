package apiserver

import (
	"fmt"
	"net/url"
	"os"
	"strconv"
	"testing"

	"sigs.k8s.io/controller-runtime/pkg/envtest"
)

// TestPorts looks at what etcd and the API server listen on.
func TestPorts(t *testing.T) {
	env := &envtest.Environment{}
	Start(t, env)
	raw, err := os.ReadFile("/proc/sys/net/ipv4/ip_local_port_range")
	if err != nil {
		t.Skipf("needs Linux: %v", err)
	}
	var lowest, highest int
	if _, err := fmt.Sscan(string(raw), &lowest, &highest); err != nil {
		t.Fatal(err)
	}
	etcd, server := env.ControlPlane.Etcd, env.ControlPlane.GetAPIServer()
	peers, err := url.Parse(etcd.Configure().Get("listen-peer-urls").Get(nil)[0])
	if err != nil {
		t.Fatal(err)
	}
	seen := map[int]bool{}
	for name, text := range map[string]string{
		"etcd":           etcd.URL.Port(),
		"etcd's peers":   peers.Port(),
		"the API server": server.Port,
		"the webhook":    strconv.Itoa(env.WebhookInstallOptions.LocalServingPort),
	} {
		port, err := strconv.Atoi(text)
		if err != nil || seen[port] || port >= lowest && port <= highest {
			t.Errorf("port of %s: %q, %v", name, text, err)
		}
		seen[port] = true
	}
}
