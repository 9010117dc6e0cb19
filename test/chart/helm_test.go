// Package chart_test renders the chart with real Helm and judges what comes out:
// against golden files, against the names and selectors of chart 4.1.18, and, where
// KUBEBUILDER_ASSETS names the binaries, against a real API server.
package chart_test

import (
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/aad-pod-identity/aad-pod-identity/test/helmtest"
)

const (
	chartDir = "../../charts/aad-pod-identity"
	// The oldest version that the chart supports.
	kubeVersion = "1.30.0"
	release     = "aad-pod-identity"
	namespace   = "pod-identity"
)

// helm runs Helm; without it the test is skipped.
func helm(t *testing.T, args ...string) (string, error) {
	t.Helper()
	helmtest.Require(t)
	return helmtest.Run(t, args...)
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
	for _, o := range helmtest.Objects(t, manifests) {
		key := o.GetKind() + "/" + o.GetName()
		if ns := o.GetNamespace(); ns != "" && ns != namespace {
			key = o.GetKind() + "/" + ns + "/" + o.GetName()
		}
		if all[key] != nil {
			t.Fatalf("%s is rendered twice", key)
		}
		all[key] = o
	}
	return all
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
