package image

import (
	"archive/tar"
	"bytes"
	"fmt"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// newLayer makes an uncompressed layer: it never crosses a network, and unpacking is faster without.
func newLayer(files []File) (v1.Layer, error) {
	archive, err := archive(files)
	if err != nil {
		return nil, err
	}
	return static.NewLayer(archive, types.OCIUncompressedLayer), nil
}

// archive writes files as a tar archive that depends on nothing but their paths, modes and contents.
// Parent directories are added; of two files with one path the later wins.
func archive(files []File) ([]byte, error) {
	byPath := map[string]File{}
	for _, f := range files {
		if !path.IsAbs(f.Path) || path.Clean(f.Path) != f.Path {
			return nil, fmt.Errorf("path %q in an image is not absolute and clean", f.Path)
		}
		byPath[f.Path] = f
		for dir := path.Dir(f.Path); dir != "/"; dir = path.Dir(dir) {
			if _, ok := byPath[dir]; !ok {
				byPath[dir] = File{Path: dir, Dir: true, Mode: 0o755}
			}
		}
	}
	paths := make([]string, 0, len(byPath))
	for p := range byPath {
		paths = append(paths, p)
	}
	slices.Sort(paths) // a directory sorts before what is in it
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for _, p := range paths {
		if err := write(w, byPath[p]); err != nil {
			return nil, fmt.Errorf("adding %s: %w", p, err)
		}
	}
	if err := w.Close(); err != nil {
		return nil, fmt.Errorf("finishing a layer: %w", err)
	}
	return out.Bytes(), nil
}

func write(w *tar.Writer, f File) error {
	header := &tar.Header{
		Name:    strings.TrimPrefix(f.Path, "/"),
		ModTime: time.Unix(0, 0),
		Format:  tar.FormatPAX,
	}
	switch {
	case f.Dir:
		header.Typeflag, header.Name, header.Mode = tar.TypeDir, header.Name+"/", tarMode(f.Mode)
		return w.WriteHeader(header)
	case f.Link != "":
		header.Typeflag, header.Linkname, header.Mode = tar.TypeSymlink, f.Link, 0o777
		return w.WriteHeader(header)
	}
	content, mode := f.Content, f.Mode
	if f.Source != "" {
		info, err := os.Stat(f.Source)
		if err != nil {
			return err
		}
		if mode == 0 {
			mode = info.Mode()
		}
		if content, err = os.ReadFile(f.Source); err != nil {
			return err
		}
	}
	if mode == 0 {
		mode = 0o644
	}
	header.Typeflag, header.Mode, header.Size = tar.TypeReg, tarMode(mode), int64(len(content))
	if err := w.WriteHeader(header); err != nil {
		return err
	}
	_, err := w.Write(content)
	return err
}

// tarMode keeps permissions and the sticky bit; nothing in our images needs set-uid.
func tarMode(mode os.FileMode) int64 {
	bits := int64(mode.Perm())
	if mode&os.ModeSticky != 0 {
		bits |= 0o1000
	}
	return bits
}
