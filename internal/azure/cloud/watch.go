package cloud

import (
	"context"
	"crypto/sha256"
	"maps"
	"os"
	"time"
)

// Files are the contents of configuration files at one time, as digests by path.
type Files map[string][sha256.Size]byte

// ReadFiles takes the digests of files. What is missing or empty, as while it is
// being replaced, is left out, and so are empty paths.
func ReadFiles(paths ...string) Files {
	files := Files{}
	for _, path := range paths {
		if raw, err := os.ReadFile(path); path != "" && err == nil && len(raw) > 0 {
			files[path] = sha256.Sum256(raw)
		}
	}
	return files
}

// changed says whether a file has another content than in old. One that is
// missing for a while has not.
func (f Files) changed(old Files) bool {
	for path, now := range f {
		if before, ok := old[path]; !ok || before != now {
			return true
		}
	}
	return false
}

// Watch calls use whenever one of the files has another content than at first in
// seen, until ctx ends. If use says that it could not use them, it is called
// again after the next interval.
//
// Watch reads the files rather than waiting for notifications: those miss a file
// that is replaced by rename, a symbolic link that is turned (as in mounted
// Secrets and ConfigMaps) and changes of network file systems.
func Watch(ctx context.Context, paths []string, seen Files, interval time.Duration, use func() bool) {
	seen = maps.Clone(seen)
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		// Before they are used: what changes in between is seen the next time.
		if now := ReadFiles(paths...); now.changed(seen) && use() {
			maps.Copy(seen, now)
		}
	}
}
