package main

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	logsapi "k8s.io/component-base/logs/api/v1"

	"github.com/aad-pod-identity/aad-pod-identity/internal/run"
	"github.com/aad-pod-identity/aad-pod-identity/nmi/redirect"
	"github.com/aad-pod-identity/aad-pod-identity/nmi/server"
)

func parse(t *testing.T, env map[string]string, args ...string) (*options, error) {
	t.Helper()
	// A process applies its logging flags once.
	if err := logsapi.ResetForTest(nil); err != nil {
		t.Fatal(err)
	}
	o := newOptions()
	_, err := o.parse(args, func(k string) (string, bool) { v, ok := env[k]; return v, ok })
	return o, err
}

func TestMistakesAreToldAtOnce(t *testing.T) {
	tests := map[string]struct {
		env  map[string]string
		args []string
		want []string
	}{
		"no node": {want: []string{"--node: required"}},
		"an unknown flag": {
			args: []string{"--node=n", "--nmi-prot=1"}, want: []string{"unknown flag: --nmi-prot"},
		},
		"several bad values": {
			args: []string{"--nmi-port=0", "--metadata-ip=x", "--nmi-listen-address=::1", "--ipt-update-interval-sec=0", "--retry-attempts-for-created=-1", "--http-probe-port=p"},
			want: []string{"--node", "--nmi-port", "--metadata-ip", "--nmi-listen-address", "--ipt-update-interval-sec", "--retry-attempts-for-created", "--http-probe-port"},
		},
		"an unknown mode": {
			args: []string{"--node=n", "--operation-mode=fast"}, want: []string{`--operation-mode="fast": must be standard or managed`},
		},
		"an IPv4 address for an IPv6 one, and an unknown check": {
			args: []string{"--node=n", "--metadata-ip6=169.254.169.254", "--source-address-check=perhaps", "--tracing-endpoint=collector:4317", "--tracing-sample-ratio=NaN"},
			want: []string{"--metadata-ip6", "--tracing-endpoint", "--tracing-sample-ratio", `--source-address-check="perhaps": must be auto, on or off`},
		},
		"a URL for a host": {
			args: []string{"--node=n", "--allowed-authority-hosts=adfs.example.com,https://x/"}, want: []string{"--allowed-authority-hosts", `"https://x/" is not a host`},
		},
		"managed mode without namespaces": {
			args: []string{"--node=n", "--operation-mode=managed"}, want: []string{"requires --forceNamespaced"},
		},
		"an environment that is neither true nor false": {
			env: map[string]string{"FORCENAMESPACED": "maybe"}, args: []string{"--node=n"}, want: []string{`FORCENAMESPACED="maybe"`},
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			_, err := parse(t, tc.env, tc.args...)
			var usage *run.UsageError
			if !errors.As(err, &usage) {
				t.Fatalf("error %v", err)
			}
			for _, w := range tc.want {
				if !strings.Contains(err.Error(), w) {
					t.Errorf("%q lacks %q", err, w)
				}
			}
		})
	}
}

// TestDefaults holds the defaults of the 1.8 releases.
func TestDefaults(t *testing.T) {
	o, err := parse(t, nil, "--node=n")
	if err != nil {
		t.Fatal(err)
	}
	targets, err := o.targets()
	if err != nil {
		t.Fatal(err)
	}
	want := []redirect.Target{{Metadata: netip.MustParseAddr("169.254.169.254"), MetadataPort: 80, NMI: netip.MustParseAddrPort("127.0.0.1:2579")}}
	if diff := cmp.Diff(want, targets, cmp.Comparer(func(a, b redirect.Target) bool { return a == b })); diff != "" {
		t.Errorf("targets (-want +got):\n%s", diff)
	}
	if w := o.waiting(); w != (server.Waiting{Created: 80 * time.Second, Assigned: 20 * time.Second}) {
		t.Errorf("waiting %+v", w)
	}
	if !o.scaleFeatures || !o.metadataHeaderRequired || !o.hostToken || o.forceNamespaced || o.blockInstance || o.setRetryAfter ||
		o.conntrackDeletion || o.allowKubenet || o.redirectSeconds != 60 || o.micNamespace != "default" ||
		o.ProbePort != "8080" || o.PrometheusPort != "9090" || o.kubeletConfig != "/etc/default/kubelet" {
		t.Errorf("options %+v", o)
	}
}

func TestManagedMode(t *testing.T) {
	o, err := parse(t, map[string]string{"FORCENAMESPACED": "true"}, "--node=n", "--operation-mode=Managed")
	if err != nil || o.operationMode != modeManaged {
		t.Fatalf("mode %q, %v", o.operationMode, err)
	}
	if w := o.waiting(); w != (server.Waiting{}) {
		t.Errorf("requests wait %+v for an assignment that nobody makes", w)
	}
}

