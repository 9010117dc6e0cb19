package cloud

import (
	"context"
	"crypto/sha256"
	"os"
	"time"
)

// Watch calls changed whenever the content of a file is another than before,
// until ctx ends. It reads the file every interval rather than waiting for
// notifications: those miss a file that is replaced by rename, a symbolic link
// that is turned (as in mounted ConfigMaps) and changes of network file
// systems. A file that is missing for a while counts as unchanged.
func Watch(ctx context.Context, path string, interval time.Duration, changed func()) {
	last, _ := digest(path)
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		if now, ok := digest(path); ok && now != last {
			last = now
			changed()
		}
	}
}

func digest(path string) ([sha256.Size]byte, bool) {
	raw, err := os.ReadFile(path)
	if err != nil || len(raw) == 0 {
		return [sha256.Size]byte{}, false
	}
	return sha256.Sum256(raw), true
}
