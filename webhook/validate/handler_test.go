package validate

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"gomodules.xyz/jsonpatch/v2"
	admissionv1 "k8s.io/api/admission/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/webhook/admission"

	v1 "github.com/aad-pod-identity/aad-pod-identity/api/v1"
	"github.com/aad-pod-identity/aad-pod-identity/internal/validation"
)

const (
	goodSpec = `{"type":0,"resourceID":"/subscriptions/0f3c5e2a-91b7-4d1e-8c57-2b1f6a9d4e30/resourcegroups/rg/providers/Microsoft.ManagedIdentity/userAssignedIdentities/demo","clientID":"7eb6d1a0-2c4f-4b8e-9d3a-5f1e0c7ba6a9"}`
	oldSpec  = `{"type":0,"ResourceID":"/subscriptions/0f3c5e2a-91b7-4d1e-8c57-2b1f6a9d4e30/resourcegroups/rg/providers/Microsoft.ManagedIdentity/userAssignedIdentities/demo"}`
	newSpec  = `{"type":0,"resourceID":"/subscriptions/0f3c5e2a-91b7-4d1e-8c57-2b1f6a9d4e30/resourcegroups/rg/providers/Microsoft.ManagedIdentity/userAssignedIdentities/demo"}`
	mic      = "system:serviceaccount:default:mic"
)

func newHandler(t testing.TB) *Handler {
	t.Helper()
	rules, err := validation.New()
	if err != nil {
		t.Fatal(err)
	}
	return &Handler{Rules: rules, MICUsername: mic}
}

func identity(metadata, spec string) string {
	return fmt.Sprintf(`{"apiVersion":"aadpodidentity.k8s.io/v1","kind":"AzureIdentity","metadata":{"name":"demo"%s},"spec":%s}`, metadata, spec)
}

// request builds a request about an AzureIdentity; change, if not nil, alters it.
func request(op admissionv1.Operation, old, object string, change func(*admission.Request)) admission.Request {
	req := admission.Request{AdmissionRequest: admissionv1.AdmissionRequest{
		UID:       "1",
		Kind:      metav1.GroupVersionKind{Group: v1.GroupName, Version: "v1", Kind: v1.KindAzureIdentity},
		Namespace: "default",
		Name:      "demo",
		Operation: op,
		Object:    runtime.RawExtension{Raw: []byte(object)},
		OldObject: runtime.RawExtension{Raw: []byte(old)},
	}}
	if change != nil {
		change(&req)
	}
	return req
}

// TestAnswersAreBounded: the answer must not grow far beyond what was sent.
func TestAnswersAreBounded(t *testing.T) {
	var spec strings.Builder
	spec.WriteString(`{"type":0`)
	for i := range 10_000 {
		fmt.Fprintf(&spec, `,"x%d":1`, i)
	}
	spec.WriteString(`}`)
	resp := newHandler(t).Handle(t.Context(), request(admissionv1.Create, "", identity("", spec.String()), nil))
	if resp.Allowed || len(resp.Result.Details.Causes) != maxFindings+1 || len(resp.Result.Message) > 100*maxFindings {
		t.Errorf("allowed %v, %d causes, %d bytes", resp.Allowed, len(resp.Result.Details.Causes), len(resp.Result.Message))
	}
	if !strings.Contains(resp.Result.Message, "spec: Forbidden: 9902 further findings are left out") {
		t.Errorf("the message does not say how many are left out: ...%s", resp.Result.Message[len(resp.Result.Message)-100:])
	}
}

