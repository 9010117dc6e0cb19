package cluster

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"golang.org/x/mod/modfile"
)

// kubernetesModule is the nested module that pins Kubernetes, etcd and Helm, relative to the source root.
const kubernetesModule = "test/cluster/binaries/kubernetes"

// helmModule is the Helm that installs charts into the cluster.
const helmModule = "helm.sh/helm/v3"

// versions are what the binaries are built from.
type versions struct {
	kubernetes, etcd, helm string
	// modules is a digest of the pinned module's go.mod and go.sum.
	modules string
}

// key names the directory of binaries built from these versions.
func (v versions) key() string { return v.kubernetes + "-" + v.modules }

func readVersions(source string) (versions, error) {
	dir := filepath.Join(source, filepath.FromSlash(kubernetesModule))
	mod, err := os.ReadFile(filepath.Join(dir, "go.mod"))
	if err != nil {
		return versions{}, fmt.Errorf("reading the versions of the cluster's binaries: %w", err)
	}
	sum, err := os.ReadFile(filepath.Join(dir, "go.sum"))
	if err != nil {
		return versions{}, fmt.Errorf("reading the versions of the cluster's binaries: %w", err)
	}
	return parseVersions(mod, sum)
}

// parseVersions takes the versions out of the nested module's go.mod.
func parseVersions(mod, sum []byte) (versions, error) {
	file, err := modfile.Parse("go.mod", mod, nil)
	if err != nil {
		return versions{}, fmt.Errorf("parsing %s/go.mod: %w", kubernetesModule, err)
	}
	var v versions
	for _, r := range file.Require {
		switch r.Mod.Path {
		case "k8s.io/kubernetes":
			v.kubernetes = r.Mod.Version
		case "go.etcd.io/etcd/server/v3":
			v.etcd = r.Mod.Version
		case helmModule:
			v.helm = r.Mod.Version
		}
	}
	if v.kubernetes == "" || v.etcd == "" || v.helm == "" {
		return versions{}, fmt.Errorf("%s/go.mod must require k8s.io/kubernetes, etcd's server and Helm", kubernetesModule)
	}
	h := sha256.New()
	fmt.Fprintf(h, "%s\n%s\n%s", mod, sum, strings.Join(kubernetesFlags(v.kubernetes), " "))
	v.modules = hex.EncodeToString(h.Sum(nil))[:8]
	return v, nil
}

// kubernetesFlags stamps the version: kubectl and Helm refuse a server that does not tell its own.
func kubernetesFlags(version string) []string {
	major, rest, _ := strings.Cut(strings.TrimPrefix(version, "v"), ".")
	minor, _, _ := strings.Cut(rest, ".")
	const pkg = "k8s.io/component-base/version"
	return []string{"-trimpath", "-ldflags", fmt.Sprintf("-s -w -X %[1]s.gitVersion=%s -X %[1]s.gitMajor=%s -X %[1]s.gitMinor=%s", pkg, version, major, minor)}
}

// program is the version of a program and what `go build` needs to build it.
func (v versions) program(name string) (version string, args []string) {
	switch name {
	case "helm":
		stamp := "-X " + helmModule + "/internal/version.version=" + v.helm
		return v.helm, []string{"-trimpath", "-ldflags", "-s -w " + stamp, helmModule + "/cmd/helm"}
	case "etcd":
		return v.etcd, []string{"-trimpath", "-ldflags", "-s -w", "go.etcd.io/etcd/server/v3"}
	default:
		return v.kubernetes, append(kubernetesFlags(v.kubernetes), "k8s.io/kubernetes/cmd/"+name)
	}
}

// portablePrograms run without a node, on any system: what tests against a bare API server and people need.
var portablePrograms = []string{"kubectl", "etcd", apiServerName, "helm"}

// Binaries builds the programs that need neither root nor Linux (kubectl, etcd, kube-apiserver and helm)
// unless the cache has them, and returns the directory they are in, which envtest takes as KUBEBUILDER_ASSETS.
func (c *Cluster) Binaries(ctx context.Context) (string, error) {
	return c.BinDir(), c.ensureBinaries(ctx, portablePrograms)
}

// allPrograms are what a cluster with a node consists of.
var allPrograms = []string{kubeletName, apiServerName, controllerName, schedulerName, proxyName, "kubectl", "etcd", "helm"}

// ensureBinaries builds the binaries that the cache does not have yet. They are built one
// after the other: a build uses all processors by itself, and the names tell how far it is.
func (c *Cluster) ensureBinaries(ctx context.Context, names []string) error {
	if err := os.MkdirAll(c.BinDir(), 0o755); err != nil {
		return fmt.Errorf("creating the binary cache: %w", err)
	}
	unlock, err := lockFile(ctx, filepath.Join(c.BinDir(), ".lock"))
	if err != nil {
		return err
	}
	defer unlock()
	dir := filepath.Join(c.opts.SourceDir, filepath.FromSlash(kubernetesModule))
	for _, name := range names {
		version, args := c.versions.program(name)
		if err := c.ensureBinary(ctx, name, version, dir, args...); err != nil {
			return err
		}
	}
	return nil
}

// ensureBinary builds under another name and renames the result: a build that was interrupted leaves nothing.
func (c *Cluster) ensureBinary(ctx context.Context, name, version, dir string, args ...string) (err error) {
	if fileExists(c.bin(name)) {
		return nil
	}
	done := c.progress.step(fmt.Sprintf("building %s %s", name, version))
	defer func() { done(err) }()
	staged := c.bin("." + name)
	if err := goCommand(ctx, dir, append([]string{"build", "-o", staged}, args...)...); err != nil {
		return fmt.Errorf("building %s: %w", name, err)
	}
	if err := os.Rename(staged, c.bin(name)); err != nil {
		return fmt.Errorf("building %s: %w", name, err)
	}
	return nil
}

// goCommand runs the go tool for static binaries of this machine, outside of any workspace.
func goCommand(ctx context.Context, dir string, args ...string) error {
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOWORK=off", "GOOS=", "GOARCH=")
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("go %s: %w\n%s", args[0], err, lastLines(string(out), 20))
	}
	return nil
}
