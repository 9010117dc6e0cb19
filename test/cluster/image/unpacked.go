package image

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
)

// UnpackDebian returns the files of Debian packages and of all that these depend on,
// but bash, coreutils and their like only if they are named. Nothing is installed: the
// packages are downloaded and unpacked. WantedPath says which paths are taken, without
// what only people read.
func UnpackDebian(ctx context.Context, packages []string, wantedPath func(string) bool) ([]File, error) {
	// A new one each time: one that is kept would have several versions of a package.
	dir, err := os.MkdirTemp("", "debian-packages-")
	if err != nil {
		return nil, fmt.Errorf("making a directory for Debian packages: %w", err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	if _, err := output(ctx, "apt-get", "update", "-qq"); err != nil {
		return nil, fmt.Errorf("updating the lists of Debian packages: %w", err)
	}
	// Without a status file apt takes nothing for installed.
	_, err = output(ctx, "apt-get", append([]string{
		"-o", "Dir::State::status=/dev/null", "-o", "Dir::Cache::archives=" + dir, "-o", "APT::Sandbox::User=root",
		"-qq", "-y", "--no-install-recommends", "--download-only", "install",
	}, packages...)...)
	if err != nil {
		return nil, fmt.Errorf("downloading Debian packages: %w", err)
	}
	archives, err := filepath.Glob(filepath.Join(dir, "*.deb"))
	if err != nil {
		return nil, fmt.Errorf("listing Debian packages: %w", err)
	}
	var files []File
	for _, a := range archives {
		unpacked, err := unpack(ctx, a, wantedPath)
		if err != nil {
			return nil, fmt.Errorf("unpacking %s: %w", filepath.Base(a), err)
		}
		files = append(files, unpacked...)
	}
	return files, nil
}

func unpack(ctx context.Context, archive string, wantedPath func(string) bool) ([]File, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	cmd := exec.CommandContext(ctx, "dpkg-deb", "--fsys-tarfile", archive)
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	files, err := filesOf(stdout, wantedPath)
	if err != nil {
		cancel()
	}
	return files, errors.Join(err, cmd.Wait())
}

// filesOf reads a tar archive; directories come by themselves.
func filesOf(archive io.Reader, wantedPath func(string) bool) ([]File, error) {
	var files []File
	r := tar.NewReader(archive)
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return files, nil
		}
		if err != nil {
			return nil, err
		}
		f := File{Path: path.Join("/", h.Name), Mode: h.FileInfo().Mode()}
		if !wanted(f.Path) || !wantedPath(f.Path) {
			continue
		}
		switch h.Typeflag {
		case tar.TypeReg:
			if f.Content, err = io.ReadAll(r); err != nil {
				return nil, err
			}
		case tar.TypeSymlink:
			f.Link = h.Linkname
		case tar.TypeLink:
			f.Link = path.Join("/", h.Linkname)
		default:
			continue
		}
		files = append(files, f)
	}
}
