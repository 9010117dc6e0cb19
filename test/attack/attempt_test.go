package attack

import (
	"context"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"
)

// attempt is something that only who has the right may do.
type attempt struct {
	// stored is made beforehand by an administrator; nil for nothing.
	stored *unstructured.Unstructured
	// do is the attempt. It gets a copy of what is stored.
	do func(ctx context.Context, u *user, stored *unstructured.Unstructured) error
	// refusal is how the policy answers who lacks the right.
	refusal string
	// by is who has the right, owner if empty; "nobody" if there is none.
	by string
}

const nobody = "nobody"

// try makes attempts.
func (s *server) try(t *testing.T, policy string, attempts map[string]attempt) {
	t.Helper()
	for name, a := range attempts {
		t.Run(name, func(t *testing.T) {
			kinds := []string{"AzureIdentity", "AzureIdentityBinding", "AzurePodIdentityException", "AzureAssignedIdentity"}
			t.Cleanup(func() { s.clear(t, kinds) })
			var stored *unstructured.Unstructured
			if a.stored != nil {
				stored = s.store(t, a.stored)
			}
			copyOf := func() *unstructured.Unstructured {
				if stored == nil {
					return nil
				}
				return stored.DeepCopy()
			}
			before := s.everything(t, kinds)

			err := a.do(t.Context(), s.user(t, attacker), copyOf())
			if err == nil || !strings.Contains(err.Error(), "ValidatingAdmissionPolicy '"+policy+"'") || !strings.Contains(err.Error(), a.refusal) {
				t.Errorf("%s: error %v, want a refusal of policy %s that says %q", attacker, err, policy, a.refusal)
			}
			if diff := cmp.Diff(before, s.everything(t, kinds)); diff != "" {
				t.Errorf("%s was refused, and something changed:\n%s", attacker, diff)
			}
			if a.by == nobody {
				return
			}
			by := a.by
			if by == "" {
				by = owner
			}
			if err := a.do(t.Context(), s.user(t, by), copyOf()); err != nil {
				t.Errorf("%s, who has the right: %v", by, err)
			}
			if cmp.Equal(before, s.everything(t, kinds)) {
				t.Errorf("%s did it and nothing changed: that is no attempt", by)
			}
		})
	}
}

// pass does what nobody needs a right for, as the attacker.
func (s *server) pass(t *testing.T, attempts map[string]attempt) {
	t.Helper()
	for name, a := range attempts {
		t.Run(name, func(t *testing.T) {
			t.Cleanup(func() {
				s.clear(t, []string{"AzureIdentity", "AzureIdentityBinding", "AzurePodIdentityException", "AzureAssignedIdentity"})
			})
			var stored *unstructured.Unstructured
			if a.stored != nil {
				stored = s.store(t, a.stored)
			}
			if err := a.do(t.Context(), s.user(t, attacker), stored); err != nil {
				t.Errorf("%s needs no right for it: %v", attacker, err)
			}
		})
	}
}

// onlyMICRewrites: MIC puts the names in a stored object right, which needs the
// verb "use" of everybody else, and creates none like another one.
func (s *server) onlyMICRewrites(t *testing.T, stored *unstructured.Unstructured, spec map[string]any, another *unstructured.Unstructured) {
	t.Helper()
	t.Run("MIC rewrites stored ones and creates none, and nobody else by its name", func(t *testing.T) {
		upgraded := stored.DeepCopy()
		check(t, unstructured.SetNestedMap(upgraded.Object, spec, "spec"))
		for _, name := range pretenders {
			err := s.user(t, name).Update(t.Context(), upgraded.DeepCopy())
			if err == nil || !strings.Contains(err.Error(), name+` needs the verb "use"`) {
				t.Errorf("%s: error %v", name, err)
			}
		}
		mic := s.user(t, micUser)
		if err := mic.Update(t.Context(), upgraded); err != nil {
			t.Errorf("MIC: %v", err)
		}
		if err := mic.Create(t.Context(), another.DeepCopy(), client.DryRunAll); err == nil {
			t.Error("MIC may create, which it never does")
		}
	})
}

// store makes an object as who may do everything: an administrator, or MIC.
func (s *server) store(t *testing.T, o *unstructured.Unstructured) *unstructured.Unstructured {
	t.Helper()
	o = o.DeepCopy()
	by := s.admin
	if o.GetKind() == "AzureAssignedIdentity" {
		by = s.user(t, micUser)
	}
	if err := by.Create(t.Context(), o); err != nil {
		t.Fatalf("preparing the attempt: %v", err)
	}
	return o
}

