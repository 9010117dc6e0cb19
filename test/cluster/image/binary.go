package image

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"golang.org/x/mod/modfile"
)

// modulePath is the module of this repository.
const modulePath = "github.com/aad-pod-identity/aad-pod-identity"

// FindSource returns the root of this repository, searching from dir upwards.
func FindSource(dir string) (string, error) {
	start, err := filepath.Abs(dir)
	if err != nil {
		return "", fmt.Errorf("finding the source tree: %w", err)
	}
	for dir := start; ; dir = filepath.Dir(dir) {
		data, err := os.ReadFile(filepath.Join(dir, "go.mod"))
		if err == nil && modfile.ModulePath(data) == modulePath {
			return dir, nil
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return "", fmt.Errorf("finding the source tree: %w", err)
		}
		if dir == filepath.Dir(dir) {
			return "", fmt.Errorf("neither %s nor a directory above it holds the module %s; run from the source tree", start, modulePath)
		}
	}
}

// binaries builds the binaries of all specs and returns their paths, "" for a spec without one.
// Specs of one module with the same flags share one run of the go tool.
func (b *Builder) binaries(ctx context.Context, specs []Spec) ([]string, error) {
	paths := make([]string, len(specs))
	var groups []*group
	for i, spec := range specs {
		if spec.GoPackage == "" {
			continue
		}
		g := findGroup(&groups, spec)
		if !slices.Contains(g.packages, spec.GoPackage) {
			g.packages = append(g.packages, spec.GoPackage)
		}
		paths[i] = filepath.Join(b.outputDir(g), filepath.Base(spec.GoPackage))
		g.outputs = append(g.outputs, paths[i])
	}
	for _, g := range groups {
		if err := b.buildGroup(ctx, g); err != nil {
			return nil, err
		}
	}
	return paths, nil
}

// Compile builds the binaries of images ahead of time, so that making the images only packs them.
func (b *Builder) Compile(ctx context.Context, specs ...Spec) error {
	_, err := b.binaries(ctx, specs)
	return err
}

// group is one run of go build.
type group struct {
	moduleDir, ldflags string
	pinned             bool
	// variant tells groups apart that only exist because two binaries have one name.
	variant           int
	packages, outputs []string
}

func findGroup(groups *[]*group, spec Spec) *group {
	variant := 0
	for _, g := range *groups {
		if g.moduleDir != spec.ModuleDir || g.ldflags != spec.LDFlags || g.pinned != spec.Pinned {
			continue
		}
		clash := false
		for _, p := range g.packages {
			clash = clash || p != spec.GoPackage && filepath.Base(p) == filepath.Base(spec.GoPackage)
		}
		if !clash {
			return g
		}
		variant++
	}
	g := &group{moduleDir: spec.ModuleDir, ldflags: spec.LDFlags, pinned: spec.Pinned, variant: variant}
	*groups = append(*groups, g)
	return g
}

// BinaryDir is the directory below which binaries are built.
func (b *Builder) BinaryDir() string { return filepath.Join(b.CacheDir, "images") }

// outputDir is stable, because the go tool does not link again what is already there and up to date.
func (b *Builder) outputDir(g *group) string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%s %s %s %d", b.SourceDir, g.moduleDir, g.ldflags, g.variant))
	return filepath.Join(b.BinaryDir(), hex.EncodeToString(sum[:6]))
}

func (b *Builder) buildGroup(ctx context.Context, g *group) (err error) {
	dir := filepath.Join(b.SourceDir, filepath.FromSlash(g.moduleDir))
	out := b.outputDir(g)
	stamp := filepath.Join(out, ".stamp")
	key := ""
	if g.pinned {
		if key, err = moduleKey(dir); err != nil {
			return err
		}
		if have, err := os.ReadFile(stamp); err == nil && string(have) == key && allExist(g.outputs) {
			return nil
		}
	}
	if err := os.MkdirAll(out, 0o755); err != nil {
		return fmt.Errorf("creating the binary cache: %w", err)
	}
	done := b.step("building " + strings.Join(g.packages, " "))
	defer func() { done(err) }()
	args := append([]string{"build", "-trimpath", "-ldflags", strings.TrimSpace("-s -w " + g.ldflags), "-o", out + string(filepath.Separator)}, g.packages...)
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOWORK=off", "GOOS=linux", "GOARCH="+runtime.GOARCH)
	if text, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("building %s in %s: %w\n%s", strings.Join(g.packages, " "), dir, err, strings.TrimSpace(string(text)))
	}
	if !g.pinned {
		return nil
	}
	if err := os.WriteFile(stamp, []byte(key), 0o644); err != nil {
		return fmt.Errorf("recording what was built: %w", err)
	}
	return nil
}

// moduleKey changes with the pinned versions and sources of a module, and with the Go that builds it.
func moduleKey(dir string) (string, error) {
	h := sha256.New()
	fmt.Fprintln(h, runtime.Version())
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		if name := d.Name(); name != "go.mod" && name != "go.sum" && filepath.Ext(name) != ".go" {
			return nil
		}
		data, err := os.ReadFile(path)
		fmt.Fprintf(h, "%s %x\n", strings.TrimPrefix(path, dir), sha256.Sum256(data))
		return err
	})
	if err != nil {
		return "", fmt.Errorf("reading the module in %s: %w", dir, err)
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

func allExist(paths []string) bool {
	for _, p := range paths {
		if _, err := os.Stat(p); err != nil {
			return false
		}
	}
	return true
}
