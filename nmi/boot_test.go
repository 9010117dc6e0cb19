package main

import (
	"os"
	"path/filepath"
	"testing"
	"time"
)

func TestBootTime(t *testing.T) {
	tests := map[string]struct {
		stat string
		want time.Time
		ok   bool
	}{
		"as the kernel has it": {"cpu  1 2 3\nctxt 1990473\nbtime 1062191376\nprocesses 2915\n", time.Unix(1062191376, 0), true},
		"no line":              {"cpu  1 2 3\n", time.Time{}, false},
		"no number":            {"btime soon\n", time.Time{}, false},
		"no time":              {"btime 0\n", time.Time{}, false},
		"empty":                {"", time.Time{}, false},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "stat")
			if err := os.WriteFile(file, []byte(tc.stat), 0o600); err != nil {
				t.Fatal(err)
			}
			got, err := bootTime(file)
			if !got.Equal(tc.want) || (err == nil) != tc.ok {
				t.Errorf("%v, error %v", got, err)
			}
		})
	}
	if _, err := bootTime(filepath.Join(t.TempDir(), "none")); err == nil {
		t.Error("no file: no error")
	}
	if now, err := bootTime("/proc/stat"); err != nil || !now.Before(time.Now()) {
		t.Errorf("this machine: %v, error %v", now, err)
	}
}
