package assign

import (
	"slices"
	"testing"

	"k8s.io/apimachinery/pkg/types"

	v1 "github.com/aad-pod-identity/aad-pod-identity/api/v1"
	"github.com/aad-pod-identity/aad-pod-identity/internal/binding"
)

// What a pod may or may not use is neither given nor taken away.
func TestUndecided(t *testing.T) {
	one := []binding.Match{match("one")}
	old := func(a *v1.AzureAssignedIdentity) { a.Annotations = nil }
	for name, test := range map[string]struct {
		in   Input
		want []string
	}{
		"nothing new": {
			in: Input{Pod: pod(), Undecided: one},
		},
		"what the pod has stays, also if the identity is another by now": {
			in: Input{Pod: pod(), Undecided: []binding.Match{match("one", func(m *binding.Match) { m.Identity.Spec.ResourceID = resource + "elsewhere" })},
				Current: []*v1.AzureAssignedIdentity{existing(pod(), match("one"))}},
		},
		"what the previous release assigned stays": {
			in: Input{Pod: pod(), Undecided: one, Current: []*v1.AzureAssignedIdentity{existing(pod(), match("one"), old)}},
		},
		"others go on": {
			in:   Input{Pod: pod(), Undecided: one, Matches: []binding.Match{match("two")}, Current: []*v1.AzureAssignedIdentity{existing(pod(), match("one")), existing(pod(), match("three"))}},
			want: []string{"create default/app-ns-two", "delete default/app-ns-three"},
		},
		"what another pod of the name had goes": {
			in:   Input{Pod: pod(func(p *Pod) { p.UID = types.UID("next") }), Undecided: one, Current: []*v1.AzureAssignedIdentity{existing(pod(), match("one"))}},
			want: []string{"delete default/app-ns-one"},
		},
		"a finished pod loses it": {
			in:   Input{Pod: pod(func(p *Pod) { p.Finished = true }), Undecided: one, Current: []*v1.AzureAssignedIdentity{existing(pod(), match("one"))}},
			want: []string{"delete default/app-ns-one"},
		},
		"a pod that is gone loses it": {
			in:   Input{Undecided: one, Current: []*v1.AzureAssignedIdentity{existing(pod(), match("one"))}},
			want: []string{"delete default/app-ns-one"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			if got := outline(ForPod(test.in)); !slices.Equal(got, test.want) {
				t.Errorf("plan is %q, want %q", got, test.want)
			}
		})
	}
}