// Work is bounded, too: what is too large is refused undecoded.
func TestLargeObjects(t *testing.T) {
	padding := func(n int, b string) string { return `,"labels":{"a":"` + strings.Repeat(b, n) + `"}` }
	large := identity(padding(maxObject, "b"), goodSpec)
	refused := fmt.Sprintf("Request entity too large: AzureIdentity has %d bytes as JSON, at most 524288 are allowed", len(large))
	tests := map[string]struct {
		req  admission.Request
		want string // "" is allowed
	}{
		"as large as may be": {
			req: request(admissionv1.Create, "", identity(padding(maxObject-len(identity(padding(0, ""), goodSpec)), "b"), goodSpec), nil),
		},
		"too large":                       {req: request(admissionv1.Create, "", large, nil), want: refused},
		"too large and no JSON":           {req: request(admissionv1.Create, "", strings.Repeat("{", len(large)), nil), want: refused},
		"the spec of a large one changes": {req: request(admissionv1.Update, strings.Replace(large, "demo", "other", 1), strings.Replace(large, "/demo", "/dem0", 1), nil), want: refused},
		"the spec of a large one stays":   {req: request(admissionv1.Update, identity("", goodSpec), large, nil)},
		"a large one is deleted":          {req: request(admissionv1.Delete, large, "", nil)},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			resp := newHandler(t).Handle(t.Context(), tt.req)
			if tt.want == "" {
				if !resp.Allowed {
					t.Errorf("refused: %s", resp.Result.Message)
				}
				return
			}
			if resp.Allowed || resp.Result.Code != 413 || resp.Result.Reason != metav1.StatusReasonRequestEntityTooLarge || resp.Result.Message != tt.want {
				t.Errorf("allowed %v, %v", resp.Allowed, resp.Result)
			}
		})
	}
}

