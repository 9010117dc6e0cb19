// Package chart_test renders the chart with real Helm and judges what comes out:
// against golden files, against the names and selectors of chart 4.1.18, and, where
// KUBEBUILDER_ASSETS names the binaries, against a real API server.
package chart_test

import (
	"bufio"
	"bytes"
	"errors"
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

const (
	chartDir = "../../charts/aad-pod-identity"
	// The oldest version that the chart supports.
	kubeVersion = "1.30.0"
	release     = "aad-pod-identity"
	namespace   = "pod-identity"
)

// helmBinary is $HELM or helm from PATH.
func helmBinary(t *testing.T) string {
	t.Helper()
	name := os.Getenv("HELM")
	if name == "" {
		name = "helm"
	}
	path, err := exec.LookPath(name)
	if err != nil {
		t.Skipf("needs Helm 3: put helm into PATH, or set HELM to the binary (%v)", err)
	}
	return path
}

// helm runs Helm away from the user's own settings.
func helm(t *testing.T, args ...string) (string, error) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), helmBinary(t), args...)
	home := t.TempDir()
	cmd.Env = append(os.Environ(), "HELM_CONFIG_HOME="+home, "HELM_CACHE_HOME="+home, "HELM_DATA_HOME="+home, "KUBECONFIG="+filepath.Join(home, "none"))
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		return out.String(), errors.New(errs.String())
	}
	return out.String(), nil
}

// render returns the manifests of a release.
func render(t *testing.T, args ...string) (string, error) {
	t.Helper()
	return helm(t, append([]string{"template", release, chartDir, "--namespace", namespace, "--kube-version", kubeVersion}, args...)...)
}

// objects is a rendering by kind/name, or kind/namespace/name outside the
// release's namespace.
type objects map[string]*unstructured.Unstructured

func mustRender(t *testing.T, args ...string) objects {
	t.Helper()
	out, err := render(t, args...)
	if err != nil {
		t.Fatalf("helm template %v: %v", args, err)
	}
	return parse(t, out)
}

func parse(t *testing.T, manifests string) objects {
	t.Helper()
	all := objects{}
	reader := utilyaml.NewYAMLReader(bufio.NewReader(strings.NewReader(manifests)))
	for {
		doc, err := reader.Read()
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil {
			t.Fatalf("parsing the rendering: %v\n%s", err, manifests)
		}
		raw, err := yaml.YAMLToJSON(doc)
		if err != nil {
			t.Fatalf("parsing the rendering: %v\n%s", err, doc)
		}
		if string(raw) == "null" {
			continue // nothing but comments
		}
		o := &unstructured.Unstructured{}
		if err := o.UnmarshalJSON(raw); err != nil {
			t.Fatalf("parsing the rendering: %v\n%s", err, doc)
		}
		key := o.GetKind() + "/" + o.GetName()
		if ns := o.GetNamespace(); ns != "" && ns != namespace {
			key = o.GetKind() + "/" + ns + "/" + o.GetName()
		}
		if all[key] != nil {
			t.Fatalf("%s is rendered twice", key)
		}
		all[key] = o
	}
}

// get returns an object that must be there.
func (all objects) get(t *testing.T, key string) *unstructured.Unstructured {
	t.Helper()
	o := all[key]
	if o == nil {
		t.Fatalf("%s is not rendered", key)
	}
	return o
}

// container returns the first container of a workload.
func container(t *testing.T, o *unstructured.Unstructured) map[string]any {
	t.Helper()
	containers, _, err := unstructured.NestedSlice(o.Object, "spec", "template", "spec", "containers")
	if err != nil || len(containers) == 0 {
		t.Fatalf("%s %s has no containers (%v)", o.GetKind(), o.GetName(), err)
	}
	c, ok := containers[0].(map[string]any)
	if !ok {
		t.Fatalf("%s %s: container is a %T", o.GetKind(), o.GetName(), containers[0])
	}
	return c
}

// arguments returns the arguments of a workload's container.
func arguments(t *testing.T, o *unstructured.Unstructured) []string {
	t.Helper()
	c := container(t, o)
	if c["args"] == nil {
		return nil
	}
	args, _, err := unstructured.NestedStringSlice(c, "args")
	if err != nil {
		t.Fatalf("%s %s: %v", o.GetKind(), o.GetName(), err)
	}
	return args
}