// everything is what is stored of our kinds: name to spec, status, labels and
// annotations.
func (s *server) everything(t *testing.T, kinds []string) map[string]any {
	t.Helper()
	all := map[string]any{}
	for _, o := range s.list(t, kinds...) {
		all[o.GetKind()+" "+o.GetNamespace()+"/"+o.GetName()] = map[string]any{
			"spec": o.Object["spec"], "status": o.Object["status"], "labels": o.GetLabels(), "annotations": o.GetAnnotations(),
		}
	}
	return all
}

func (s *server) list(t *testing.T, kinds ...string) []unstructured.Unstructured {
	t.Helper()
	var all []unstructured.Unstructured
	for _, kind := range kinds {
		list := &unstructured.UnstructuredList{}
		list.SetGroupVersionKind(schema.GroupVersionKind{Group: "aadpodidentity.k8s.io", Version: "v1", Kind: kind + "List"})
		check(t, s.admin.List(context.WithoutCancel(t.Context()), list))
		all = append(all, list.Items...)
	}
	return all
}

// clear deletes what attempts have left.
func (s *server) clear(t *testing.T, kinds []string) {
	t.Helper()
	ctx := context.WithoutCancel(t.Context())
	for _, o := range s.list(t, kinds...) {
		if o.GetNamespace() == oldNamespace {
			continue
		}
		if len(o.GetFinalizers()) > 0 {
			check(t, s.admin.Patch(ctx, &o, client.RawPatch(types.MergePatchType, []byte(`{"metadata":{"finalizers":null}}`))))
		}
		if err := s.admin.Delete(ctx, &o); !apierrors.IsNotFound(err) {
			check(t, err)
		}
	}
}

// Ways to write.

func creates(o *unstructured.Unstructured) func(context.Context, *user, *unstructured.Unstructured) error {
	return func(ctx context.Context, u *user, _ *unstructured.Unstructured) error {
		return u.Create(ctx, o.DeepCopy())
	}
}

// generates creates it under a name that the API server makes.
func generates(o *unstructured.Unstructured) func(context.Context, *user, *unstructured.Unstructured) error {
	o = o.DeepCopy()
	o.SetGenerateName(o.GetName() + "-")
	o.SetName("")
	return creates(o)
}

// applies is server-side apply, which creates too.
func applies(o *unstructured.Unstructured) func(context.Context, *user, *unstructured.Unstructured) error {
	return func(ctx context.Context, u *user, _ *unstructured.Unstructured) error {
		return u.Apply(ctx, client.ApplyConfigurationFromUnstructured(o.DeepCopy()), client.ForceOwnership, client.FieldOwner("attack"))
	}
}

// kubectl writes it by a kubectl command that reads a file.
func kubectl(o *unstructured.Unstructured, args ...string) func(context.Context, *user, *unstructured.Unstructured) error {
	return func(ctx context.Context, u *user, _ *unstructured.Unstructured) error {
		raw, err := yaml.Marshal(o.Object)
		if err != nil {
			return err
		}
		return u.run(ctx, string(raw), append(args, "-f", "-")...)
	}
}

// sets changes a field by update. The last of path may not exist yet.
func sets(value any, path ...string) func(context.Context, *user, *unstructured.Unstructured) error {
	return func(ctx context.Context, u *user, stored *unstructured.Unstructured) error {
		if err := unstructured.SetNestedField(stored.Object, value, path...); err != nil {
			return err
		}
		return u.Update(ctx, stored)
	}
}

func removes(path ...string) func(context.Context, *user, *unstructured.Unstructured) error {
	return func(ctx context.Context, u *user, stored *unstructured.Unstructured) error {
		unstructured.RemoveNestedField(stored.Object, path...)
		return u.Update(ctx, stored)
	}
}

func patches(kind types.PatchType, patch string) func(context.Context, *user, *unstructured.Unstructured) error {
	return func(ctx context.Context, u *user, stored *unstructured.Unstructured) error {
		return u.Patch(ctx, stored, client.RawPatch(kind, []byte(patch)))
	}
}

func deletes(ctx context.Context, u *user, stored *unstructured.Unstructured) error {
	return u.Delete(ctx, stored)
}
