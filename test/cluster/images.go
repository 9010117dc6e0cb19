package cluster

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	ocilayout "github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/aad-pod-identity/aad-pod-identity/test/cluster/image"
)

// LoadImages builds images and imports those that containerd does not have yet in this form.
// Pods use them with imagePullPolicy IfNotPresent or Never; a running pod keeps the
// image it was started with until it is replaced.
func (c *Cluster) LoadImages(ctx context.Context, specs ...image.Spec) error {
	if err := requireRootOnLinux("load images"); err != nil {
		return err
	}
	return c.loadImages(ctx, specs...)
}

// CompileBaseImages builds the binaries of the cluster's own images ahead of Up; that needs neither root nor Linux.
func (c *Cluster) CompileBaseImages(ctx context.Context) error {
	return c.builder.Compile(ctx, c.baseImages()...)
}

func (c *Cluster) loadImages(ctx context.Context, specs ...image.Spec) error {
	built, err := c.builder.BuildAll(ctx, specs...)
	if err != nil {
		return err
	}
	listed, err := c.ctr(ctx, "images", "list")
	if err != nil {
		return fmt.Errorf("listing images: %w", err)
	}
	have := parseImageList(listed)
	var missing []namedImage
	var names []string
	for i, img := range built {
		digest, err := img.Digest()
		if err != nil {
			return fmt.Errorf("computing the digest of %s: %w", specs[i].Name, err)
		}
		if have[specs[i].Name] == digest.String() {
			continue
		}
		missing = append(missing, namedImage{specs[i].Name, img})
		names = append(names, specs[i].Name[strings.LastIndex(specs[i].Name, "/")+1:])
	}
	if len(missing) == 0 {
		return nil
	}
	done := c.progress.step("loading images " + strings.Join(names, " "))
	err = c.importImages(ctx, missing)
	done(err)
	if err != nil {
		return fmt.Errorf("loading images: %w", err)
	}
	return nil
}

type namedImage struct {
	name  string
	image v1.Image
}

// parseImageList maps references to digests as `ctr images list` prints them.
func parseImageList(text string) map[string]string {
	images := map[string]string{}
	for line := range strings.Lines(text) {
		const digestColumn = 2
		if fields := strings.Fields(line); len(fields) > digestColumn && strings.HasPrefix(fields[digestColumn], "sha256:") {
			images[fields[0]] = fields[digestColumn]
		}
	}
	return images
}

// importImages hands images to containerd as one OCI archive; the annotation gives each its full name.
func (c *Cluster) importImages(ctx context.Context, images []namedImage) (err error) {
	dir, err := os.MkdirTemp(c.paths.root, "import-")
	if err != nil {
		return fmt.Errorf("creating a temporary directory: %w", err)
	}
	defer func() {
		if rerr := os.RemoveAll(dir); err == nil {
			err = rerr
		}
	}()
	path, err := ocilayout.Write(dir, mutate.IndexMediaType(empty.Index, types.OCIImageIndex))
	if err != nil {
		return fmt.Errorf("writing an OCI layout: %w", err)
	}
	for _, i := range images {
		if err := path.AppendImage(i.image, ocilayout.WithAnnotations(map[string]string{"io.containerd.image.name": i.name})); err != nil {
			return fmt.Errorf("writing %s: %w", i.name, err)
		}
	}
	cmd := exec.CommandContext(ctx, "ctr", "--address", c.paths.containerdSocket(), "--namespace", "k8s.io", "images", "import", "-")
	reader, writer := io.Pipe()
	cmd.Stdin = reader
	go func() { writer.CloseWithError(writeTar(writer, dir)) }()
	text, err := cmd.CombinedOutput()
	_ = reader.CloseWithError(errors.New("ctr has ended"))
	if err != nil {
		return fmt.Errorf("ctr images import: %w: %s", err, strings.TrimSpace(string(text)))
	}
	return nil
}

// writeTar writes the files below dir as a tar archive.
func writeTar(out io.Writer, dir string) error {
	w := tar.NewWriter(out)
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		name, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		if err := w.WriteHeader(&tar.Header{Name: filepath.ToSlash(name), Size: info.Size(), Mode: 0o644, Typeflag: tar.TypeReg}); err != nil {
			return err
		}
		file, err := os.Open(path)
		if err != nil {
			return err
		}
		defer func() { _ = file.Close() }()
		_, err = io.Copy(w, file)
		return err
	})
	if err != nil {
		return fmt.Errorf("writing an archive of %s: %w", dir, err)
	}
	return w.Close()
}
