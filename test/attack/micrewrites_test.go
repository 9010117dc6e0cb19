package attack

import (
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// rewrite is an update of a stored AzureIdentity by MIC's service account.
type rewrite struct {
	stored, written map[string]any
	// refusal is "" for what MIC may write.
	refusal string
	// id is what is stored, from before the policies.
	id *unstructured.Unstructured
}

// rewrites are tried by testReferencesMIC. MIC puts the capitalisation of stored names
// right, and must be able to do nothing else: whoever has its token must not be able to
// have a Secret used or sent away.
func rewrites() map[string]rewrite {
	secret := map[string]any{"name": "sp", "namespace": "team-a"}
	evil := map[string]any{"name": "another", "namespace": "team-a"}
	return map[string]rewrite{
		"the names of releases before 1.6.0": {
			stored:  map[string]any{"type": int64(1), "ClientID": guid, "TenantID": guid, "ClientPassword": map[string]any{"Name": "sp", "Namespace": "team-a"}, "adEndpoint": "http://adfs.example"},
			written: map[string]any{"type": int64(1), "clientID": guid, "tenantID": guid, "clientPassword": secret, "adEndpoint": "http://adfs.example"},
		},
		"a name within clientPassword": {
			stored:  map[string]any{"type": int64(1), "clientPassword": map[string]any{"Name": "sp", "namespace": "team-a"}},
			written: map[string]any{"type": int64(1), "clientPassword": secret},
		},
		"another Secret": {
			stored: map[string]any{"type": int64(1), "clientPassword": secret}, written: map[string]any{"type": int64(1), "clientPassword": evil}, refusal: "may not get Secret team-a/another",
		},
		"another Secret, under a name put right": {
			stored: map[string]any{"type": int64(1), "ClientPassword": secret}, written: map[string]any{"type": int64(1), "clientPassword": evil}, refusal: "may not get Secret team-a/another",
		},
		"another Secret, under a name within put right": {
			stored: map[string]any{"type": int64(1), "clientPassword": map[string]any{"Name": "sp", "namespace": "team-a"}}, written: map[string]any{"type": int64(1), "clientPassword": evil}, refusal: "may not get Secret team-a/another",
		},
		"a Secret where there was none": {
			stored: map[string]any{"type": int64(1)}, written: map[string]any{"type": int64(1), "clientPassword": secret}, refusal: "may not get Secret team-a/sp",
		},
		"a Secret in place of another field": {
			stored: map[string]any{"type": int64(1), "Note": secret}, written: map[string]any{"type": int64(1), "clientPassword": secret}, refusal: "may not get Secret team-a/sp",
		},
		"an authority of one's own, for a Secret": {
			stored:  map[string]any{"type": int64(1), "clientPassword": secret},
			written: map[string]any{"type": int64(1), "clientPassword": secret, "adEndpoint": "https://evil.example"}, refusal: "may not get Secret team-a/sp",
		},
		"an authority of one's own": {
			stored: map[string]any{"type": int64(1), "ClientID": guid}, written: map[string]any{"type": int64(1), "clientID": guid, "adEndpoint": "https://evil.example"}, refusal: "spec.adEndpoint: must be https://",
		},
		"values that change places": {
			stored:  map[string]any{"type": int64(1), "adEndpoint": "https://login.microsoftonline.com", "AdEndpoint": "https://evil.example"},
			written: map[string]any{"type": int64(1), "AdEndpoint": "https://login.microsoftonline.com", "adEndpoint": "https://evil.example"}, refusal: "AdEndpoint: miscapitalised",
		},
		"a value that is dropped for one in other letters": {
			stored:  map[string]any{"type": int64(1), "adEndpoint": "https://login.microsoftonline.com", "AdEndpoint": "https://evil.example"},
			written: map[string]any{"type": int64(1), "adEndpoint": "https://evil.example"}, refusal: "spec.adEndpoint: must be https://",
		},
		"another field of an identity with a Secret": {
			stored: map[string]any{"type": int64(1), "clientPassword": secret}, written: map[string]any{"type": int64(1), "clientPassword": secret, "replicas": int64(1)}, refusal: "may not get Secret team-a/sp",
		},
	}
}

// storeForRewriting stores what is rewritten; the policies would refuse it.
func (s *server) storeForRewriting(t *testing.T) map[string]rewrite {
	t.Helper()
	all := rewrites()
	for name, r := range all {
		o := object("AzureIdentity", oldNamespace, "", r.stored)
		o.SetGenerateName("rewritten-")
		r.id = s.store(t, o)
		all[name] = r
	}
	return all
}

func (s *server) testReferencesMIC(t *testing.T, rewrites map[string]rewrite) {
	mic := s.user(t, micUser)
	for name, r := range rewrites {
		t.Run(name, func(t *testing.T) {
			check(t, unstructured.SetNestedMap(r.id.Object, r.written, "spec"))
			err := mic.Update(t.Context(), r.id)
			switch {
			case r.refusal == "" && err != nil:
				t.Errorf("MIC may not rewrite: %v", err)
			case r.refusal != "" && (err == nil || !strings.Contains(err.Error(), r.refusal)):
				t.Errorf("error %v, want one with %q", err, r.refusal)
			}
		})
	}
	t.Run("MIC creates none", func(t *testing.T) {
		if err := mic.Create(t.Context(), principal("new")); err == nil {
			t.Error("it may")
		}
	})
	t.Run("nobody else by its name", func(t *testing.T) {
		t.Cleanup(func() { s.clear(t, []string{"AzureIdentity"}) })
		stored := s.store(t, principal("id"))
		for _, name := range pretenders {
			check(t, unstructured.SetNestedField(stored.Object, int64(2), "spec", "replicas"))
			err := s.user(t, name).Update(t.Context(), stored.DeepCopy())
			if err == nil || !strings.Contains(err.Error(), name+" may not get Secret team-a/sp") {
				t.Errorf("%s: error %v", name, err)
			}
		}
	})
}
