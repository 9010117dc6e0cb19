package main

import (
	"fmt"
	"strings"
	"testing"

	"k8s.io/client-go/rest"

	"github.com/aad-pod-identity/aad-pod-identity/internal/validation"
)

// testResourceIDCase is the policy about miscapitalised resource IDs as a user sees
// it. The default, which refuses them, is in the manifests.
func (s *apiServer) testResourceIDCase(t *testing.T) {
	bad := strings.Replace(goodID, "resourcegroups", "RESOURCEGROUPS", 1)
	const segment = `Warning: spec.resourceID: segment "RESOURCEGROUPS" is miscapitalised, use "resourcegroups" or "resourceGroups"; `
	tests := map[validation.IDCase]struct{ stored, warning string }{
		validation.WarnCase:         {bad, segment + fmt.Sprintf("use %q\n", goodID)},
		validation.CanonicalizeCase: {goodID, segment + fmt.Sprintf("stored as %q\n", goodID)},
	}
	for idCase, tt := range tests {
		t.Run(string(idCase), func(t *testing.T) {
			s.startWebhook(t, func(o *options, _ *rest.Config) { o.resourceIDCase = string(idCase) })
			stored := func(name string) string {
				return s.must(t, "", "get", "azureidentity", name, "-o", "jsonpath={.spec.resourceID}")
			}
			written := func(name, id string) string { return strings.Replace(identityManifest(name), goodID, id, 1) }
			for name, args := range map[string][]string{
				string(idCase) + "-applied":     {"apply", "-f", "-"},
				string(idCase) + "-created":     {"create", "-f", "-"},
				string(idCase) + "-server-side": {"apply", "--server-side", "-f", "-"},
			} {
				r := s.run(t, written(name, bad), args...)
				if r.failed || r.stderr != tt.warning {
					t.Errorf("kubectl %s says %q, want %q", args, r.stderr, tt.warning)
				}
				if got := stored(name); got != tt.stored {
					t.Errorf("%s: %q is stored, want %q", name, got, tt.stored)
				}
			}
			r := s.run(t, written("portal", strings.Replace(goodID, "resourcegroups", "resourceGroups", 1)), "apply", "-f", "-")
			if got := stored("portal"); r.failed || r.stderr != "" || !strings.Contains(got, "resourceGroups") {
				t.Errorf("the portal's spelling: %+v, %q is stored", r, got)
			}
			if r := s.run(t, written("refused", bad+"/"), "apply", "-f", "-"); !r.failed || !strings.Contains(r.stderr, "slash at the end") {
				t.Errorf("an ID with another defect: %+v", r)
			}
			if r := s.run(t, written("dry", bad), "apply", "--dry-run=server", "-f", "-"); r.failed || r.stderr != tt.warning {
				t.Errorf("dry run: %+v", r)
			}
		})
	}
}
