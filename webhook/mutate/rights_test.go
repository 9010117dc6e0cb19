package mutate

import (
	"context"
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/types"

	v1 "github.com/aad-pod-identity/aad-pod-identity/api/v1"
)

// A pod that may not use an identity of another namespace hears it at once, in the
// words that MIC says later, and is not tagged with it.
func TestRightToUseIsSaidEarly(t *testing.T) {
	world := cluster{
		bindings:   []*v1.AzureIdentityBinding{bindingTo("apps", "own", "one", "web"), bindingTo("shared", "b", "two", "web")},
		identities: []*v1.AzureIdentity{managedIdentity("apps", "one"), managedIdentity("shared", "two")},
	}
	const own = `{"name":"p","labels":{"aadpodidbinding":"web",` + tagBinding + `:"own",` + tagIdentity + `:"one"},"annotations":{` + tagBindings + `:"apps/own"}}`
	const both = `{"name":"p","labels":{"aadpodidbinding":"web",` + tagBinding + `:"own",` + tagIdentity + `:"one"},"annotations":{` + tagBindings + `:"apps/own,shared/b"}}`
	for name, test := range map[string]struct {
		spec     string
		allowed  bool
		err      error
		account  string
		want     string
		warnings []string
	}{
		"with the right": {spec: `{"serviceAccountName":"web"}`, allowed: true, account: "web", want: both},
		"without": {spec: `{"serviceAccountName":"web"}`, account: "web", want: own, warnings: []string{
			`service account apps/web of pod apps/p may not use AzureIdentity shared/two of another namespace; a Role of namespace shared would have to say {apiGroups: ["aadpodidentity.k8s.io"], resources: ["azureidentities"], resourceNames: ["two"], verbs: ["use"]}`}},
		"the account of a pod that names none": {spec: `{}`, allowed: true, account: "default", want: both},
		"a review that cannot be had holds up no pod": {spec: `{"serviceAccountName":"web"}`, err: errors.New("down"), account: "web", want: own, warnings: []string{
			`whether service account apps/web may use AzureIdentity shared/two is not known, so pod apps/p gets nothing new by it: down`}},
	} {
		t.Run(name, func(t *testing.T) {
			asked := 0
			tagger := &Tagger{Reader: world, MayUse: func(ctx context.Context, account, identity types.NamespacedName) (bool, error) {
				asked++
				if _, bounded := ctx.Deadline(); !bounded {
					t.Error("the pod is held up for ever")
				}
				if account.String() != "apps/"+test.account || identity.String() != "shared/two" {
					t.Errorf("asked whether %s may use %s", account, identity)
				}
				return test.allowed, test.err
			}}
			pod := `{"metadata":{"name":"p","labels":{"aadpodidbinding":"web"}},"spec":` + test.spec + `}`
			resp := tagger.Handle(t.Context(), create(pod))
			if diff := cmp.Diff(metadata(t, test.want), apply(t, pod, resp)); diff != "" {
				t.Errorf("metadata (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(test.warnings, resp.Warnings); diff != "" {
				t.Errorf("warnings (-want +got):\n%s", diff)
			}
			if asked != 1 {
				t.Errorf("asked %d times", asked)
			}
		})
	}
}
