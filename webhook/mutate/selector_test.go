package mutate

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	v1 "github.com/aad-pod-identity/aad-pod-identity/api/v1"
)

func TestInjector(t *testing.T) {
	world := cluster{
		bindings:   []*v1.AzureIdentityBinding{bindingTo("a", "first", "one", "web"), bindingTo("a", "second", "two", "api")},
		identities: []*v1.AzureIdentity{managedIdentity("a", "one"), managedIdentity("a", "two")},
	}
	const (
		web    = `"labels":` + tagged + `,"annotations":{` + allTags + `}`
		forged = `"labels":{` + tagIdentity + `:"admin"},"annotations":{` + tagBindings + `:"a/x"}`
	)
	type objects = map[string]*metav1.PartialObjectMetadata
	tests := map[string]struct {
		owners       objects
		err          error
		account      string
		metadata     string // without name
		want         string // unchanged if ""
		wantWarnings []string
		wantAsked    []string
	}{
		"the ServiceAccount names the label, and the tags come with it": {
			owners: objects{"apps/web": selects("web")}, account: "web",
			want: web, wantAsked: []string{"apps/web"},
		},
		"the Namespace names it": {
			owners: objects{"apps/web": {}, "apps": selects("web")}, account: "web",
			want: web, wantAsked: []string{"apps/web", "apps"},
		},
		"the ServiceAccount wins": {
			owners: objects{"apps/web": selects("web"), "apps": selects("api")}, account: "web", want: web,
		},
		"an empty annotation of the ServiceAccount keeps the Namespace's away": {
			owners: objects{"apps/web": selects(""), "apps": selects("api")}, account: "web",
		},
		"a pod without a ServiceAccount has the default one": {
			owners: objects{"apps/default": selects("web")}, want: web, wantAsked: []string{"apps/default"},
		},
		"a ServiceAccount that nobody knows": {
			owners: objects{"apps": selects("web")}, account: "ghost", want: web,
		},
		"nobody names a label":                            {account: "web", wantAsked: []string{"apps/web", "apps"}},
		"another ServiceAccount's annotation is no one's": {owners: objects{"other/web": selects("web"), "apps/api": selects("api")}, account: "web"},
		"other labels and annotations stay": {
			owners: objects{"apps": selects("web")}, metadata: `"labels":{"a":"b"},"annotations":{"c":"d"}`,
			want: `"labels":{"a":"b",` + strings.TrimPrefix(tagged, "{") + `,"annotations":{"c":"d",` + allTags + `}`,
		},
		"forged tags are overwritten":            {owners: objects{"apps": selects("web")}, metadata: forged, want: web},
		"without a label to give forged tags go": {metadata: forged, want: `"labels":{},"annotations":{}`},
		"the user's label stays":                 {owners: objects{"apps": selects("api")}, metadata: web, wantAsked: nil},
		"the user's empty label stays":           {owners: objects{"apps": selects("api")}, metadata: `"labels":{"aadpodidbinding":""}`},
		"a mirror pod":                           {owners: objects{"apps": selects("web")}, metadata: `"annotations":{"kubernetes.io/config.mirror":"x"}`},
		"the label is given though nothing matches": {
			owners: objects{"apps": selects("none")}, want: `"labels":{"aadpodidbinding":"none"}`,
			wantWarnings: []string{`no AzureIdentityBinding has selector "none" (yet): the pod gets no identity`},
		},
		"an annotation that cannot be a label": {
			owners: objects{"apps/web": selects("web pods"), "apps": selects("web")}, account: "web", metadata: forged, want: `"labels":{},"annotations":{}`,
			wantWarnings: []string{`the pod gets no label aadpodidbinding: annotation aadpodidentity.k8s.io/selector of ServiceAccount apps/web: "web pods" cannot be a label value: ` +
				`a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character ` +
				`(e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')`},
		},
		"an annotation of the Namespace longer than a label": {
			owners:       objects{"apps": selects(strings.Repeat("a", 64))},
			wantWarnings: []string{`the pod gets no label aadpodidbinding: annotation aadpodidentity.k8s.io/selector of Namespace apps: "` + strings.Repeat("a", 64) + `" cannot be a label value: must be no more than 63 bytes`},
		},
		"the ServiceAccount cannot be read": {
			owners: objects{"apps": selects("web")}, err: errors.New("getting ServiceAccount apps/web: no cache"), account: "web",
			wantWarnings: []string{"the pod gets no label aadpodidbinding: getting ServiceAccount apps/web: no cache"},
			wantAsked:    []string{"apps/web"},
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			known := &owners{objects: tt.owners, err: tt.err}
			injector := &Injector{Tagger: &Tagger{Reader: world, Metadata: known}}
			pod := func(metadata string) string {
				if metadata != "" {
					metadata = "," + metadata
				}
				return fmt.Sprintf(`{"metadata":{"name":"p"%s},"spec":{"serviceAccountName":%q}}`, metadata, tt.account)
			}
			before := pod(tt.metadata)
			resp := injector.Handle(t.Context(), create(before))
			want := before
			if tt.want != "" {
				want = pod(tt.want)
			} else if len(resp.Patches) > 0 {
				t.Errorf("the patch is not empty: %v", resp.Patches)
			}
			after := patched(t, before, resp)
			if diff := cmp.Diff(metadata(t, want), metadata(t, after)); diff != "" {
				t.Errorf("pod (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(tt.wantWarnings, resp.Warnings); diff != "" {
				t.Errorf("warnings (-want +got):\n%s", diff)
			}
			if tt.wantAsked != nil {
				if diff := cmp.Diff(tt.wantAsked, known.asked); diff != "" {
					t.Errorf("looked up (-want +got):\n%s", diff)
				}
			}
			if again := injector.Handle(t.Context(), create(after)); len(again.Patches) > 0 {
				t.Errorf("a second call patches again: %v", again.Patches)
			}
		})
	}
}

// Label, tags and gate are one patch, which is judged by the label it gives.
func TestInjectedPodsGetTheGate(t *testing.T) {
	known := &owners{objects: map[string]*metav1.PartialObjectMetadata{"apps/default": selects("web"), "apps": gates("enabled")}}
	injector := &Injector{Tagger: &Tagger{Reader: cluster{}, Metadata: known, Gate: GateOptIn}}
	const pod = `{"metadata":{"name":"p"},"spec":{}}`
	got := metadata(t, patched(t, pod, injector.Handle(t.Context(), create(pod))))
	want := metadata(t, `{"metadata":{"name":"p","labels":{"aadpodidbinding":"web"}},"spec":{"readinessGates":[`+ourGate+`]}}`)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("pod (-want +got):\n%s", diff)
	}
}