func TestHandle(t *testing.T) {
	as := func(user string) func(*admission.Request) {
		return func(r *admission.Request) { r.UserInfo.Username = user }
	}
	tests := map[string]struct {
		req        admission.Request
		wantReason string // "" is allowed
		wantCode   int32
	}{
		"a valid object is created": {
			req: request(admissionv1.Create, "", identity("", goodSpec), nil),
		},
		"an invalid object is not created": {
			req:        request(admissionv1.Create, "", identity("", oldSpec), nil),
			wantReason: `AzureIdentity.aadpodidentity.k8s.io "demo" is invalid: [spec.ResourceID: Forbidden: miscapitalised, use "resourceID", spec.clientID: Required value: the client ID of the managed identity, a GUID]`,
			wantCode:   422,
		},
		"the name is yet to be generated": {
			req: request(admissionv1.Create, "", `{"metadata":{"generateName":"demo-"},"spec":{"resourceid":"x"}}`, func(r *admission.Request) {
				r.Name = ""
				r.Kind.Kind = v1.KindAzureIdentityBinding
			}),
			wantReason: `AzureIdentityBinding.aadpodidentity.k8s.io "demo-" is invalid: [spec.resourceid: Forbidden: unknown field, ` +
				`spec.azureIdentity: Required value: the name of an AzureIdentity in the namespace of the binding, ` +
				`spec.selector: Required value: the value of the label aadpodidbinding of the pods that get the identity]`,
			wantCode: 422,
		},
		"the metadata of an invalid stored object changes": {
			req: request(admissionv1.Update, identity("", oldSpec), identity(`,"labels":{"a":"b"}`, oldSpec), nil),
		},
		"a finalizer of an invalid stored object goes": {
			req: request(admissionv1.Update, identity(`,"finalizers":["x"],"deletionTimestamp":"2026-01-01T00:00:00Z"`, oldSpec), identity(`,"deletionTimestamp":"2026-01-01T00:00:00Z"`, oldSpec), nil),
		},
		"the order of the fields changes": {
			req: request(admissionv1.Update, identity("", `{"type":0,"colour":"blue"}`), identity("", `{ "colour":"blue", "type":0 }`), nil),
		},
		"a null field of the spec goes": {
			req: request(admissionv1.Update, identity("", `{"colour":"blue","metadata":{"creationTimestamp":null}}`), identity("", `{"colour":"blue","metadata":{}}`), nil),
		},
		"an object without spec stays without": {
			req: request(admissionv1.Update, `{"metadata":{"name":"demo"}}`, `{"metadata":{"name":"demo","labels":{}}}`, nil),
		},
		"the spec of a valid object becomes invalid": {
			req:        request(admissionv1.Update, identity("", goodSpec), identity("", strings.Replace(goodSpec, "clientID", "ClientID", 1)), nil),
			wantReason: `AzureIdentity.aadpodidentity.k8s.io "demo" is invalid: spec.ClientID: Forbidden: miscapitalised, use "clientID"`,
			wantCode:   422,
		},
		"the spec of an invalid object changes and stays invalid": {
			req:        request(admissionv1.Update, identity("", oldSpec), identity("", newSpec), as("someone")),
			wantReason: `AzureIdentity.aadpodidentity.k8s.io "demo" is invalid: spec.clientID: Required value: the client ID of the managed identity, a GUID`,
			wantCode:   422,
		},
		"the spec of an invalid object becomes valid": {
			req: request(admissionv1.Update, identity("", oldSpec), identity("", goodSpec), nil),
		},
		"MIC corrects the spelling of names and the object stays invalid": {
			req: request(admissionv1.Update, identity("", oldSpec), identity("", newSpec), as(mic)),
		},
		"MIC changes a value as well": {
			req:        request(admissionv1.Update, identity("", oldSpec), identity("", strings.Replace(newSpec, "demo", "admin", 1)), as(mic)),
			wantReason: `AzureIdentity.aadpodidentity.k8s.io "demo" is invalid: spec.clientID: Required value: the client ID of the managed identity, a GUID`,
			wantCode:   422,
		},
		"MIC corrects a typing mistake, which is a guess": {
			req:        request(admissionv1.Update, identity("", strings.Replace(oldSpec, "ResourceID", "resorceID", 1)), identity("", newSpec), as(mic)),
			wantReason: `AzureIdentity.aadpodidentity.k8s.io "demo" is invalid: spec.clientID: Required value: the client ID of the managed identity, a GUID`,
			wantCode:   422,
		},
		"MIC creates an invalid object": {
			req:        request(admissionv1.Create, "", identity("", newSpec), as(mic)),
			wantReason: `AzureIdentity.aadpodidentity.k8s.io "demo" is invalid: spec.clientID: Required value: the client ID of the managed identity, a GUID`,
			wantCode:   422,
		},
		"the annotation Behavior of an invalid object becomes valid": {
			req: request(admissionv1.Update, identity(`,"annotations":{"aadpodidentity.k8s.io/behavior":"x"}`, oldSpec), identity(`,"annotations":{"aadpodidentity.k8s.io/Behavior":"namespaced"}`, oldSpec), nil),
		},
		"the annotation Behavior changes and is wrong": {
			req:        request(admissionv1.Update, identity("", oldSpec), identity(`,"annotations":{"aadpodidentity.k8s.io/Behavior":"Namespaced"}`, oldSpec), nil),
			wantReason: `AzureIdentity.aadpodidentity.k8s.io "demo" is invalid: metadata.annotations[aadpodidentity.k8s.io/Behavior]: Invalid value: "Namespaced": miscapitalised, use "namespaced"`,
			wantCode:   422,
		},
		"a stored annotation Behavior is wrong and another annotation changes": {
			req: request(admissionv1.Update, identity(`,"annotations":{"aadpodidentity.k8s.io/behavior":"x"}`, oldSpec), identity(`,"annotations":{"a":"b","aadpodidentity.k8s.io/behavior":"x"}`, oldSpec), nil),
		},
		"a stored annotation Behavior is wrong and the spec changes": {
			req: request(admissionv1.Update, identity(`,"annotations":{"aadpodidentity.k8s.io/behavior":"x"}`, oldSpec), identity(`,"annotations":{"aadpodidentity.k8s.io/behavior":"x"}`, goodSpec), nil),
		},
		"MIC corrects the spelling of names and the annotation is broken with it": {
			req:        request(admissionv1.Update, identity("", oldSpec), identity(`,"annotations":{"aadpodidentity.k8s.io/Behaviour":"namespaced"}`, newSpec), as(mic)),
			wantReason: `AzureIdentity.aadpodidentity.k8s.io "demo" is invalid: metadata.annotations[aadpodidentity.k8s.io/Behaviour]: Forbidden: unknown annotation, did you mean "aadpodidentity.k8s.io/Behavior"?`,
			wantCode:   422,
		},
		"the annotation of another kind means nothing": {
			req: request(admissionv1.Create, "", `{"metadata":{"name":"demo","annotations":{"aadpodidentity.k8s.io/behavior":"x"}},"spec":{"azureIdentity":"demo","selector":"x"}}`, func(r *admission.Request) {
				r.Kind.Kind = v1.KindAzureIdentityBinding
			}),
		},
		"a field of the metadata that only a newer API server knows": {
			req: request(admissionv1.Create, "", identity(`,"future":{"a":["b"]}`, goodSpec), nil),
		},
		"metadata that is no object": {
			req:        request(admissionv1.Update, identity("", goodSpec), `{"metadata":5,"spec":{}}`, nil),
			wantReason: "the object or its metadata is no JSON object",
			wantCode:   400,
		},
		"an invalid object is deleted": {
			req: request(admissionv1.Delete, identity("", oldSpec), "", nil),
		},
		"the status is written": {
			req: request(admissionv1.Update, identity("", oldSpec), identity("", `{"x":1}`), func(r *admission.Request) { r.SubResource = "status" }),
		},
		"another kind": {
			req:        request(admissionv1.Create, "", `{}`, func(r *admission.Request) { r.Kind = metav1.GroupVersionKind{Version: "v1", Kind: "Pod"} }),
			wantReason: "cannot judge /v1, Kind=Pod",
			wantCode:   400,
		},
		"no object":       {req: request(admissionv1.Create, "", "", nil), wantReason: "there is no object", wantCode: 400},
		"a null object":   {req: request(admissionv1.Create, "", "null", nil), wantReason: "the object must be an object, not null", wantCode: 400},
		"a list":          {req: request(admissionv1.Create, "", "[]", nil), wantReason: "the object must be an object, not a list", wantCode: 400},
		"no old object":   {req: request(admissionv1.Update, "", identity("", goodSpec), nil), wantReason: "the update comes without the old object", wantCode: 400},
		"a broken object": {req: request(admissionv1.Update, identity("", goodSpec), "{", nil), wantReason: "the object is not valid JSON at byte 1", wantCode: 400},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			resp := newHandler(t).Handle(t.Context(), tt.req)
			if resp.Allowed != (tt.wantReason == "") {
				t.Errorf("allowed %v: %+v", resp.Allowed, resp.Result)
			}
			if tt.wantReason != "" {
				if diff := cmp.Diff(tt.wantReason, resp.Result.Message); diff != "" {
					t.Errorf("message (-want +got):\n%s", diff)
				}
				if resp.Result.Code != tt.wantCode {
					t.Errorf("code %d, want %d", resp.Result.Code, tt.wantCode)
				}
			}
			if len(resp.Patches) > 0 || len(resp.Patch) > 0 {
				t.Errorf("it changes the object: %v", resp.Patches)
			}
		})
	}
}

