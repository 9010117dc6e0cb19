package cluster

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/yaml"
)

func TestNewRefusesRunDirectories(t *testing.T) {
	for name, dir := range map[string]string{
		"a directory too long for unix sockets": "/tmp/" + strings.Repeat("x", maxRunDir),
		"a top-level directory":                 "/var",
		"the root directory":                    "/",
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := New(Options{RunDir: dir}); err == nil {
				t.Errorf("New accepted %s", dir)
			}
		})
	}
}

func TestNewTakesWhatIsRecorded(t *testing.T) {
	c := testCluster(t)
	if c.NodeName() != DefaultNodeName || c.opts.ProviderID != DefaultProviderID {
		t.Errorf("defaults are %s, %s", c.NodeName(), c.opts.ProviderID)
	}
	if err := os.MkdirAll(c.paths.root, 0o755); err != nil {
		t.Fatal(err)
	}
	c.opts.NodeName, c.opts.ProviderID, c.opts.APIServerArgs = "node-a", "azure:///x", []string{"--v=4"}
	if err := c.record(); err != nil {
		t.Skip(err)
	}
	again, err := New(Options{RunDir: c.paths.root, CacheDir: c.opts.CacheDir})
	if err != nil {
		t.Fatal(err)
	}
	if again.NodeName() != "node-a" || again.opts.ProviderID != "azure:///x" || !slices.Equal(again.opts.APIServerArgs, []string{"--v=4"}) {
		t.Errorf("a second New has %+v", again.opts)
	}
	if err := os.WriteFile(c.paths.settings(), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := New(Options{RunDir: c.paths.root}); err == nil {
		t.Error("settings that cannot be read were ignored")
	}
}

func TestConfigsAreValid(t *testing.T) {
	c := testCluster(t)
	if err := c.paths.make(); err != nil {
		t.Fatal(err)
	}
	if err := ensurePKI(c.paths, c.NodeName(), time.Now()); err != nil {
		t.Fatal(err)
	}
	if err := c.writeConfigs(); err != nil {
		t.Fatal(err)
	}
	for _, file := range []string{"kubelet.yaml", "kube-proxy.yaml"} {
		data, err := os.ReadFile(c.paths.config(file))
		if err != nil {
			t.Fatal(err)
		}
		var parsed map[string]any
		if err := yaml.UnmarshalStrict(data, &parsed); err != nil {
			t.Errorf("%s: %v", file, err)
		}
		if file == "kubelet.yaml" && parsed["providerID"] != DefaultProviderID {
			t.Errorf("the kubelet has providerID %v", parsed["providerID"])
		}
	}
	cni, err := os.ReadFile(filepath.Join(c.paths.cniConf(), "10-bridge.conflist"))
	if err != nil {
		t.Fatal(err)
	}
	var parsed map[string]any
	if err := yaml.UnmarshalStrict(cni, &parsed); err != nil {
		t.Errorf("CNI configuration: %v", err)
	}
	config, err := clientcmd.BuildConfigFromFlags("", c.Kubeconfig())
	if err != nil {
		t.Fatal(err)
	}
	if config.Host != apiURL() || len(config.CAData) == 0 || len(config.CertData) == 0 {
		t.Errorf("the kubeconfig is incomplete: host %s", config.Host)
	}
}

func TestPKIKeepsWhatExists(t *testing.T) {
	c := testCluster(t)
	if err := c.paths.make(); err != nil {
		t.Fatal(err)
	}
	read := func(file string) string {
		t.Helper()
		data, err := os.ReadFile(c.paths.pki(file))
		if err != nil {
			t.Fatal(err)
		}
		return string(data)
	}
	ensure := func() {
		t.Helper()
		if err := ensurePKI(c.paths, "node", time.Now()); err != nil {
			t.Fatal(err)
		}
	}
	ensure()
	ca, admin, key := read("ca.crt"), read("admin.crt"), read("service-account.key")
	// A crash may leave a key without its certificate.
	if err := os.Remove(c.paths.pki("admin.crt")); err != nil {
		t.Fatal(err)
	}
	ensure()
	if read("ca.crt") != ca || read("service-account.key") != key {
		t.Error("a second run replaced the CA or the service account key; running pods would lose their access")
	}
	if read("admin.crt") == admin {
		t.Error("the missing certificate was not issued anew")
	}
}

func TestParseVersions(t *testing.T) {
	const mod = "module m\nrequire (\n\tk8s.io/kubernetes v1.37.2 // indirect\n\tgo.etcd.io/etcd/server/v3 v3.7.0\n\thelm.sh/helm/v3 v3.22.0\n)\n"
	v, err := parseVersions([]byte(mod), []byte("sum"))
	if err != nil {
		t.Fatal(err)
	}
	if v.kubernetes != "v1.37.2" || v.etcd != "v3.7.0" || v.helm != "v3.22.0" || !strings.HasPrefix(v.key(), "v1.37.2-") {
		t.Errorf("got %+v", v)
	}
	other, err := parseVersions([]byte(mod), []byte("another sum"))
	if err != nil {
		t.Fatal(err)
	}
	if other.key() == v.key() {
		t.Error("other module sums have the same cache directory")
	}
	if _, err := parseVersions([]byte("module m\n"), nil); err == nil {
		t.Error("a go.mod without Kubernetes was accepted")
	}
}

func TestBuiltName(t *testing.T) {
	for pkg, want := range map[string]string{
		"k8s.io/kubernetes/cmd/kubelet": "kubelet", "go.etcd.io/etcd/server/v3": "server", "helm.sh/helm/v3/cmd/helm": "helm",
	} {
		if got := builtName(pkg); got != want {
			t.Errorf("go build calls the program of %s %s, not %s", pkg, want, got)
		}
	}
}

func TestMissingPackages(t *testing.T) {
	have := map[string]bool{"/usr/bin/mount": true, "/usr/sbin/iptables": true, "/sbin/ip": true}
	got := missingPackages(systemPrograms, func(path string) bool { return have[path] })
	want := []string{"containerd", "runc", "containernetworking-plugins", "conntrack"}
	if !slices.Equal(got, want) {
		t.Errorf("missing %v, want %v", got, want)
	}
}

func TestUnsupportedSaysWhatToDo(t *testing.T) {
	err := requireRootOnLinux("start a cluster")
	if err == nil {
		t.Skip("root on Linux")
	}
	if !errors.Is(err, ErrUnsupported) || !strings.Contains(err.Error(), "go test ./...") {
		t.Errorf("the message does not help: %v", err)
	}
}

func TestNodeNotUsable(t *testing.T) {
	ready := corev1.NodeCondition{Type: corev1.NodeReady, Status: corev1.ConditionTrue}
	for name, tc := range map[string]struct {
		node corev1.Node
		want string
	}{
		"ready":                    {corev1.Node{Status: corev1.NodeStatus{Conditions: []corev1.NodeCondition{ready}}}, ""},
		"no condition yet":         {corev1.Node{}, "without a Ready condition"},
		"not ready, with a reason": {corev1.Node{Status: corev1.NodeStatus{Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionFalse, Message: "no CNI"}}}}, "not ready: no CNI"},
		"ready but tainted": {corev1.Node{Spec: corev1.NodeSpec{Taints: []corev1.Taint{{Key: "node.kubernetes.io/not-ready", Effect: corev1.TaintEffectNoSchedule}}},
			Status: corev1.NodeStatus{Conditions: []corev1.NodeCondition{ready}}}, "tainted node.kubernetes.io/not-ready"},
		"a taint that only prefers": {corev1.Node{Spec: corev1.NodeSpec{Taints: []corev1.Taint{{Key: "x", Effect: corev1.TaintEffectPreferNoSchedule}}},
			Status: corev1.NodeStatus{Conditions: []corev1.NodeCondition{ready}}}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			if got := nodeNotUsable(&tc.node); got != tc.want {
				t.Errorf("got %q, want %q", got, tc.want)
			}
		})
	}
}

