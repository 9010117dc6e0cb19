// Package helmtest runs the real Helm for the tests of the chart.
package helmtest

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/yaml"
)

// find returns the program: $HELM, or that beside the API server's in
// $KUBEBUILDER_ASSETS, or that of $PATH.
func find() (string, error) {
	if name := os.Getenv("HELM"); name != "" {
		return exec.LookPath(name)
	}
	if assets := os.Getenv("KUBEBUILDER_ASSETS"); assets != "" {
		if path, err := exec.LookPath(filepath.Join(assets, "helm")); err == nil {
			return path, nil
		}
	}
	return exec.LookPath("helm")
}

// Require skips the test where Helm is not installed.
func Require(t testing.TB) {
	t.Helper()
	if _, err := find(); err != nil {
		t.Skipf("needs Helm 3: put helm into PATH, or set HELM to the binary (%v)", err)
	}
}

// Run runs Helm away from the user's own settings and clusters. It returns what
// Helm printed; the error holds what it complained about.
func Run(t testing.TB, args ...string) (string, error) {
	t.Helper()
	path, err := find()
	if err != nil {
		return "", fmt.Errorf("finding Helm: %w", err)
	}
	cmd := exec.CommandContext(t.Context(), path, args...)
	home := t.TempDir()
	cmd.Env = append(os.Environ(), "HELM_CONFIG_HOME="+home, "HELM_CACHE_HOME="+home, "HELM_DATA_HOME="+home, "KUBECONFIG="+filepath.Join(home, "none"))
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("helm %s: %w: %s", args[0], err, errs.String())
	}
	return out.String(), nil
}

// Objects returns the objects of a YAML stream, in its order.
func Objects(t testing.TB, stream string) []*unstructured.Unstructured {
	t.Helper()
	var all []*unstructured.Unstructured
	reader := utilyaml.NewYAMLReader(bufio.NewReader(strings.NewReader(stream)))
	for {
		doc, err := reader.Read()
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil {
			t.Fatalf("reading manifests: %v\n%s", err, stream)
		}
		raw, err := yaml.YAMLToJSON(doc)
		if err != nil {
			t.Fatalf("parsing a manifest: %v\n%s", err, doc)
		}
		if string(raw) == "null" {
			continue // nothing but comments
		}
		o := &unstructured.Unstructured{}
		// This decoder keeps whole numbers whole.
		if err := o.UnmarshalJSON(raw); err != nil {
			t.Fatalf("parsing a manifest: %v\n%s", err, doc)
		}
		all = append(all, o)
	}
}
