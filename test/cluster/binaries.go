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

// helmVersion is the Helm that installs charts into the cluster.
const helmVersion = "v3.22.0"

// kubernetesModule is the nested module that pins Kubernetes and etcd, relative to the source root.
const kubernetesModule = "test/cluster/binaries/kubernetes"

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
	v := versions{helm: helmVersion}
	for _, r := range file.Require {
		switch r.Mod.Path {
		case "k8s.io/kubernetes":
			v.kubernetes = r.Mod.Version
		case "go.etcd.io/etcd/server/v3":
			v.etcd = r.Mod.Version
		}
	}
	if v.kubernetes == "" || v.etcd == "" {
		return versions{}, fmt.Errorf("%s/go.mod requires neither k8s.io/kubernetes nor etcd's server", kubernetesModule)
	}
	h := sha256.New()
	fmt.Fprintf(h, "%s\n%s\n%s\n%s", mod, sum, v.helm, strings.Join(kubernetesFlags(v.kubernetes), " "))
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
		var err error
		switch name {
		case "helm":
			err = c.ensureHelm(ctx)
		case "etcd":
			err = c.ensureBinary(ctx, name, c.versions.etcd, dir, "-trimpath", "-ldflags", "-s -w", "go.etcd.io/etcd/server/v3")
		default:
			err = c.ensureBinary(ctx, name, c.versions.kubernetes, dir, append(kubernetesFlags(c.versions.kubernetes), "k8s.io/kubernetes/cmd/"+name)...)
		}
		if err != nil {
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
	if err := goCommand(ctx, dir, nil, append([]string{"build", "-o", staged}, args...)...); err != nil {
		return fmt.Errorf("building %s: %w", name, err)
	}
	if err := os.Rename(staged, c.bin(name)); err != nil {
		return fmt.Errorf("building %s: %w", name, err)
	}
	return nil
}

// ensureHelm uses go install: Helm's module holds a main and may have replace directives only at its own root.
func (c *Cluster) ensureHelm(ctx context.Context) (err error) {
	if fileExists(c.bin("helm")) {
		return nil
	}
	done := c.progress.step("building helm " + c.versions.helm)
	defer func() { done(err) }()
	staging, err := os.MkdirTemp(c.BinDir(), ".helm-")
	if err != nil {
		return fmt.Errorf("building helm: %w", err)
	}
	defer func() { _ = os.RemoveAll(staging) }()
	version := "-X helm.sh/helm/v3/internal/version.version=" + c.versions.helm
	if err := goCommand(ctx, staging, []string{"GOBIN=" + staging}, "install", "-trimpath", "-ldflags", "-s -w "+version,
		"helm.sh/helm/v3/cmd/helm@"+c.versions.helm); err != nil {
		return fmt.Errorf("building helm: %w", err)
	}
	if err := os.Rename(filepath.Join(staging, "helm"), c.bin("helm")); err != nil {
		return fmt.Errorf("building helm: %w", err)
	}
	return nil
}

// goCommand runs the go tool for static binaries of this machine, outside of any workspace.
func goCommand(ctx context.Context, dir string, env []string, args ...string) error {
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir = dir
	cmd.Env = append(append(os.Environ(), "CGO_ENABLED=0", "GOWORK=off", "GOOS=", "GOARCH="), env...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("go %s: %w\n%s", args[0], err, lastLines(string(out), 20))
	}
	return nil
}
