package stack

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"sigs.k8s.io/yaml"

	"github.com/aad-pod-identity/aad-pod-identity/test/azure"
	"github.com/aad-pod-identity/aad-pod-identity/test/cluster"
	"github.com/aad-pod-identity/aad-pod-identity/test/cluster/image"
)

// Names of the local cloud. The subscription and node group are those of the
// cluster's providerID.
const (
	Subscription  = "11111111-1111-1111-1111-111111111111"
	NodeGroup     = "mc_demo_demo_westeurope"
	ScaleSet      = "aks-nodepool1-12345678-vmss"
	IdentityGroup = "demo-identities"
	Release       = "aad-pod-identity"
	ClientImage   = "aad-pod-identity.local/client:v1"

	// ClusterClientID is the cluster's own identity, which azure.json names.
	ClusterClientID = "0d0d0d0d-3333-4333-8333-0d0d0d0d0d0d"

	// micClientID and micSecret are MIC's own service principal in the emulator.
	micClientID = "0d0d0d0d-1111-4111-8111-0d0d0d0d0d0d"
	micObjectID = "0d0d0d0d-2222-4222-8222-0d0d0d0d0d0d"
	micSecret   = "local-demo-secret" //nolint:gosec // a secret of the emulator, which exists on this machine only

	// EmulatorName is the program that is Azure, for Cluster.Signal.
	EmulatorName = "azure-emulator"

	controlAddress = "127.0.0.1:8444"
	armPort        = "8443"
)

// Stack is the running environment.
type Stack struct {
	Cluster *cluster.Cluster
	Azure   *azure.Control

	out    io.Writer
	source string
	// Repository and Tag are those of the product's images, which the chart defaults to.
	Repository, Tag string
}

// New describes the stack; it changes nothing on the machine. Progress goes to out.
func New(out io.Writer) (*Stack, error) {
	source, err := image.FindSource(".")
	if err != nil {
		return nil, err
	}
	c, err := cluster.New(cluster.Options{Out: out, SourceDir: source})
	if err != nil {
		return nil, err
	}
	s := &Stack{Cluster: c, Azure: azure.NewControl("http://" + controlAddress), out: out, source: source}
	if s.Repository, s.Tag, err = chartImages(s.Chart()); err != nil {
		return nil, err
	}
	return s, nil
}

// Chart is the path of the chart.
func (s *Stack) Chart() string { return filepath.Join(s.source, "charts", "aad-pod-identity") }

func (s *Stack) azureDir() string { return filepath.Join(s.Cluster.RunDir(), "azure") }

// VMSSID is the resource ID of the scale set of the cluster's node.
func (s *Stack) VMSSID() string { return azure.VMSSID(Subscription, NodeGroup, ScaleSet) }

// ARMURL is where the emulator serves ARM and AAD, reachable from nodes and pods.
func (s *Stack) ARMURL() string {
	return "https://" + net.JoinHostPort(s.Cluster.NodeIP(), armPort)
}

// CAFile is the PEM file with the CA of ARMURL.
func (s *Stack) CAFile() string { return filepath.Join(s.azureDir(), "state", "ca.pem") }

// Up starts the cluster and the emulator and loads the images. It can be
// repeated; what already stands is left alone.
func (s *Stack) Up(ctx context.Context) error {
	if err := s.Cluster.Up(ctx); err != nil {
		return err
	}
	if err := s.startEmulator(ctx); err != nil {
		return err
	}
	return s.LoadImages(ctx)
}

// LoadImages builds the product and the client from this tree and makes them
// available to the node.
func (s *Stack) LoadImages(ctx context.Context) error {
	const stamp = "-X github.com/aad-pod-identity/aad-pod-identity/internal/version.Version="
	specs := append(image.Product(s.Repository, s.Tag, stamp+s.Tag),
		image.Spec{Name: ClientImage, GoPackage: "./test/client", Cmd: []string{"wait"}})
	return s.Cluster.LoadImages(ctx, specs...)
}

// Down removes the cluster and the emulator with everything they left on the
// machine.
func (s *Stack) Down(ctx context.Context) error { return s.Cluster.Down(ctx) }

