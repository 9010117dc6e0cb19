package chart_test

import (
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// The limit of the garbage collector is that of the container; without one, a
// resourceFieldRef would give the memory of the node.
func TestWebhookKnowsItsMemoryLimit(t *testing.T) {
	tests := map[string]struct {
		args []string
		want bool
	}{
		"by default":          {want: true},
		"no resources":        {args: []string{"--set", "webhook.resources=null"}},
		"no limits":           {args: []string{"--set", "webhook.resources.limits=null"}},
		"no limit for memory": {args: []string{"--set", "webhook.resources.limits.memory=null"}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			env, _, err := unstructured.NestedSlice(container(t, mustRender(t, tt.args...).get(t, "Deployment/aad-pod-identity-webhook")), "env")
			if err != nil {
				t.Fatal(err)
			}
			got := false
			for _, e := range env {
				variable, _ := e.(map[string]any)
				got = got || variable["name"] == "GOMEMLIMIT"
			}
			if got != tt.want {
				t.Errorf("GOMEMLIMIT set: %v", got)
			}
		})
	}
}
