package cluster

import (
	"fmt"
	"path/filepath"
)

// Names of the processes, which are also the names of their logs and pid files.
const (
	etcdName       = "etcd"
	apiServerName  = "kube-apiserver"
	controllerName = "kube-controller-manager"
	schedulerName  = "kube-scheduler"
	proxyName      = "kube-proxy"
	kubeletName    = "kubelet"
	containerdName = "containerd"
)

// componentNames lists the processes in the order in which Down stops them: whoever
// would restart or need another one goes first.
var componentNames = []string{
	kubeletName, proxyName, schedulerName, controllerName, apiServerName, etcdName, containerdName,
}

func (c *Cluster) bin(name string) string { return filepath.Join(c.BinDir(), name) }

func (c *Cluster) etcd() process {
	url := fmt.Sprintf("http://127.0.0.1:%d", etcdPort)
	peer := fmt.Sprintf("http://127.0.0.1:%d", etcdPort+1)
	return process{name: etcdName, exe: c.bin("etcd"), args: []string{
		"--name=local", "--data-dir=" + c.paths.etcd(),
		"--listen-client-urls=" + url, "--advertise-client-urls=" + url,
		"--listen-peer-urls=" + peer, "--initial-advertise-peer-urls=" + peer, "--initial-cluster=local=" + peer,
		// A test cluster that lost its last writes with the machine's power is recreated, so nobody waits for the disk.
		"--unsafe-no-fsync",
		"--log-level=warn",
	}}
}

func (c *Cluster) apiServer() process {
	pki := c.paths.pki
	args := []string{
		"--advertise-address=" + nodeIP, "--bind-address=" + nodeIP, fmt.Sprintf("--secure-port=%d", apiPort),
		fmt.Sprintf("--etcd-servers=http://127.0.0.1:%d", etcdPort),
		"--service-cluster-ip-range=" + serviceCIDR,
		"--tls-cert-file=" + pki("apiserver.crt"), "--tls-private-key-file=" + pki("apiserver.key"),
		"--client-ca-file=" + pki("ca.crt"),
		"--kubelet-client-certificate=" + pki("apiserver-kubelet-client.crt"),
		"--kubelet-client-key=" + pki("apiserver-kubelet-client.key"),
		"--kubelet-certificate-authority=" + pki("ca.crt"),
		// The node's name is in no DNS.
		"--kubelet-preferred-address-types=InternalIP",
		"--requestheader-client-ca-file=" + pki("front-proxy-ca.crt"),
		"--requestheader-allowed-names=front-proxy-client",
		"--requestheader-username-headers=X-Remote-User",
		"--requestheader-group-headers=X-Remote-Group",
		"--requestheader-extra-headers-prefix=X-Remote-Extra-",
		"--proxy-client-cert-file=" + pki("front-proxy-client.crt"),
		"--proxy-client-key-file=" + pki("front-proxy-client.key"),
		"--service-account-issuer=https://kubernetes.default.svc.cluster.local",
		"--service-account-key-file=" + pki("service-account.pub"),
		"--service-account-signing-key-file=" + pki("service-account.key"),
		"--authorization-mode=Node,RBAC", "--enable-admission-plugins=NodeRestriction",
		"--allow-privileged", "--anonymous-auth=true", "--profiling=false",
	}
	return process{name: apiServerName, exe: c.bin("kube-apiserver"), args: append(args, c.opts.APIServerArgs...),
		inputs: []string{pki("ca.crt"), pki("apiserver.crt"), pki("service-account.key")}}
}

func (c *Cluster) controllerManager() process {
	kubeconfig := c.paths.kubeconfig("controller-manager")
	return process{name: controllerName, exe: c.bin("kube-controller-manager"), inputs: []string{kubeconfig}, args: []string{
		"--kubeconfig=" + kubeconfig, "--authentication-kubeconfig=" + kubeconfig, "--authorization-kubeconfig=" + kubeconfig,
		"--bind-address=" + nodeIP, "--leader-elect=false", "--use-service-account-credentials",
		"--service-account-private-key-file=" + c.paths.pki("service-account.key"),
		"--root-ca-file=" + c.paths.pki("ca.crt"),
		"--cluster-signing-cert-file=" + c.paths.pki("ca.crt"), "--cluster-signing-key-file=" + c.paths.pki("ca.key"),
		"--flex-volume-plugin-dir=" + c.paths.kubelet() + "/volume-plugins",
		"--profiling=false",
	}}
}

func (c *Cluster) scheduler() process {
	kubeconfig := c.paths.kubeconfig("scheduler")
	return process{name: schedulerName, exe: c.bin("kube-scheduler"), inputs: []string{kubeconfig}, args: []string{
		"--kubeconfig=" + kubeconfig, "--authentication-kubeconfig=" + kubeconfig, "--authorization-kubeconfig=" + kubeconfig,
		"--bind-address=" + nodeIP, "--leader-elect=false", "--profiling=false",
	}}
}

func (c *Cluster) kubeProxy() process {
	config, kubeconfig := c.paths.config("kube-proxy.yaml"), c.paths.kubeconfig("proxy")
	return process{name: proxyName, exe: c.bin("kube-proxy"), inputs: []string{config, kubeconfig}, args: []string{"--config=" + config}}
}

func (c *Cluster) kubelet() process {
	config, kubeconfig := c.paths.config("kubelet.yaml"), c.paths.kubeconfig("kubelet")
	return process{name: kubeletName, exe: c.bin("kubelet"), inputs: []string{config, kubeconfig, c.paths.pki("kubelet-serving.crt")}, args: []string{
		"--config=" + config, "--kubeconfig=" + kubeconfig, "--root-dir=" + c.paths.kubelet(),
		"--node-ip=" + nodeIP, "--hostname-override=" + c.opts.NodeName,
		"--node-labels=agentpool=nodepool1",
	}}
}

func (c *Cluster) containerd() process {
	config := c.paths.config("containerd.toml")
	return process{name: containerdName, exe: "/usr/bin/containerd", inputs: []string{config}, args: []string{"--config", config}}
}