func (s *Stack) startEmulator(ctx context.Context) error {
	state := filepath.Join(s.azureDir(), "state")
	if err := os.MkdirAll(state, 0o700); err != nil {
		return fmt.Errorf("creating the emulator's directory: %w", err)
	}
	seed, err := s.seed()
	if err != nil {
		return err
	}
	seedFile := filepath.Join(s.azureDir(), "seed.json")
	if err := os.WriteFile(seedFile, seed, 0o600); err != nil {
		return fmt.Errorf("writing the emulator's seed: %w", err)
	}
	err = s.Cluster.EnsureProgram(ctx, cluster.Program{
		Name: EmulatorName, GoPackage: "./test/azure/emulator",
		Args: []string{
			"--listen=" + net.JoinHostPort(s.Cluster.NodeIP(), armPort),
			"--imds=listen=" + cluster.MetadataIP + ":80,resource=" + azure.InstanceID(s.VMSSID(), "0"),
			"--control=" + controlAddress,
			"--state-dir=" + state, "--seed=" + seedFile,
		},
		Inputs: []string{seedFile},
	})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	err = Poll(ctx, func(ctx context.Context) error { return s.Azure.Healthy(ctx) })
	if err != nil {
		return fmt.Errorf("the Azure emulator does not answer: %w; its last lines:\n%s", err, s.Cluster.LogTail(EmulatorName))
	}
	return nil
}

// seed is the cloud as the demo finds it: the node's scale set with a
// system-assigned identity, and MIC's service principal with the rights that the
// documentation asks for.
func (s *Stack) seed() ([]byte, error) {
	group := "/subscriptions/" + Subscription + "/resourceGroups/"
	seed := map[string]any{
		"settings": azure.Settings{VMSSOperation: azure.Duration(2 * time.Second), VMOperation: azure.Duration(2 * time.Second), PollAfter: azure.Duration(time.Second)},
		"compute":  []azure.Compute{{ID: s.VMSSID(), Location: "westeurope", SystemAssigned: true}},
		"groups":   []string{group + NodeGroup, group + IdentityGroup},
		"apps":     []azure.App{{Name: "mic", ClientID: micClientID, ObjectID: micObjectID, Secrets: []string{micSecret}}},
		"roles": []azure.Role{
			{PrincipalID: micObjectID, Role: azure.RoleVirtualMachineContributor, Scope: group + NodeGroup},
			{PrincipalID: micObjectID, Role: azure.RoleManagedIdentityOperator, Scope: group + IdentityGroup},
		},
		"azureConfig": azure.AzureConfig{ClientID: micClientID, ClientSecret: micSecret, SubscriptionID: Subscription, ResourceGroup: NodeGroup, UserAssignedIdentityID: ClusterClientID},
	}
	data, err := json.MarshalIndent(seed, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("encoding the emulator's seed: %w", err)
	}
	return data, nil
}

// HelmArgs are the values that a private cloud needs, as a user would give them:
// where azure.json and the environment file are on the node, and the CA to trust.
func (s *Stack) HelmArgs() []string {
	state := filepath.Join(s.azureDir(), "state")
	return []string{
		"--set", "mic.cloudConfig=" + filepath.Join(state, "azure.json"),
		"--set", "mic.customCloud.enabled=true",
		"--set", "mic.customCloud.configPath=" + filepath.Join(state, "environment.json"),
		"--set-file", "customCloud.caBundle=" + s.CAFile(),
	}
}

// Poll repeats check until it succeeds or ctx ends, and then returns the last
// reason why it did not.
func Poll(ctx context.Context, check func(context.Context) error) error {
	const interval = 100 * time.Millisecond
	t := time.NewTicker(interval)
	defer t.Stop()
	var last error
	for {
		err := check(ctx)
		if err == nil {
			return nil
		}
		// A check that the end of ctx cut off says nothing of the thing it looked at.
		if ctx.Err() == nil || last == nil {
			last = err
		}
		select {
		case <-ctx.Done():
			return last
		case <-t.C:
		}
	}
}

// chartImages reads from the chart which images it runs by default.
func chartImages(chart string) (repository, tag string, err error) {
	var meta struct {
		AppVersion string `json:"appVersion"`
	}
	var values struct {
		Image struct {
			Repository string `json:"repository"`
		} `json:"image"`
	}
	if err := readYAML(filepath.Join(chart, "Chart.yaml"), &meta); err != nil {
		return "", "", err
	}
	if err := readYAML(filepath.Join(chart, "values.yaml"), &values); err != nil {
		return "", "", err
	}
	if meta.AppVersion == "" || values.Image.Repository == "" {
		return "", "", fmt.Errorf("the chart in %s names no appVersion or image.repository", chart)
	}
	return values.Image.Repository, "v" + strings.TrimPrefix(meta.AppVersion, "v"), nil
}

func readYAML(path string, into any) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("reading the chart: %w", err)
	}
	if err := yaml.Unmarshal(data, into); err != nil {
		return fmt.Errorf("reading %s: %w", path, err)
	}
	return nil
}