// TestResourceIDCase is the policy about IDs that are miscapitalised and nothing
// else, in both calls of one request, one after the other as the API server makes
// them.
func TestResourceIDCase(t *testing.T) {
	id := func(change ...string) string { return strings.NewReplacer(change...).Replace(goodSpec) }
	const (
		miscapitalised = `segment "RESOURCEGROUPS" is miscapitalised, use "resourcegroups" or "resourceGroups"; `
		right          = `"/subscriptions/0f3c5e2a-91b7-4d1e-8c57-2b1f6a9d4e30/resourcegroups/rg/providers/Microsoft.ManagedIdentity/userAssignedIdentities/demo"`
	)
	tests := map[string]struct {
		idCase   validation.IDCase
		old      string // an update, if there is one
		spec     string
		refused  bool
		stored   string // the resource ID afterwards, if it is another
		warnings []string
	}{
		"rejected":                          {idCase: validation.RejectCase, spec: id("resourcegroups", "RESOURCEGROUPS"), refused: true},
		"rejected without a policy":         {spec: id("resourcegroups", "RESOURCEGROUPS"), refused: true},
		"admitted with a warning":           {idCase: validation.WarnCase, spec: id("resourcegroups", "RESOURCEGROUPS"), warnings: []string{"spec.resourceID: " + miscapitalised + "use " + right}},
		"made canonical":                    {idCase: validation.CanonicalizeCase, spec: id("resourcegroups", "RESOURCEGROUPS"), stored: right, warnings: []string{"spec.resourceID: " + miscapitalised + "stored as " + right}},
		"names stay the user's":             {idCase: validation.CanonicalizeCase, spec: id("resourcegroups/rg", "resourceGroups/RG", "Microsoft", "microsoft"), stored: strings.Replace(right, "resourcegroups/rg", "resourceGroups/RG", 1), warnings: []string{`spec.resourceID: segment "microsoft.ManagedIdentity" is miscapitalised, use "Microsoft.ManagedIdentity"; stored as ` + strings.Replace(right, "resourcegroups/rg", "resourceGroups/RG", 1)}},
		"the portal's spelling stays":       {idCase: validation.CanonicalizeCase, spec: id("resourcegroups", "resourceGroups")},
		"nothing to warn about":             {idCase: validation.WarnCase, spec: id("resourcegroups", "resourceGroups")},
		"another defect of the ID":          {idCase: validation.CanonicalizeCase, spec: id("resourcegroups", "RESOURCEGROUPS", `/demo"`, `/demo/"`), refused: true},
		"another defect of the ID, warned":  {idCase: validation.WarnCase, spec: id("resourcegroups", "RESOURCEGROUPS", `/demo"`, `/demo/"`), refused: true},
		"another defect of the object":      {idCase: validation.CanonicalizeCase, spec: id("resourcegroups", "RESOURCEGROUPS", "clientID", "ClientID"), refused: true},
		"a stored ID that nobody touches":   {idCase: validation.CanonicalizeCase, old: id("resourcegroups", "RESOURCEGROUPS"), spec: id("resourcegroups", "RESOURCEGROUPS")},
		"a stored ID beside another change": {idCase: validation.CanonicalizeCase, old: id("resourcegroups", "RESOURCEGROUPS"), spec: id("resourcegroups", "RESOURCEGROUPS", `"type":0`, `"type":0,"replicas":1`), stored: right, warnings: []string{"spec.resourceID: " + miscapitalised + "stored as " + right}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			op, old := admissionv1.Create, ""
			if tt.old != "" {
				op, old = admissionv1.Update, identity("", tt.old)
			}
			mutating := &Handler{Rules: newHandler(t).Rules, ResourceIDCase: tt.idCase, Mutating: true}
			validating := &Handler{Rules: mutating.Rules, ResourceIDCase: tt.idCase}
			resp := mutating.Handle(t.Context(), request(op, old, identity("", tt.spec), nil))
			if resp.Allowed == tt.refused {
				t.Fatalf("allowed %v: %+v", resp.Allowed, resp.Result)
			}
			if tt.refused {
				if again := validating.Handle(t.Context(), request(op, old, identity("", tt.spec), nil)); again.Allowed {
					t.Error("the validating call admits what the mutating one refuses")
				}
				return
			}
			spec := tt.spec
			if tt.stored != "" {
				if unwritten := validating.Handle(t.Context(), request(op, old, identity("", tt.spec), nil)); unwritten.Allowed {
					t.Error("the validating call admits what the mutating one did not write")
				}
				want := []jsonpatch.Operation{{Operation: "replace", Path: "/spec/resourceID", Value: strings.Trim(tt.stored, `"`)}}
				if diff := cmp.Diff(want, resp.Patches); diff != "" {
					t.Fatalf("patch (-want +got):\n%s", diff)
				}
				var parts struct{ ResourceID string }
				if err := json.Unmarshal([]byte(spec), &parts); err != nil {
					t.Fatal(err)
				}
				spec = strings.Replace(spec, parts.ResourceID, strings.Trim(tt.stored, `"`), 1)
				if again := mutating.Handle(t.Context(), request(op, old, identity("", spec), nil)); len(again.Patches) > 0 || len(again.Warnings) > 0 {
					t.Errorf("a second call changes it again: %v, %v", again.Patches, again.Warnings)
				}
			} else if len(resp.Patches) > 0 {
				t.Errorf("patches %v", resp.Patches)
			}
			checked := validating.Handle(t.Context(), request(op, old, identity("", spec), nil))
			if !checked.Allowed || len(checked.Patches) > 0 {
				t.Errorf("the validating call: %+v, %v", checked.Result, checked.Patches)
			}
			if diff := cmp.Diff(tt.warnings, append(resp.Warnings, checked.Warnings...)); diff != "" {
				t.Errorf("warnings of both calls (-want +got):\n%s", diff)
			}
		})
	}
}

