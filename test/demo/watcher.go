package main

import (
	"bytes"
	"strings"
	"sync"
)

// watcher collects the output of a command that would run for ever, and ends it
// once a text has come.
type watcher struct {
	until string
	done  func()

	mu  sync.Mutex
	buf bytes.Buffer
}

// Write implements io.Writer.
func (w *watcher) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.buf.Write(p)
	if strings.Contains(w.buf.String(), w.until) {
		w.done()
	}
	return len(p), nil
}

// String returns what came so far.
func (w *watcher) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.buf.String()
}
