// Package image assembles container images without a container engine or a
// registry: a static Go binary built from source, files of Debian packages
// installed on this machine, and a few files every image needs.
//
// A [Spec] says what goes into an image, [Builder.Build] makes it. The same
// inputs always give the same digest: entries are sorted, times are zero and
// owners are root, so an image that is already loaded can be recognised.
package image

import (
	"context"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// NonRoot is the user of images that do not say otherwise, the number that
// distroless images use for it.
const NonRoot = "65532:65532"

// Spec describes one image.
type Spec struct {
	// Name is the full reference with a tag, as pods name it: mcr.microsoft.com/oss/azure/aad-pod-identity/mic:v1.9.0.
	Name string
	// GoPackage is the main package to build: an import path or a path relative to ModuleDir ("./mic").
	// Empty for an image without a binary of ours.
	GoPackage string
	// ModuleDir is the directory of the module to build in, relative to the source root. Default: the root module.
	ModuleDir string
	// Pinned says that the module consists of pinned versions only: its binary is rebuilt
	// when go.mod, go.sum or a Go file of ModuleDir changes, without asking the go tool.
	Pinned bool
	// LDFlags are added to the linker flags "-s -w".
	LDFlags string
	// Path of the binary in the image. Default: "/" and the last element of GoPackage.
	Path string
	// Entrypoint defaults to Path. Cmd are its default arguments.
	Entrypoint, Cmd []string
	// User defaults to NonRoot.
	User string
	Env  []string
	// DebianPackages are installed packages whose programs and libraries go into the image,
	// with the shared libraries that they need, wherever these come from.
	DebianPackages []string
	// Files are added last.
	Files []File
}

// File is one file or link of an image.
type File struct {
	// Path in the image, absolute.
	Path string
	// Source is the file on this machine that is copied; without it Content is written.
	Source  string
	Content []byte
	// Link makes it a symbolic link to this target.
	Link string
	// Mode of a regular file. Default: that of Source, or 0644.
	Mode os.FileMode
	// Dir makes it a directory of mode Mode.
	Dir bool
}

// BinaryPath is where the binary of s lies in the image.
func (s Spec) BinaryPath() string {
	if s.Path != "" || s.GoPackage == "" {
		return s.Path
	}
	return "/" + path.Base(filepath.ToSlash(s.GoPackage))
}

// Builder builds images.
type Builder struct {
	// SourceDir is the root of this repository.
	SourceDir string
	// CacheDir keeps built binaries between runs.
	CacheDir string
	// Step is told about long steps; it returns the function that ends one. Optional.
	Step func(name string) (done func(error))
}

func (b *Builder) step(name string) func(error) {
	if b.Step == nil {
		return func(error) {}
	}
	return b.Step(name)
}

// Build makes the image that spec describes.
func (b *Builder) Build(ctx context.Context, spec Spec) (v1.Image, error) {
	images, err := b.BuildAll(ctx, spec)
	if err != nil {
		return nil, err
	}
	return images[0], nil
}

// BuildAll makes several images; binaries of one module are built together, which is faster.
func (b *Builder) BuildAll(ctx context.Context, specs ...Spec) ([]v1.Image, error) {
	binaries, err := b.binaries(ctx, specs)
	if err != nil {
		return nil, err
	}
	images := make([]v1.Image, len(specs))
	for i, spec := range specs {
		if images[i], err = assemble(ctx, spec, binaries[i]); err != nil {
			return nil, fmt.Errorf("assembling image %s: %w", spec.Name, err)
		}
	}
	return images, nil
}

// assemble puts rarely changing files into a layer of their own, so that a new binary replaces one layer only.
func assemble(ctx context.Context, spec Spec, binary string) (v1.Image, error) {
	base := baseFiles()
	if len(spec.DebianPackages) > 0 {
		files, err := debianFiles(ctx, spec.DebianPackages)
		if err != nil {
			return nil, err
		}
		base = append(base, files...)
	}
	groups := [][]File{base}
	if binary != "" {
		groups = append(groups, []File{{Path: spec.BinaryPath(), Source: binary, Mode: 0o755}})
	}
	if len(spec.Files) > 0 {
		groups = append(groups, spec.Files)
	}
	image := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	for _, files := range groups {
		layer, err := newLayer(files)
		if err != nil {
			return nil, err
		}
		if image, err = mutate.AppendLayers(image, layer); err != nil {
			return nil, fmt.Errorf("appending a layer: %w", err)
		}
	}
	config, err := image.ConfigFile()
	if err != nil {
		return nil, fmt.Errorf("reading the image's configuration: %w", err)
	}
	config = config.DeepCopy()
	config.OS, config.Architecture = "linux", runtime.GOARCH
	config.Created = v1.Time{Time: time.Unix(0, 0).UTC()}
	config.Config = v1.Config{
		User:       spec.User,
		Entrypoint: spec.Entrypoint,
		Cmd:        spec.Cmd,
		WorkingDir: "/",
		Env:        append([]string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}, spec.Env...),
	}
	if config.Config.User == "" {
		config.Config.User = NonRoot
	}
	if len(spec.Entrypoint) == 0 && spec.BinaryPath() != "" {
		config.Config.Entrypoint = []string{spec.BinaryPath()}
	}
	if image, err = mutate.ConfigFile(image, config); err != nil {
		return nil, fmt.Errorf("writing the image's configuration: %w", err)
	}
	return image, nil
}

// certificateBundle is where Debian keeps the CA certificates, and the first place where Go looks for them.
const certificateBundle = "/etc/ssl/certs/ca-certificates.crt"

// baseFiles are in every image: users, a place for temporary files, and the machine's CA certificates if it has any.
func baseFiles() []File {
	files := []File{
		{Path: "/etc/passwd", Content: []byte("root:x:0:0:root:/root:/sbin/nologin\nnonroot:x:65532:65532:nonroot:/home/nonroot:/sbin/nologin\n")},
		{Path: "/etc/group", Content: []byte("root:x:0:\nnonroot:x:65532:\n")},
		{Path: "/tmp", Dir: true, Mode: os.ModeSticky | 0o777},
		{Path: "/run", Dir: true, Mode: 0o755},
	}
	if _, err := os.Stat(certificateBundle); err == nil {
		files = append(files, File{Path: certificateBundle, Source: certificateBundle, Mode: 0o644})
	}
	return files
}