func TestLegalAndPointless(t *testing.T) {
	spec := strings.Replace(goodSpec, `"type":0`, `"type":0,"clientPassword":{"name":"x","namespace":"y"}`, 1)
	want := []string{"spec.clientPassword: type 0 does not use it"}
	h := newHandler(t)
	for mutating, want := range map[bool][]string{true: nil, false: want} {
		h.Mutating = mutating
		resp := h.Handle(t.Context(), request(admissionv1.Create, "", identity("", spec), nil))
		if diff := cmp.Diff(want, resp.Warnings); !resp.Allowed || diff != "" {
			t.Errorf("mutating %v: allowed %v, warnings (-want +got):\n%s", mutating, resp.Allowed, diff)
		}
	}
}

func BenchmarkHandle(b *testing.B) {
	h := newHandler(b)
	req := request(admissionv1.Create, "", identity("", goodSpec), nil)
	b.ReportAllocs()
	for b.Loop() {
		if resp := h.Handle(b.Context(), req); !resp.Allowed {
			b.Fatal(resp.Result)
		}
	}
}

func TestEveryFindingIsACause(t *testing.T) {
	resp := newHandler(t).Handle(t.Context(), request(admissionv1.Create, "", identity("", oldSpec), nil))
	want := []metav1.StatusCause{
		{Type: "FieldValueForbidden", Field: "spec.ResourceID", Message: `Forbidden: miscapitalised, use "resourceID"`},
		{Type: "FieldValueRequired", Field: "spec.clientID", Message: "Required value: the client ID of the managed identity, a GUID"},
	}
	if diff := cmp.Diff(want, resp.Result.Details.Causes); diff != "" {
		t.Errorf("causes (-want +got):\n%s", diff)
	}
}

