package chart_test

import (
	"maps"
	"slices"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// TestSecretsThatNMIMayRead: all by default, those of some namespaces, or none; and
// to get one by its name is all that it ever may.
func TestSecretsThatNMIMayRead(t *testing.T) {
	tests := map[string]struct {
		set  string
		want []string // the roles that say so
	}{
		"all":                                 {want: []string{"ClusterRole/aad-pod-identity-nmi"}},
		"none":                                {set: "rbac.allowAccessToSecrets=false"},
		"those of namespaces":                 {set: "rbac.secretNamespaces={team-a,team-b,team-a}", want: []string{"Role/team-a/aad-pod-identity-nmi-secrets", "Role/team-b/aad-pod-identity-nmi-secrets"}},
		"none, whatever namespaces there are": {set: "rbac.allowAccessToSecrets=false,rbac.secretNamespaces={team-a}"},
		"nobody's without RBAC":               {set: "rbac.enabled=false,rbac.secretNamespaces={team-a}"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			all := mustRender(t, "--set", tc.set)
			var got []string
			for _, key := range slices.Sorted(maps.Keys(all)) {
				if !strings.Contains(key, "aad-pod-identity-nmi") {
					continue
				}
				rules, _, err := unstructured.NestedSlice(all[key].Object, "rules")
				if err != nil {
					t.Fatal(err)
				}
				for _, r := range rules {
					rule, _ := r.(map[string]any)
					resources, _, _ := unstructured.NestedStringSlice(rule, "resources")
					verbs, _, _ := unstructured.NestedStringSlice(rule, "verbs")
					if !slices.Contains(resources, "secrets") {
						continue
					}
					got = append(got, key)
					if !slices.Equal(verbs, []string{"get"}) {
						t.Errorf("%s: NMI may %v Secrets", key, verbs)
					}
				}
			}
			if !slices.Equal(got, tc.want) {
				t.Errorf("roles %v, want %v", got, tc.want)
			}
			for _, key := range tc.want {
				if all[strings.Replace(key, "Role/", "RoleBinding/", 1)] == nil {
					t.Errorf("%s is bound to nobody", key)
				}
			}
		})
	}
}
