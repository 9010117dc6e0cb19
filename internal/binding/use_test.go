package binding

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"

	v1 "github.com/aad-pod-identity/aad-pod-identity/api/v1"
)

func TestRightToUse(t *testing.T) {
	web := Pod{Namespace: "team-b", Name: "web-0", Label: "web", ServiceAccount: "web"}
	bindings := []*v1.AzureIdentityBinding{
		bindingTo("team-a", "a", "id", "web"), bindingTo("team-b", "b", "own", "web"), bindingTo("team-c", "c", "id", "web"),
	}
	identities := map[string]*v1.AzureIdentity{
		"team-a/id": identity("team-a", "id"), "team-b/own": identity("team-b", "own"), "team-c/id": identity("team-c", "id"),
	}
	down := errors.New("down")
	for name, test := range map[string]struct {
		answers   map[string]error // of identities that may not be used: nil is no
		has       string           // an identity that the pod has now
		nobody    bool
		force     bool
		matches   []string
		skipped   []string
		undecided []string
		asked     []string
	}{
		"who does not demand it does not ask": {
			nobody: true, matches: []string{"team-a/id", "team-b/own"}, skipped: []string{"SameName"},
		},
		"identities of other namespaces are asked about, one's own are not": {
			matches: []string{"team-a/id", "team-b/own"}, skipped: []string{"SameName"}, asked: []string{"team-a/id"},
		},
		"one that may not be used is skipped and holds no name": {
			answers: map[string]error{"team-a/id": nil},
			matches: []string{"team-b/own", "team-c/id"}, skipped: []string{"UseForbidden"}, asked: []string{"team-a/id", "team-c/id"},
		},
		"one that may be used or not holds no name either, so that a stranger's binding takes nothing away": {
			answers: map[string]error{"team-a/id": down},
			matches: []string{"team-b/own", "team-c/id"}, skipped: []string{"UseUnknown"}, undecided: []string{"team-a/id"}, asked: []string{"team-a/id", "team-c/id"},
		},
		"one that the pod has holds its name, so that it does not get a second": {
			answers: map[string]error{"team-a/id": down}, has: "team-a/id",
			matches: []string{"team-b/own"}, skipped: []string{"UseUnknown", "SameName"}, undecided: []string{"team-a/id"}, asked: []string{"team-a/id"},
		},
		"one that it may not use any more holds none, had or not": {
			answers: map[string]error{"team-a/id": nil}, has: "team-a/id",
			matches: []string{"team-b/own", "team-c/id"}, skipped: []string{"UseForbidden"}, asked: []string{"team-a/id", "team-c/id"},
		},
		"what the namespace forbids is not asked about": {
			force: true, matches: []string{"team-b/own"}, skipped: []string{"OtherNamespace", "OtherNamespace"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			var asked []string
			in := Input{
				Pod: web, Bindings: bindings, ForceNamespaced: test.force,
				Identity: func(ns, n string) *v1.AzureIdentity { return identities[ns+"/"+n] },
				Has:      func(id *v1.AzureIdentity) bool { return id.Namespace+"/"+id.Name == test.has },
			}
			if !test.nobody {
				in.MayUse = func(id *v1.AzureIdentity) (bool, error) {
					asked = append(asked, id.Namespace+"/"+id.Name)
					err, refused := test.answers[id.Namespace+"/"+id.Name]
					return !refused, err
				}
			}
			r := ForPod(in)
			names := func(all []Match) []string {
				var s []string
				for _, m := range all {
					s = append(s, m.Identity.Namespace+"/"+m.Identity.Name)
				}
				return s
			}
			var skipped []string
			for _, s := range r.Skipped {
				skipped = append(skipped, s.Reason)
			}
			got := [][]string{names(r.Matches), skipped, names(r.Undecided), asked}
			if diff := cmp.Diff([][]string{test.matches, test.skipped, test.undecided, test.asked}, got); diff != "" {
				t.Errorf("matches, skipped, undecided, asked (-want +got):\n%s", diff)
			}
			if got, want := r.Foreign("team-b"), len(asked) > 0 || test.nobody; got != want {
				t.Errorf("Foreign is %v", got)
			}
		})
	}
}

func TestWordsOfTheRightToUse(t *testing.T) {
	for name, test := range map[string]struct {
		err  error
		want string
	}{
		"no": {want: `service account team-b/web of pod team-b/web-0 may not use AzureIdentity team-a/id of another namespace; ` +
			`a Role of namespace team-a would have to say {apiGroups: ["aadpodidentity.k8s.io"], resources: ["azureidentities"], resourceNames: ["id"], verbs: ["use"]}`},
		"not known": {err: errors.New("down"), want: "whether service account team-b/web may use AzureIdentity team-a/id is not known, so pod team-b/web-0 gets nothing new by it: down"},
	} {
		t.Run(name, func(t *testing.T) {
			r := ForPod(Input{
				Pod:      Pod{Namespace: "team-b", Name: "web-0", Label: "web", ServiceAccount: "web"},
				Bindings: []*v1.AzureIdentityBinding{bindingTo("team-a", "a", "id", "web")},
				Identity: func(ns, n string) *v1.AzureIdentity { return identity(ns, n) },
				MayUse:   func(*v1.AzureIdentity) (bool, error) { return false, test.err },
			})
			if len(r.Skipped) != 1 || r.Skipped[0].Message != test.want {
				t.Errorf("skipped %+v, want %s", r.Skipped, test.want)
			}
		})
	}
}

func TestIdentitiesThatCannotBeAskedAbout(t *testing.T) {
	for name, test := range map[string]struct {
		namespace, identity string
		demanded            bool
		want                bool
	}{
		"a missing one of another namespace":           {namespace: "team-a", identity: "none", demanded: true, want: true},
		"an invalid one of another namespace":          {namespace: "team-a", identity: "bad", demanded: true, want: true},
		"a missing one of the pod's own":               {namespace: "team-b", identity: "none", demanded: true},
		"an invalid one of the pod's own":              {namespace: "team-b", identity: "bad", demanded: true},
		"a missing one where the verb is not demanded": {namespace: "team-a", identity: "none"},
		"one that is there is asked about":             {namespace: "team-a", identity: "good", demanded: true},
	} {
		t.Run(name, func(t *testing.T) {
			in := Input{
				Pod:      Pod{Namespace: "team-b", Name: "web-0", Label: "web", ServiceAccount: "web"},
				Bindings: []*v1.AzureIdentityBinding{bindingTo(test.namespace, "a", test.identity, "web")},
				Identity: func(ns, n string) *v1.AzureIdentity {
					if n == "none" {
						return nil
					}
					return identity(ns, n)
				},
				Valid: func(id *v1.AzureIdentity) error {
					if id.Name == "bad" {
						return errors.New("spec.resourceID: Required value")
					}
					return nil
				},
			}
			if test.demanded {
				in.MayUse = func(*v1.AzureIdentity) (bool, error) { return false, nil }
			}
			r := ForPod(in)
			if len(r.Skipped) != 1 || r.Skipped[0].Unreviewed != test.want {
				t.Errorf("skipped %+v, want Unreviewed %v", r.Skipped, test.want)
			}
		})
	}
}