// cluster is what the Warner sees.
type cluster struct {
	identity *v1.AzureIdentity
	bindings []*v1.AzureIdentityBinding
	err      error
}

func (c cluster) IdentityNow(context.Context, string, string) (*v1.AzureIdentity, error) {
	return c.identity, c.err
}

func (c cluster) BindingsBySelector(context.Context, string) ([]*v1.AzureIdentityBinding, error) {
	return c.bindings, c.err
}

func TestWarnings(t *testing.T) {
	twin := func(namespace, name, identity string) *v1.AzureIdentityBinding {
		return &v1.AzureIdentityBinding{
			ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name},
			Spec:       v1.AzureIdentityBindingSpec{AzureIdentity: identity, Selector: "web"},
		}
	}
	tests := map[string]struct {
		cluster cluster
		want    []string
	}{
		"all is well":                    {cluster{identity: &v1.AzureIdentity{}}, nil},
		"the identity does not exist":    {cluster{}, []string{`AzureIdentity default/demo does not exist (yet)`}},
		"another binding says the same":  {cluster{identity: &v1.AzureIdentity{}, bindings: []*v1.AzureIdentityBinding{twin("default", "twin", "demo")}}, []string{`AzureIdentityBinding default/twin says the same: identity "demo" for selector "web"`}},
		"it is the binding itself":       {cluster{identity: &v1.AzureIdentity{}, bindings: []*v1.AzureIdentityBinding{twin("default", "demo", "demo")}}, nil},
		"the other is another identity":  {cluster{identity: &v1.AzureIdentity{}, bindings: []*v1.AzureIdentityBinding{twin("default", "twin", "demo2")}}, nil},
		"the other is another namespace": {cluster{identity: &v1.AzureIdentity{}, bindings: []*v1.AzureIdentityBinding{twin("other", "twin", "demo")}}, nil},
		"the cluster cannot be asked":    {cluster{err: errors.New("no")}, nil},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			h := newHandler(t)
			h.Warner = &Warner{Reader: tt.cluster}
			resp := h.Handle(t.Context(), request(admissionv1.Create, "", `{"metadata":{"name":"demo"},"spec":{"azureIdentity":"demo","selector":"web"}}`, func(r *admission.Request) {
				r.Kind.Kind = v1.KindAzureIdentityBinding
			}))
			if !resp.Allowed {
				t.Errorf("refused: %+v", resp.Result)
			}
			if diff := cmp.Diff(tt.want, resp.Warnings); diff != "" {
				t.Errorf("warnings (-want +got):\n%s", diff)
			}
		})
	}
}