func TestEnvironment(t *testing.T) {
	env := map[string]string{"FORCENAMESPACED": "true", "KUBECONFIG": "/from/env"}
	o, err := parse(t, env, "--node=n")
	if err != nil || !o.forceNamespaced || o.kubeconfig != "/from/env" {
		t.Errorf("%v, %v, %q", err, o.forceNamespaced, o.kubeconfig)
	}
	o, err = parse(t, env, "--node=n", "--forceNamespaced=false", "--kubeconfig=/from/flag")
	if err != nil || o.forceNamespaced || o.kubeconfig != "/from/flag" {
		t.Errorf("flags do not win: %v, %v, %q", err, o.forceNamespaced, o.kubeconfig)
	}
}

func TestListenOnAllAddresses(t *testing.T) {
	o, err := parse(t, nil, "--node=n", "--nmi-listen-address=0.0.0.0")
	if err != nil {
		t.Fatal(err)
	}
	if targets, err := o.targets(); err != nil || len(targets) != 1 || targets[0].NMI.String() != "127.0.0.1:2579" {
		t.Errorf("redirects %v, %v", targets, err)
	}
}

// TestFamilies: with the address of the node's other family, as its status lists them,
// and with an IPv6 address of the service.
func TestFamilies(t *testing.T) {
	const v4, v6, service = "10.0.0.4", "fd00::4", "fd00:a9fe::254"
	for name, tc := range map[string]struct {
		args               []string
		targets, listeners string
	}{
		"IPv4 alone":                            {[]string{v4}, "10.0.0.4:2579", "10.0.0.4:2579 127.0.0.1:2579"},
		"both, no IPv6 address of the service":  {[]string{v4 + "," + v6}, "10.0.0.4:2579", "10.0.0.4:2579 127.0.0.1:2579"},
		"both":                                  {[]string{v4 + "," + v6, service}, "10.0.0.4:2579 [fd00::4]:2579", "10.0.0.4:2579 127.0.0.1:2579 [fd00::4]:2579"},
		"both, IPv6 first":                      {[]string{v6 + ", " + v4, service}, "10.0.0.4:2579 [fd00::4]:2579", "10.0.0.4:2579 127.0.0.1:2579 [fd00::4]:2579"},
		"a node without IPv6 redirects nowhere": {[]string{v4, service}, "10.0.0.4:2579 [100::1]:2579", "10.0.0.4:2579 127.0.0.1:2579"},
	} {
		t.Run(name, func(t *testing.T) {
			o, err := parse(t, nil, "--node=n", "--nmi-listen-address="+tc.args[0], "--metadata-ip6="+strings.Join(tc.args[1:], ""))
			if err != nil {
				t.Fatal(err)
			}
			targets, err := o.targets()
			var to []string
			for _, t := range targets {
				to = append(to, t.NMI.String())
			}
			if got := strings.Join(to, " "); err != nil || got != tc.targets {
				t.Errorf("redirects to %s, %v", got, err)
			}
			listeners, err := o.listeners()
			if got := strings.Join(listeners, " "); err != nil || got != tc.listeners {
				t.Errorf("listens on %s, %v", got, err)
			}
		})
	}
	for _, address := range []string{"", v6, v4 + "," + v4, v4 + "," + v6 + "," + v6, v4 + ",::1", v4 + ",fe80::1%eth0", v4 + ",::ffff:10.0.0.4"} {
		if _, err := parse(t, nil, "--node=n", "--nmi-listen-address="+address); err == nil || !strings.Contains(err.Error(), "--nmi-listen-address") {
			t.Errorf("%q: %v", address, err)
		}
	}
}

func TestNetworkPlugin(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	kubenet := write("kubenet", "KUBELET_FLAGS=--v=2 --network-plugin=kubenet --x\n")
	tests := map[string]struct {
		file  string
		allow bool
		want  string
	}{
		"kubenet":                  {file: kubenet, want: "not supported for Kubenet"},
		"kubenet, allowed":         {file: kubenet, allow: true},
		"another plugin":           {file: write("azure", "--network-plugin=azure")},
		"an empty file":            {file: write("empty", "")},
		"an unreadable file":       {file: filepath.Join(dir, "none"), want: "no such file"},
		"an unread file, if asked": {file: filepath.Join(dir, "none"), allow: true},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			err := checkNetworkPlugin(tc.file, tc.allow)
			if (err != nil) != (tc.want != "") || err != nil && !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want %q", err, tc.want)
			}
		})
	}
}

func TestKubenetBridgeThatComesLater(t *testing.T) {
	looks := 0
	err := watchForKubenet(t.Context(), time.Millisecond, func(name string) (*net.Interface, error) {
		if name != "cbr0" {
			t.Errorf("looks for %s", name)
		}
		if looks++; looks < 3 {
			return nil, errors.New("no such network interface")
		}
		return &net.Interface{Name: name}, nil
	})
	if !errors.Is(err, errKubenet) || looks != 3 {
		t.Errorf("after %d looks: %v", looks, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := watchForKubenet(ctx, time.Hour, net.InterfaceByName); !errors.Is(err, context.Canceled) {
		t.Errorf("at NMI's end: %v", err)
	}
}
