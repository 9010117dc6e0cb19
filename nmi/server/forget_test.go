package server

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// TestNamespacesThatAreGoneAreForgotten, once their last counts could be scraped.
func TestNamespacesThatAreGoneAreForgotten(t *testing.T) {
	w := newWorld(t, nil)
	w.setPod("passing", strangerIP, func(p *corev1.Pod) { p.Namespace = "run-17" })
	w.get(strangerIP, "/metadata/instance", nil)
	w.get(webIP, "/metadata/instance", nil)
	has := func(namespace string, want bool) {
		t.Helper()
		if got := w.server.metrics.Namespaces()[namespace]; got != want {
			t.Errorf("%s has series: %v", namespace, got)
		}
	}
	before := w.server.forget(w.server.forget(nil))
	has("run-17", true)
	w.index.DeletePod(types.NamespacedName{Namespace: "run-17", Name: "passing"})
	before = w.server.forget(before)
	has("run-17", true)
	before = w.server.forget(before)
	has("run-17", false)
	w.server.forget(before)
	has("default", true)
}
