package cluster

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"strings"
	"time"

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
	fmt.Fprintf(h, "%s\n%s\n%s", mod, sum, v.linkerFlags())
	v.modules = hex.EncodeToString(h.Sum(nil))[:8]
	return v, nil
}

// linkerFlags stamp the versions: kubectl and Helm refuse a server that does not tell its own. One set serves
// all programs, for the linker leaves out what a program does not have.
func (v versions) linkerFlags() string {
	major, rest, _ := strings.Cut(strings.TrimPrefix(v.kubernetes, "v"), ".")
	minor, _, _ := strings.Cut(rest, ".")
	const pkg = "k8s.io/component-base/version"
	return fmt.Sprintf("-s -w -X %[1]s.gitVersion=%s -X %[1]s.gitMajor=%s -X %[1]s.gitMinor=%s -X %s/internal/version.version=%s",
		pkg, v.kubernetes, major, minor, helmModule, v.helm)
}

// programPackage is the main package of a program.
func programPackage(name string) string {
	switch name {
	case "helm":
		return helmModule + "/cmd/helm"
	case "etcd":
		return "go.etcd.io/etcd/server/v3"
	default:
		return "k8s.io/kubernetes/cmd/" + name
	}
}

// builtName is what go build calls the program of a main package: its last element that is no major version.
func builtName(pkg string) string {
	if dir, last := path.Split(pkg); majorVersion.MatchString(last) {
		return path.Base(dir)
	}
	return path.Base(pkg)
}

var majorVersion = regexp.MustCompile(`^v[0-9]+$`)

// portablePrograms run without a node, on any system: what tests against a bare API server and people need.
var portablePrograms = []string{"kubectl", "etcd", apiServerName, "helm"}

// Binaries builds the programs that need neither root nor Linux (kubectl, etcd, kube-apiserver and helm)
// unless the cache has them, and returns the directory they are in, which envtest takes as KUBEBUILDER_ASSETS.
func (c *Cluster) Binaries(ctx context.Context) (string, error) {
	return c.BinDir(), c.ensureBinaries(ctx, portablePrograms)
}

// AllBinaries is [Cluster.Binaries] with those of a node: one build of all takes less time than two.
func (c *Cluster) AllBinaries(ctx context.Context) (string, error) {
	return c.BinDir(), c.ensureBinaries(ctx, allPrograms)
}

// allPrograms are what a cluster with a node consists of.
var allPrograms = []string{kubeletName, apiServerName, controllerName, schedulerName, proxyName, "kubectl", "etcd", "helm"}

// ensureBinaries builds the binaries that the cache does not have yet, all at once: while one is linked, which
// takes one processor, the packages of another are compiled. They are built in a directory of their own and
// renamed: a build that was interrupted leaves nothing that looks finished.
func (c *Cluster) ensureBinaries(ctx context.Context, names []string) (err error) {
	if err := os.MkdirAll(c.BinDir(), 0o755); err != nil {
		return fmt.Errorf("creating the binary cache: %w", err)
	}
	unlock, err := lockFile(ctx, filepath.Join(c.BinDir(), ".lock"))
	if err != nil {
		return err
	}
	defer unlock()
	var missing []string
	for _, name := range names {
		if !fileExists(c.bin(name)) {
			missing = append(missing, name)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	done := c.progress.step(fmt.Sprintf("building %s (Kubernetes %s, etcd %s, Helm %s)",
		strings.Join(missing, ", "), c.versions.kubernetes, c.versions.etcd, c.versions.helm))
	defer func() { done(err) }()
	staged, err := os.MkdirTemp(c.BinDir(), ".new-")
	if err != nil {
		return fmt.Errorf("creating a directory to build in: %w", err)
	}
	defer func() {
		if rerr := os.RemoveAll(staged); err == nil {
			err = rerr
		}
	}()
	args := []string{"build", "-trimpath", "-ldflags", c.versions.linkerFlags(), "-o", staged + string(filepath.Separator)}
	for _, name := range missing {
		args = append(args, programPackage(name))
	}
	dir := filepath.Join(c.opts.SourceDir, filepath.FromSlash(kubernetesModule))
	if err := c.goBuild(ctx, dir, args...); err != nil {
		return fmt.Errorf("building %s: %w", strings.Join(missing, ", "), err)
	}
	for _, name := range missing {
		if err := os.Rename(filepath.Join(staged, builtName(programPackage(name))), c.bin(name)); err != nil {
			return fmt.Errorf("building %s: %w", name, err)
		}
	}
	return nil
}

// reportEvery is how often a long build says how far it is.
const reportEvery = 30 * time.Second

// goBuild runs a build that takes minutes: it says now and then how many packages are done.
func (c *Cluster) goBuild(ctx context.Context, dir string, args ...string) error {
	cmd := goTool(ctx, dir, append([]string{args[0], "-v"}, args[1:]...)...)
	output, err := cmd.StderrPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("go %s: %w", args[0], err)
	}
	var text strings.Builder
	start, reported, packages := time.Now(), time.Now(), 0
	for lines := bufio.NewScanner(output); lines.Scan(); {
		fmt.Fprintln(&text, lines.Text())
		if strings.ContainsAny(lines.Text(), " :") {
			continue // a download or an error, not the name of a package
		}
		packages++
		if time.Since(reported) > reportEvery {
			reported = time.Now()
			c.progress.printf("    %d packages compiled (%s)", packages, roundDuration(time.Since(start)))
		}
	}
	if _, err := io.Copy(&text, output); err != nil { // what follows a line that was too long
		return fmt.Errorf("reading the output of go %s: %w", args[0], err)
	}
	if err := cmd.Wait(); err != nil {
		return fmt.Errorf("go %s: %w\n%s", args[0], err, lastLines(text.String(), 20))
	}
	return nil
}

// goTool is the go tool for static binaries of this machine, outside of any workspace.
func goTool(ctx context.Context, dir string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir = dir
	// The compiler collects garbage less often, which saves a tenth of its time for a few hundred MiB.
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOWORK=off", "GOOS=", "GOARCH=", "GOGC=400")
	return cmd
}
