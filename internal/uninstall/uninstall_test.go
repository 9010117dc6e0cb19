package uninstall

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestHandshake(t *testing.T) {
	tests := map[string]struct {
		data              map[string]string
		active, redirect  bool
		missing, failures []string
	}{
		"no ConfigMap": {missing: []string{"a", "b"}},
		"a ConfigMap without a phase is not an order to remove anything": {
			data: map[string]string{}, missing: []string{"a", "b"},
		},
		"unassigning leaves the redirect": {
			data: map[string]string{PhaseKey: PhaseUnassign}, active: true, missing: []string{"a", "b"},
		},
		"one node acknowledged, one failed": {
			data:   map[string]string{PhaseKey: PhaseRedirect, NMIKey("a"): Removed, NMIKey("b"): "iptables: busy"},
			active: true, redirect: true, missing: []string{"b"}, failures: []string{"b: iptables: busy"},
		},
		"all nodes acknowledged": {
			data:   map[string]string{PhaseKey: PhaseRedirect, NMIKey("a"): Removed, NMIKey("b"): Removed},
			active: true, redirect: true,
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			if got := Active(tc.data); got != tc.active {
				t.Errorf("Active = %v, want %v", got, tc.active)
			}
			if got := RedirectRemoval(tc.data); got != tc.redirect {
				t.Errorf("RedirectRemoval = %v, want %v", got, tc.redirect)
			}
			if diff := cmp.Diff(tc.missing, MissingNMIs(tc.data, []string{"b", "a"})); diff != "" {
				t.Errorf("MissingNMIs (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(tc.failures, FailedNMIs(tc.data)); diff != "" {
				t.Errorf("FailedNMIs (-want +got):\n%s", diff)
			}
		})
	}
}
