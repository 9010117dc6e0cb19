package cluster

import (
	"bytes"
	"fmt"
	"os"
	"text/template"

	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// configData is what the templates below may refer to.
type configData struct {
	Root, State, RuncState                   string
	Socket, PauseImage                       string
	CNIConf, CNIState                        string
	Bridge, PodCIDR, ServiceCIDR, GatewayIP  string
	NodeIP, NodeName, ProviderID, Kubeconfig string
	CACert, ServingCert, ServingKey          string
	PodLogs, VolumePlugins, CgroupRoot       string
	ResolvConf                               string
	KubeletPort                              int
}

// containerdConfig: netns_mounts_under_state_dir keeps the pods' network namespaces where Down finds them,
// restrict_oom_score_adj because some machines refuse negative scores and every sandbox would die.
const containerdConfig = `version = 2
root = "{{.Root}}"
state = "{{.State}}"
disabled_plugins = [
  "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs",
  "io.containerd.internal.v1.tracing", "io.containerd.tracing.processor.v1.otlp",
]
[grpc]
  address = "{{.Socket}}"
[plugins."io.containerd.internal.v1.opt"]
  path = "{{.Root}}/opt"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{{.PauseImage}}"
  restrict_oom_score_adj = true
  netns_mounts_under_state_dir = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "{{.CNIConf}}"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        SystemdCgroup = false
        Root = "{{.RuncState}}"
`

// cniNetwork is the name of the pods' network; CNI's result cache carries it in its file names.
const cniNetwork = "aad-pod-identity"

// cniConfig: masquerading is one rule of ours, not one chain for each pod (see desiredRules).
const cniConfig = `{
  "cniVersion": "0.4.0",
  "name": "` + cniNetwork + `",
  "plugins": [
    {
      "type": "bridge",
      "bridge": "{{.Bridge}}",
      "isGateway": true,
      "hairpinMode": true,
      "ipam": {
        "type": "host-local",
        "dataDir": "{{.CNIState}}",
        "ranges": [[{"subnet": "{{.PodCIDR}}", "gateway": "{{.GatewayIP}}"}]],
        "routes": [{"dst": "0.0.0.0/0"}]
      }
    }
  ]
}
`

// kubeletConfig reports the machine's real capacity and evicts nothing: a test machine with
// a nearly full disk or no cgroup v2 is still good enough.
const kubeletConfig = `apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
address: {{.NodeIP}}
port: {{.KubeletPort}}
healthzPort: 0
# Changed Secrets reach pods within seconds, so that a test of certificate rotation need not wait a minute.
syncFrequency: 5s
providerID: {{.ProviderID}}
containerRuntimeEndpoint: unix://{{.Socket}}
tlsCertFile: {{.ServingCert}}
tlsPrivateKeyFile: {{.ServingKey}}
authentication:
  anonymous: {enabled: false}
  webhook: {enabled: true}
  x509: {clientCAFile: {{.CACert}}}
authorization: {mode: Webhook}
cgroupDriver: cgroupfs
cgroupRoot: /{{.CgroupRoot}}
failCgroupV1: false
failSwapOn: false
oomScoreAdj: 0
enforceNodeAllocatable: []
evictionHard:
  memory.available: 20Mi
  nodefs.available: 20Mi
  nodefs.inodesFree: "1"
  imagefs.available: 20Mi
imageGCHighThresholdPercent: 100
imageGCLowThresholdPercent: 99
maxPods: 250
podLogsDir: {{.PodLogs}}
volumePluginDir: {{.VolumePlugins}}
resolvConf: "{{.ResolvConf}}"
registryPullQPS: 0
eventRecordQPS: 0
serializeImagePulls: false
containerLogMaxSize: 10Mi
`

const proxyConfig = `apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: iptables
clusterCIDR: {{.PodCIDR}}
hostnameOverride: {{.NodeName}}
bindAddress: {{.NodeIP}}
healthzBindAddress: {{.NodeIP}}:10256
metricsBindAddress: {{.NodeIP}}:10249
clientConnection: {kubeconfig: {{.Kubeconfig}}}
oomScoreAdj: 0
conntrack:
  maxPerCore: 0
  min: 0
  tcpEstablishedTimeout: 0s
  tcpCloseWaitTimeout: 0s
iptables:
  # Replies between pods of one bridge may bypass the machine's conntrack where br_netfilter is off.
  masqueradeAll: true
  localhostNodePorts: false
  minSyncPeriod: 100ms
`

func render(name, text string, data configData) ([]byte, error) {
	t, err := template.New(name).Option("missingkey=error").Parse(text)
	if err != nil {
		return nil, fmt.Errorf("parsing the template of %s: %w", name, err)
	}
	var out bytes.Buffer
	if err := t.Execute(&out, data); err != nil {
		return nil, fmt.Errorf("rendering %s: %w", name, err)
	}
	return out.Bytes(), nil
}

func (c *Cluster) configData() configData {
	p := c.paths
	data := configData{
		Root: p.containerdRoot(), State: p.containerdState(), RuncState: p.runcState(), Socket: p.containerdSocket(), PauseImage: pauseImage,
		CNIConf: p.cniConf(), CNIState: p.cniState(),
		Bridge: bridgeName, PodCIDR: podCIDR, ServiceCIDR: serviceCIDR, GatewayIP: gatewayIP,
		NodeIP: nodeIP, NodeName: c.opts.NodeName, ProviderID: c.opts.ProviderID, Kubeconfig: p.kubeconfig("proxy"),
		CACert: p.pki("ca.crt"), ServingCert: p.pki("kubelet-serving.crt"), ServingKey: p.pki("kubelet-serving.key"),
		PodLogs: p.podLogs(), VolumePlugins: p.kubelet() + "/volume-plugins", CgroupRoot: cgroupName,
		KubeletPort: kubeletPort,
	}
	const resolvConf = "/etc/resolv.conf"
	if fileExists(resolvConf) {
		data.ResolvConf = resolvConf
	}
	return data
}

// writeConfigs renders every configuration file and kubeconfig.
func (c *Cluster) writeConfigs() error {
	data := c.configData()
	for _, f := range []struct{ path, text string }{
		{c.paths.config("containerd.toml"), containerdConfig},
		{c.paths.cniConf() + "/10-bridge.conflist", cniConfig},
		{c.paths.config("kubelet.yaml"), kubeletConfig},
		{c.paths.config("kube-proxy.yaml"), proxyConfig},
	} {
		content, err := render(f.path, f.text, data)
		if err != nil {
			return err
		}
		if err := writeFile(f.path, content, 0o644); err != nil {
			return err
		}
	}
	for _, user := range []string{"admin", "controller-manager", "scheduler", "proxy", "kubelet"} {
		if err := writeKubeconfig(c.paths, user); err != nil {
			return err
		}
	}
	return nil
}

// writeKubeconfig embeds the certificates, so that the file can be copied elsewhere.
func writeKubeconfig(paths layout, user string) error {
	config := clientcmdapi.NewConfig()
	read := func(file string) ([]byte, error) {
		data, err := os.ReadFile(paths.pki(file))
		if err != nil {
			return nil, fmt.Errorf("writing the kubeconfig of %s: %w", user, err)
		}
		return data, nil
	}
	ca, err := read("ca.crt")
	if err != nil {
		return err
	}
	cert, err := read(user + ".crt")
	if err != nil {
		return err
	}
	key, err := read(user + ".key")
	if err != nil {
		return err
	}
	const name = "aad-pod-identity-local"
	config.Clusters[name] = &clientcmdapi.Cluster{Server: apiURL(), CertificateAuthorityData: ca}
	config.AuthInfos[user] = &clientcmdapi.AuthInfo{ClientCertificateData: cert, ClientKeyData: key}
	config.Contexts[name] = &clientcmdapi.Context{Cluster: name, AuthInfo: user}
	config.CurrentContext = name
	data, err := clientcmd.Write(*config)
	if err != nil {
		return fmt.Errorf("encoding the kubeconfig of %s: %w", user, err)
	}
	return writeFile(paths.kubeconfig(user), data, 0o600)
}

func apiURL() string { return fmt.Sprintf("https://%s:%d", nodeIP, apiPort) }
