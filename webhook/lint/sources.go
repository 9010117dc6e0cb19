package lint

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"unicode/utf8"
)

const (
	stdinName = "-"
	// maxFile bounds a file, in bytes. Parsing takes some thirty times as much
	// memory; 25,000 live identities are 24 MiB.
	maxFile = 32 << 20
)

// extensions of the files that are looked for in a directory, as kubectl does.
var extensions = []string{".yaml", ".yml", ".json"}

// source is a file to be read.
type source struct {
	// name as the user wrote it, for messages.
	name string
	// stdin is set for standard input, else the file called name is read.
	stdin io.Reader
}

// find returns the files that the arguments stand for, in their order, and what
// is wrong with the other arguments.
func find(args []string, recursive bool, stdin io.Reader) ([]source, []error) {
	var found []source
	var errs []error
	add := func(s source) {
		if !slices.ContainsFunc(found, func(f source) bool { return f.name == s.name }) {
			found = append(found, s)
		}
	}
	for _, arg := range args {
		if arg == stdinName {
			add(source{name: stdinName, stdin: stdin})
			continue
		}
		info, err := os.Stat(arg)
		switch {
		case err != nil:
			errs = append(errs, err)
		case !info.IsDir():
			add(source{name: arg})
		default:
			files, err := within(arg, recursive)
			if err != nil {
				errs = append(errs, err)
			}
			for _, f := range files {
				add(source{name: f})
			}
		}
	}
	return found, errs
}

// within returns the manifests in a directory in lexical order.
func within(dir string, recursive bool) ([]string, error) {
	var files []string
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir() && path != dir && !recursive:
			return filepath.SkipDir
		case entry.IsDir() || !slices.Contains(extensions, filepath.Ext(path)):
			return nil
		}
		// A link to a directory is not followed, so that no loop is.
		if info, err := os.Stat(path); err != nil || info.IsDir() {
			return err
		}
		files = append(files, path)
		return nil
	})
	if err != nil {
		return files, fmt.Errorf("reading the directory: %w", err)
	}
	if len(files) == 0 {
		return nil, fmt.Errorf("%s: no files with the extensions %v%s", dir, extensions, map[bool]string{false: "; -R looks into the directories below"}[recursive])
	}
	return files, nil
}

// read returns the text of the file. Ctx ends waiting for standard input, which
// may be a terminal.
func (s source) read(ctx context.Context) ([]byte, error) {
	reader, name := s.stdin, "standard input"
	if reader == nil {
		name = s.name
		file, err := os.Open(s.name)
		if err != nil {
			return nil, err
		}
		defer file.Close()
		reader = file
	}
	text, err := readAll(ctx, io.LimitReader(reader, maxFile+1))
	if err == nil {
		err = problem(text)
	}
	if err == nil && s.stdin != nil && len(bytes.TrimSpace(text)) == 0 {
		err = errors.New("it is empty") // most likely the command before the pipe failed
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return bytes.TrimPrefix(text, []byte("\ufeff")), nil
}

// readAll is io.ReadAll until ctx ends; then the read is left to itself.
func readAll(ctx context.Context, reader io.Reader) ([]byte, error) {
	type result struct {
		text []byte
		err  error
	}
	done := make(chan result, 1)
	go func() {
		text, err := io.ReadAll(reader)
		done <- result{text, err}
	}()
	select {
	case r := <-done:
		return r.text, r.err
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// problem says why a file is not looked into.
func problem(text []byte) error {
	switch {
	case len(text) > maxFile:
		return fmt.Errorf("it has more than %d MiB: lint it in parts, such as one namespace at a time", maxFile>>20)
	case bytes.HasPrefix(text, []byte("\xff\xfe")), bytes.HasPrefix(text, []byte("\xfe\xff")):
		return errors.New("it is UTF-16: save it as UTF-8")
	case bytes.IndexByte(text, 0) >= 0 || !utf8.Valid(text):
		return errors.New("it is not text in UTF-8, so neither YAML nor JSON")
	}
	return nil
}
