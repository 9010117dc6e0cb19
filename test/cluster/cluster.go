package cluster

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/aad-pod-identity/aad-pod-identity/test/cluster/image"
)

const (
	// DefaultRunDir holds the state of the cluster unless Options or RunDirEnv say otherwise.
	DefaultRunDir = "/var/lib/aad-pod-identity-cluster"
	// RunDirEnv names the environment variable that overrides DefaultRunDir.
	RunDirEnv = "AAD_POD_IDENTITY_CLUSTER_DIR"

	// DefaultNodeName is shaped like the node names of an AKS scale set.
	DefaultNodeName = "aks-nodepool1-12345678-vmss000000"
	// DefaultProviderID is the first instance of a uniform scale set.
	DefaultProviderID = "azure:///subscriptions/11111111-1111-1111-1111-111111111111/resourceGroups/mc_demo_demo_westeurope" +
		"/providers/Microsoft.Compute/virtualMachineScaleSets/aks-nodepool1-12345678-vmss/virtualMachines/0"

	// MetadataIP is the address of the instance metadata service. Up adds it to
	// the loopback device, so that an emulator on the machine can listen on it.
	MetadataIP = "169.254.169.254"
)

// The cluster's addresses are fixed: they live on a bridge of our own, so they
// survive a change of the machine's network, and two clusters cannot share a
// machine anyway (they would share its iptables chains).
const (
	nodeIP      = "10.240.0.4"
	gatewayIP   = "10.244.0.1"
	podCIDR     = "10.244.0.0/16"
	serviceCIDR = "10.96.0.0/16"
	apiService  = "10.96.0.1"
	bridgeName  = "aadpi0"
	cgroupName  = "aad-pod-identity-cluster"

	apiPort     = 6443
	etcdPort    = 12379
	kubeletPort = 10250
)

// maxRunDir keeps the longest unix socket below it within the 107 bytes of sun_path.
const maxRunDir = 60

// Options describe a cluster. The zero value is a usable default.
type Options struct {
	// RunDir holds certificates, configuration, logs, etcd's and containerd's data.
	// Default: $AAD_POD_IDENTITY_CLUSTER_DIR, else DefaultRunDir. At most 60 bytes, because of unix sockets.
	RunDir string
	// CacheDir holds built binaries and survives Down. Default: ${XDG_CACHE_HOME:-$HOME/.cache}/aad-pod-identity.
	CacheDir string
	// SourceDir is the root of this repository. Default: found from the working directory upwards.
	SourceDir string
	// NodeName is the name of the one node. Default: DefaultNodeName.
	NodeName string
	// ProviderID is the node's spec.providerID. Default: DefaultProviderID.
	ProviderID string
	// APIServerArgs are appended to kube-apiserver's flags.
	APIServerArgs []string
	// WithoutCertManager leaves cert-manager out.
	WithoutCertManager bool
	// Out receives progress, one line a step. Default: discarded.
	Out io.Writer
}

// Cluster is a cluster that may or may not be running; every method looks at the machine anew.
type Cluster struct {
	opts     Options
	paths    layout
	versions versions
	builder  *image.Builder
	progress *progress
}

// settings are the choices that later commands must know; Up records them in the run directory.
type settings struct {
	NodeName      string   `json:"nodeName"`
	ProviderID    string   `json:"providerID"`
	APIServerArgs []string `json:"apiServerArgs,omitempty"`
	CertManager   bool     `json:"certManager"`
	// BootID tells a machine that was rebooted since: what lived in memory is gone then.
	BootID string `json:"bootID"`
}

// New checks opts and fills in defaults; it changes nothing on the machine.
// Values that opts leaves empty are taken from a cluster recorded in the run directory, if there is one.
func New(opts Options) (*Cluster, error) {
	if opts.RunDir == "" {
		opts.RunDir = os.Getenv(RunDirEnv)
	}
	if opts.RunDir == "" {
		opts.RunDir = DefaultRunDir
	}
	runDir, err := filepath.Abs(opts.RunDir)
	if err != nil {
		return nil, fmt.Errorf("resolving the run directory: %w", err)
	}
	if len(runDir) > maxRunDir {
		return nil, fmt.Errorf("run directory %s is %d bytes long; unix sockets below it allow at most %d", runDir, len(runDir), maxRunDir)
	}
	if strings.Count(runDir, "/") < 2 {
		return nil, fmt.Errorf("run directory %s is a top-level directory; Down would remove it whole", runDir)
	}
	opts.RunDir = runDir
	if opts.CacheDir == "" {
		base, err := os.UserCacheDir()
		if err != nil {
			return nil, fmt.Errorf("finding the cache directory: %w", err)
		}
		opts.CacheDir = filepath.Join(base, "aad-pod-identity")
	}
	if opts.SourceDir == "" {
		if opts.SourceDir, err = image.FindSource("."); err != nil {
			return nil, err
		}
	}
	if opts.Out == nil {
		opts.Out = io.Discard
	}
	paths := layout{root: opts.RunDir}
	recorded, err := readSettings(paths.settings())
	if err != nil {
		return nil, err
	}
	opts.NodeName = firstNonEmpty(opts.NodeName, recorded.NodeName, DefaultNodeName)
	opts.ProviderID = firstNonEmpty(opts.ProviderID, recorded.ProviderID, DefaultProviderID)
	if opts.APIServerArgs == nil {
		opts.APIServerArgs = recorded.APIServerArgs
	}
	vs, err := readVersions(opts.SourceDir)
	if err != nil {
		return nil, err
	}
	p := newProgress(opts.Out)
	return &Cluster{
		opts:     opts,
		paths:    paths,
		versions: vs,
		progress: p,
		builder: &image.Builder{
			SourceDir: opts.SourceDir,
			CacheDir:  opts.CacheDir,
			Step:      p.step,
		},
	}, nil
}

// Kubeconfig is the path of an administrator's kubeconfig.
func (c *Cluster) Kubeconfig() string { return c.paths.kubeconfig("admin") }

// BinDir is the directory of the built binaries, kubectl and helm among them.
func (c *Cluster) BinDir() string { return filepath.Join(c.opts.CacheDir, "bin", c.versions.key()) }

// RunDir is the directory that holds the cluster's state and logs.
func (c *Cluster) RunDir() string { return c.paths.root }

// NodeName is the name of the one node.
func (c *Cluster) NodeName() string { return c.opts.NodeName }

// NodeIP is the node's InternalIP, an address of this machine that pods reach.
func (c *Cluster) NodeIP() string { return nodeIP }

// GatewayIP is the address of this machine on the pods' bridge, their default gateway.
func (c *Cluster) GatewayIP() string { return gatewayIP }

func readSettings(path string) (settings, error) {
	var s settings
	data, err := os.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return s, nil
	case err != nil:
		return s, fmt.Errorf("reading the cluster's settings: %w", err)
	}
	if err := json.Unmarshal(data, &s); err != nil {
		return settings{}, fmt.Errorf("reading the cluster's settings in %s: %w", path, err)
	}
	return s, nil
}

func firstNonEmpty(values ...string) string {
	for _, v := range values {
		if v != "" {
			return v
		}
	}
	return ""
}
