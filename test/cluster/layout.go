package cluster

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
)

// layout names every file below the run directory.
type layout struct{ root string }

func (l layout) settings() string              { return filepath.Join(l.root, "cluster.json") }
func (l layout) lock() string                  { return l.root + ".lock" }
func (l layout) pki(file string) string        { return filepath.Join(l.root, "pki", file) }
func (l layout) config(file string) string     { return filepath.Join(l.root, "config", file) }
func (l layout) kubeconfig(user string) string { return filepath.Join(l.root, "kubeconfig", user) }
func (l layout) log(component string) string   { return filepath.Join(l.root, "log", component+".log") }
func (l layout) podLogs() string               { return filepath.Join(l.root, "log", "pods") }
func (l layout) pid(component string) string   { return filepath.Join(l.root, "pid", component) }
func (l layout) etcd() string                  { return filepath.Join(l.root, "etcd") }
func (l layout) kubelet() string               { return filepath.Join(l.root, "kubelet") }
func (l layout) cniConf() string               { return filepath.Join(l.root, "cni") }
func (l layout) cniState() string              { return filepath.Join(l.root, "ipam") }
func (l layout) containerdRoot() string        { return filepath.Join(l.root, "containerd", "root") }
func (l layout) containerdState() string       { return filepath.Join(l.root, "containerd", "state") }
func (l layout) runcState() string             { return filepath.Join(l.root, "containerd", "runc") }
func (l layout) containerdSocket() string      { return filepath.Join(l.root, "containerd", "c.sock") }
func (l layout) chart(name string) string      { return filepath.Join(l.root, "charts", name) }

// make creates the directories that processes expect to find.
func (l layout) make() error {
	for _, dir := range []string{
		l.root, l.pki(""), l.config(""), l.kubeconfig(""), filepath.Dir(l.log("x")), l.podLogs(), l.pid(""),
		l.etcd(), l.kubelet(), l.cniConf(), l.cniState(), l.containerdRoot(), l.containerdState(), l.chart(""),
	} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return fmt.Errorf("creating the run directory: %w", err)
		}
	}
	// etcd refuses a directory that others may read, and keys are nobody else's.
	for _, dir := range []string{l.etcd(), l.pki(""), l.kubeconfig("")} {
		if err := os.Chmod(dir, 0o700); err != nil {
			return fmt.Errorf("restricting %s: %w", dir, err)
		}
	}
	return nil
}

// writeFile replaces a file atomically, so that a crash never leaves half of one;
// a file that has the content already keeps its time.
func writeFile(path string, data []byte, mode os.FileMode) error {
	if old, err := os.ReadFile(path); err == nil && bytes.Equal(old, data) {
		return nil
	}
	tmp, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-*")
	if err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	defer func() { _ = os.Remove(tmp.Name()) }()
	_, err = tmp.Write(data)
	if cerr := tmp.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Chmod(tmp.Name(), mode)
	}
	if err == nil {
		err = os.Rename(tmp.Name(), path)
	}
	if err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	return nil
}
