package prepare

import (
	"context"
	"encoding/json"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	admissionv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/wait"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/envtest"

	"github.com/aad-pod-identity/aad-pod-identity/internal/uninstall"
	"github.com/aad-pod-identity/aad-pod-identity/test/apiserver"
	"github.com/aad-pod-identity/aad-pod-identity/webhook/hookjob"
)

const ns = "default"

func testScheme(t *testing.T) *runtime.Scheme {
	t.Helper()
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{corev1.AddToScheme, apiextensionsv1.AddToScheme, admissionv1.AddToScheme} {
		if err := add(scheme); err != nil {
			t.Fatal(err)
		}
	}
	return scheme
}

func testOptions() options {
	return options{Flags: hookjob.Flags{Namespace: ns, Timeout: time.Minute}, manageCRDs: true}
}

func marker() *corev1.ConfigMap {
	return &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: uninstall.Name},
		Data:       map[string]string{uninstall.PhaseKey: uninstall.PhaseRedirect},
	}
}

func TestLoad(t *testing.T) {
	crds, err := load()
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, crd := range crds {
		names = append(names, crd.GetName())
	}
	// The chart's role names these and no others.
	want := []string{
		"azureassignedidentities.aadpodidentity.k8s.io",
		"azureidentities.aadpodidentity.k8s.io",
		"azureidentitybindings.aadpodidentity.k8s.io",
		"azurepodidentityexceptions.aadpodidentity.k8s.io",
	}
	if diff := cmp.Diff(want, names); diff != "" {
		t.Errorf("embedded CRDs (-want +got):\n%s", diff)
	}
}

func TestNotServed(t *testing.T) {
	cond := func(typ apiextensionsv1.CustomResourceDefinitionConditionType, status apiextensionsv1.ConditionStatus, message string) apiextensionsv1.CustomResourceDefinitionCondition {
		return apiextensionsv1.CustomResourceDefinitionCondition{Type: typ, Status: status, Message: message}
	}
	tests := map[string]struct {
		conditions []apiextensionsv1.CustomResourceDefinitionCondition
		want       string
	}{
		"no condition yet": {want: "is not established yet"},
		"names accepted, not served yet": {
			conditions: []apiextensionsv1.CustomResourceDefinitionCondition{cond(apiextensionsv1.NamesAccepted, apiextensionsv1.ConditionTrue, "")},
			want:       "is not established yet",
		},
		"established": {
			conditions: []apiextensionsv1.CustomResourceDefinitionCondition{cond(apiextensionsv1.Established, apiextensionsv1.ConditionTrue, "")},
		},
		"a name that is taken stays so however long one waits": {
			conditions: []apiextensionsv1.CustomResourceDefinitionCondition{cond(apiextensionsv1.NamesAccepted, apiextensionsv1.ConditionFalse, `"x" is already in use`)},
			want:       `has names that another CRD has: "x" is already in use`,
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			if got := notServed(tc.conditions); got != tc.want {
				t.Errorf("notServed = %q, want %q", got, tc.want)
			}
		})
	}
}

func TestPrepareDeletesStalePolicies(t *testing.T) {
	policy := func(name string) []client.Object {
		m := metav1.ObjectMeta{Name: name}
		return []client.Object{&admissionv1.ValidatingAdmissionPolicy{ObjectMeta: m}, &admissionv1.ValidatingAdmissionPolicyBinding{ObjectMeta: m}}
	}
	stale, kept := policy("stale"), policy("kept")
	c := fake.NewClientBuilder().WithScheme(testScheme(t)).WithObjects(append(stale, kept...)...).Build()
	o := testOptions()
	o.manageCRDs, o.stalePolicies = false, []string{"stale", "absent"}
	for range 2 { // the second finds nothing to do
		if err := prepare(t.Context(), c, o, nil, io.Discard); err != nil {
			t.Fatal(err)
		}
	}
	for _, o := range stale {
		if err := c.Get(t.Context(), client.ObjectKeyFromObject(o), o); !apierrors.IsNotFound(err) {
			t.Errorf("%T: error %v, want it gone", o, err)
		}
	}
	for _, o := range kept {
		if err := c.Get(t.Context(), client.ObjectKeyFromObject(o), o); err != nil {
			t.Errorf("%T: %v", o, err)
		}
	}
}