func TestStaleStatus(t *testing.T) {
	pod := func(id string, running bool) corev1.Pod {
		p := corev1.Pod{}
		p.Namespace, p.Name = "default", "web"
		s := corev1.ContainerStatus{ContainerID: "containerd://" + id}
		if running {
			s.State.Running = &corev1.ContainerStateRunning{}
		}
		p.Status.ContainerStatuses = []corev1.ContainerStatus{s}
		return p
	}
	tasks := parseTasks("TASK    PID     STATUS    \nabc    12    RUNNING\ndef    13    STOPPED\n")
	for name, tc := range map[string]struct {
		pod  corev1.Pod
		want string
	}{
		"a container that runs":                        {pod("abc", true), ""},
		"a container that ended and is known to":       {pod("def", false), ""},
		"a container that ended but is said to run":    {pod("def", true), "default/web"},
		"a container from before the machine's reboot": {pod("old", true), "default/web"},
	} {
		t.Run(name, func(t *testing.T) {
			if got := staleStatus([]corev1.Pod{tc.pod}, tasks); got != tc.want {
				t.Errorf("got %q, want %q", got, tc.want)
			}
		})
	}
}

func TestDeploymentAvailable(t *testing.T) {
	two := int32(2)
	d := appsv1.Deployment{Spec: appsv1.DeploymentSpec{Replicas: &two}, Status: appsv1.DeploymentStatus{UpdatedReplicas: 2, AvailableReplicas: 2}}
	if !deploymentAvailable(&d) {
		t.Error("all replicas available, yet not available")
	}
	d.Generation = 1
	if deploymentAvailable(&d) {
		t.Error("a status of an older generation was believed")
	}
	d.Generation, d.Status.UpdatedReplicas = 0, 1
	if deploymentAvailable(&d) {
		t.Error("available replicas of an older template were counted")
	}
}

func TestSetChartVersion(t *testing.T) {
	got := string(setChartVersion([]byte("name: x\nversion: v0.0.0\nappVersion: v0.0.0\nkubeVersion: \">= 1.22.0-0\"\n"), "v1.2.3"))
	if want := "name: x\nversion: v1.2.3\nappVersion: v1.2.3\nkubeVersion: \">= 1.22.0-0\"\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestParseImageList(t *testing.T) {
	got := parseImageList("REF TYPE DIGEST SIZE PLATFORMS LABELS\n" +
		"a.example/x:v1 application/vnd.oci.image.manifest.v1+json sha256:11 2.0 MiB linux/amd64 -\n" +
		"sha256:22 application/vnd.oci.image.manifest.v1+json sha256:22 2.0 MiB linux/amd64 -\n")
	if len(got) != 2 || got["a.example/x:v1"] != "sha256:11" {
		t.Errorf("got %v", got)
	}
}
