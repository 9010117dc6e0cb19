// Package cluster runs a real, single-node Kubernetes cluster on this machine:
// etcd, the control plane, kube-proxy, containerd and a kubelet as ordinary
// processes, with cert-manager and Helm on top. Nothing of Kubernetes is faked,
// so what passes here meets the same API server, kubelet and iptables as on AKS.
//
// [New] describes a cluster, [Cluster.Up] brings it up or repairs it,
// [Cluster.Down] removes every trace of it. Both are level-triggered: they look
// at what is there and change only what differs, so they can be repeated after
// a crash at any point. All state lives in one run directory; binaries are built
// once from pinned Go modules into a cache directory; programs that Debian
// ships (containerd, runc, CNI plugins, iptables) come from its packages.
//
// The package needs root on Linux. It is for tests and demonstrations: etcd
// does not sync its disk, and the cluster's CA lives beside the cluster.
package cluster
