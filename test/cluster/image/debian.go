package image

import (
	"bytes"
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// debianFiles collects the programs, libraries and configuration of installed packages, the
// shared libraries these load, and the links that update-alternatives made to them.
func debianFiles(ctx context.Context, packages []string) ([]File, error) {
	c := &collector{ctx: ctx, files: map[string]File{}, needs: map[string]struct{}{}}
	for _, p := range packages {
		listed, err := output(ctx, "dpkg-query", "--listfiles", p)
		if err != nil {
			return nil, fmt.Errorf("listing files of the Debian package %s (is it installed?): %w", p, err)
		}
		for line := range strings.Lines(listed) {
			if file := strings.TrimSpace(line); wanted(file) {
				if err := c.add(file); err != nil {
					return nil, fmt.Errorf("package %s: %w", p, err)
				}
			}
		}
	}
	for len(c.dynamic) > 0 {
		if err := c.addLibraries(); err != nil {
			return nil, err
		}
	}
	if err := c.addAlternatives("/usr/bin", "/usr/sbin"); err != nil {
		return nil, err
	}
	// Merged-/usr systems, and the loader's name compiled into every program, need these.
	for _, dir := range []string{"/bin", "/sbin", "/lib", "/lib64"} {
		if target, err := os.Readlink(dir); err == nil {
			c.files[dir] = File{Path: dir, Link: target}
		}
	}
	files := make([]File, 0, len(c.files))
	for _, f := range c.files {
		files = append(files, f)
	}
	slices.SortFunc(files, func(a, b File) int { return strings.Compare(a.Path, b.Path) })
	return files, nil
}

// wanted leaves out what only people or a package manager read.
func wanted(file string) bool {
	for _, dir := range []string{"/usr/share/doc/", "/usr/share/man/", "/usr/share/locale/", "/usr/share/lintian/", "/usr/share/bug/",
		"/usr/share/bash-completion/", "/usr/share/info/", "/lib/systemd/", "/usr/lib/systemd/", "/etc/init.d/"} {
		if strings.HasPrefix(file, dir) {
			return false
		}
	}
	return true
}

type collector struct {
	ctx   context.Context
	files map[string]File
	// dynamic are programs and libraries of which the libraries are not collected yet: one
	// for all that need the same, since ldd runs each and iptables has 120 of a kind.
	dynamic []string
	needs   map[string]struct{}
}

// add takes a regular file, or a link with its target; directories come by themselves.
func (c *collector) add(file string) error {
	dir, err := filepath.EvalSymlinks(filepath.Dir(file))
	if errors.Is(err, fs.ErrNotExist) {
		return nil // excluded when the package was installed (dpkg's path-exclude)
	}
	if err != nil {
		return fmt.Errorf("resolving %s: %w", file, err)
	}
	resolved := filepath.Join(dir, filepath.Base(file))
	info, err := os.Lstat(resolved)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return fmt.Errorf("looking at %s: %w", resolved, err)
	case info.IsDir():
		return nil
	}
	if _, ok := c.files[resolved]; ok {
		return nil
	}
	if info.Mode()&fs.ModeSymlink != 0 {
		target, err := os.Readlink(resolved)
		if err != nil {
			return fmt.Errorf("reading the link %s: %w", resolved, err)
		}
		c.files[resolved] = File{Path: resolved, Link: target}
		if !filepath.IsAbs(target) {
			target = filepath.Join(dir, target)
		}
		return c.add(target)
	}
	if !info.Mode().IsRegular() {
		return nil
	}
	c.files[resolved] = File{Path: resolved, Source: resolved}
	needs, err := neededLibraries(resolved)
	if err != nil {
		return err
	}
	if _, known := c.needs[needs]; needs != "" && !known {
		c.needs[needs] = struct{}{}
		c.dynamic = append(c.dynamic, resolved)
	}
	return nil
}

// neededLibraries is the same for files that load the same libraries from the same places,
// and empty for one that loads none.
func neededLibraries(file string) (string, error) {
	binary, err := elf.Open(file)
	if err != nil {
		if _, ok := errors.AsType[*elf.FormatError](err); ok {
			return "", nil // a script or data
		}
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return "", nil // too short to be one
		}
		return "", fmt.Errorf("reading %s: %w", file, err)
	}
	defer func() { _ = binary.Close() }()
	var needs []string
	for _, tag := range []elf.DynTag{elf.DT_NEEDED, elf.DT_RPATH, elf.DT_RUNPATH} {
		values, err := binary.DynString(tag)
		if err != nil {
			return "", fmt.Errorf("reading what %s loads: %w", file, err)
		}
		if tag == elf.DT_NEEDED && len(values) == 0 {
			return "", nil
		}
		needs = append(needs, tag.String()+"="+strings.Join(values, ","))
		if tag != elf.DT_NEEDED && len(values) > 0 {
			needs = append(needs, filepath.Dir(file)) // $ORIGIN
		}
	}
	return binary.Class.String() + " " + strings.Join(needs, " "), nil
}

// addLibraries adds what the dynamic linker would load for the collected programs and
// libraries.
func (c *collector) addLibraries() error {
	files := c.dynamic
	c.dynamic = nil
	listed, err := output(c.ctx, "ldd", files...)
	if err != nil {
		return fmt.Errorf("finding libraries: %w", err)
	}
	found, err := parseLDD(listed)
	if err != nil {
		return fmt.Errorf("finding libraries: %w", err)
	}
	for _, library := range found {
		if err := c.add(library); err != nil {
			return err
		}
	}
	return nil
}

// parseLDD returns the absolute paths of libraries in ldd's output about one file, or about
// several, each after a line with its name; a library that is missing is an error.
func parseLDD(text string) ([]string, error) {
	var paths []string
	of := ""
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if strings.HasSuffix(line, ":") {
			of = line + " "
			continue
		}
		if strings.Contains(line, "not found") {
			return nil, fmt.Errorf("%s%s", of, line)
		}
		if _, after, ok := strings.Cut(line, "=> "); ok {
			line = after
		}
		if file, _, _ := strings.Cut(line, " "); filepath.IsAbs(file) {
			paths = append(paths, file)
		}
	}
	return paths, nil
}

// addAlternatives adds the links in dirs that lead through /etc/alternatives to a collected file,
// with the final file as their direct target.
func (c *collector) addAlternatives(dirs ...string) error {
	for _, dir := range dirs {
		entries, err := os.ReadDir(dir)
		if err != nil {
			return fmt.Errorf("listing %s: %w", dir, err)
		}
		for _, e := range entries {
			link := filepath.Join(dir, e.Name())
			target, err := os.Readlink(link)
			if err != nil || !strings.HasPrefix(target, "/etc/alternatives/") {
				continue
			}
			next, err := os.Readlink(target)
			if err != nil {
				continue // a dangling alternative is nobody's program
			}
			if _, ok := c.files[next]; ok {
				c.files[link] = File{Path: link, Link: next}
			}
		}
	}
	return nil
}

func output(ctx context.Context, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, strings.TrimSpace(stderr.String()))
	}
	return string(out), nil
}