func TestPrepareWithoutCRDsCallsOffAnUninstallation(t *testing.T) {
	c := fake.NewClientBuilder().WithScheme(testScheme(t)).WithObjects(marker()).Build()
	o := testOptions()
	o.manageCRDs = false
	var out strings.Builder
	for range 2 { // the second finds nothing to do
		if err := prepare(t.Context(), c, o, nil, &out); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.Get(t.Context(), client.ObjectKey{Namespace: ns, Name: uninstall.Name}, &corev1.ConfigMap{}); !apierrors.IsNotFound(err) {
		t.Errorf("the marker is still there (%v)", err)
	}
	if n := strings.Count(out.String(), "called off"); n != 1 {
		t.Errorf("said %d times that the uninstallation is called off, want once:\n%s", n, out.String())
	}
}

func TestCommandRefusesWrongFlags(t *testing.T) {
	for _, args := range [][]string{{}, {"--namespace=a", "--timeout=0s"}, {"--namespace=a", "extra"}, {"--unknown"}, {"--namespace=a", "--kubeconfig=/does/not/exist"}} {
		if err := Command(t.Context(), args); err == nil {
			t.Errorf("prepare %q: no error", args)
		}
	}
}

// old is a CRD as the 1.8 releases had it: an open schema, no status subresource.
func old(plural, kind string) *apiextensionsv1.CustomResourceDefinition {
	object := apiextensionsv1.JSONSchemaProps{Type: "object", Properties: map[string]apiextensionsv1.JSONSchemaProps{
		"clientID": {Type: "string"}, "resourceID": {Type: "string"}, "type": {Type: "integer"}}}
	return &apiextensionsv1.CustomResourceDefinition{
		ObjectMeta: metav1.ObjectMeta{
			Name:        plural + ".aadpodidentity.k8s.io",
			Annotations: map[string]string{"api-approved.kubernetes.io": "unapproved", "controller-gen.kubebuilder.io/version": "v0.5.0"},
		},
		Spec: apiextensionsv1.CustomResourceDefinitionSpec{
			Group: "aadpodidentity.k8s.io",
			Names: apiextensionsv1.CustomResourceDefinitionNames{Plural: plural, Singular: strings.ToLower(kind), Kind: kind, ListKind: kind + "List"},
			Scope: apiextensionsv1.NamespaceScoped,
			Versions: []apiextensionsv1.CustomResourceDefinitionVersion{{
				Name: "v1", Served: true, Storage: true,
				Schema: &apiextensionsv1.CustomResourceValidation{OpenAPIV3Schema: &apiextensionsv1.JSONSchemaProps{
					Type: "object", Properties: map[string]apiextensionsv1.JSONSchemaProps{"spec": object, "status": {Type: "object"}}}},
				AdditionalPrinterColumns: []apiextensionsv1.CustomResourceColumnDefinition{{Name: "Old", Type: "string", JSONPath: ".spec.type"}},
			}},
		},
	}
}

// On a real API server: from the CRDs of the 1.8 releases as Helm made them to
// ours, with stored objects kept.
func TestPrepareUpgradesOldCRDs(t *testing.T) {
	cfg := apiserver.Start(t, &envtest.Environment{})
	c, err := client.New(cfg, client.Options{Scheme: testScheme(t)})
	if err != nil {
		t.Fatal(err)
	}
	crds, err := load()
	if err != nil {
		t.Fatal(err)
	}
	before := old("azureidentities", "AzureIdentity")
	if err := c.Create(t.Context(), before, client.FieldOwner("helm")); err != nil {
		t.Fatal(err)
	}
	identity := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "aadpodidentity.k8s.io/v1", "kind": "AzureIdentity",
		"metadata": map[string]any{"namespace": ns, "name": "stored"},
		"spec": map[string]any{"type": int64(0), "clientID": "22222222-2222-2222-2222-222222222222",
			"resourceID": "/subscriptions/00000000-0000-0000-0000-000000000000/resourcegroups/rg/providers/Microsoft.ManagedIdentity/userAssignedIdentities/one"},
	}}
	create := func() {
		t.Helper()
		err := wait.PollUntilContextTimeout(t.Context(), 100*time.Millisecond, time.Minute, true, func(ctx context.Context) (bool, error) {
			return c.Create(ctx, identity.DeepCopy()) == nil, nil
		})
		if err != nil {
			t.Fatalf("the CRD was never served: %v", err)
		}
	}
	create()

	var out strings.Builder
	if err := prepare(t.Context(), c, testOptions(), crds, &out); err != nil {
		t.Fatalf("prepare: %v\n%s", err, out.String())
	}
	versions := func() map[string]string {
		t.Helper()
		seen := map[string]string{}
		for _, crd := range crds {
			got := &apiextensionsv1.CustomResourceDefinition{}
			if err := c.Get(t.Context(), client.ObjectKeyFromObject(crd), got); err != nil {
				t.Fatal(err)
			}
			if why := notServed(got.Status.Conditions); why != "" {
				t.Errorf("CRD %s %s", got.Name, why)
			}
			want := &apiextensionsv1.CustomResourceDefinition{}
			if err := runtime.DefaultUnstructuredConverter.FromUnstructured(crd.Object, want); err != nil {
				t.Fatal(err)
			}
			// Nothing of the old schema is left over, nothing of ours is missing.
			if diff := cmp.Diff(want.Spec.Versions, got.Spec.Versions); diff != "" {
				t.Errorf("CRD %s (-want +got):\n%s", got.Name, diff)
			}
			// The API server itself may write the status at any time.
			got.ResourceVersion = ""
			got.ManagedFields = slices.DeleteFunc(got.ManagedFields, func(f metav1.ManagedFieldsEntry) bool { return f.Subresource == "status" })
			text, err := json.Marshal(got.ObjectMeta)
			if err != nil {
				t.Fatal(err)
			}
			seen[got.Name] = string(text)
		}
		return seen
	}
	first := versions()
	stored := identity.DeepCopy()
	if err := c.Get(t.Context(), client.ObjectKeyFromObject(identity), stored); err != nil {
		t.Errorf("the stored object is lost: %v", err)
	}

	// Repeated, it writes nothing.
	if err := prepare(t.Context(), c, testOptions(), crds, &out); err != nil {
		t.Fatalf("second run: %v\n%s", err, out.String())
	}
	if diff := cmp.Diff(first, versions()); diff != "" {
		t.Errorf("the metadata changed (-first +second):\n%s", diff)
	}

	// A CRD that is being deleted is waited for, since what is applied to it now
	// would be lost with it.
	stored.SetFinalizers([]string{"test.example.com/hold"})
	if err := c.Update(t.Context(), stored); err != nil {
		t.Fatal(err)
	}
	if err := c.Delete(t.Context(), before); err != nil {
		t.Fatal(err)
	}
	released := make(chan error, 1)
	sawWait := &notify{text: "is being deleted", seen: make(chan struct{})}
	go func() {
		select {
		case <-sawWait.seen:
		case <-t.Context().Done():
		}
		released <- c.Patch(t.Context(), stored, client.RawPatch("application/merge-patch+json", []byte(`{"metadata":{"finalizers":null}}`)))
	}()
	if err := prepare(t.Context(), c, testOptions(), crds, sawWait); err != nil {
		t.Fatalf("while a CRD is being deleted: %v", err)
	}
	if err := <-released; err != nil {
		t.Fatal(err)
	}
	versions()
	create()
}

// notify tells when a text was written.
type notify struct {
	text string
	seen chan struct{}
	told bool
}

func (n *notify) Write(p []byte) (int, error) {
	if !n.told && strings.Contains(string(p), n.text) {
		n.told = true
		close(n.seen)
	}
	return len(p), nil
}
