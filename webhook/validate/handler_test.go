package validate

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
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
		"no object":       {req: request(admissionv1.Create, "", "", nil), wantReason: "decoding the object: unexpected end of JSON input", wantCode: 400},
		"a null object":   {req: request(admissionv1.Create, "", "null", nil), wantReason: "decoding the object: it is null", wantCode: 400},
		"a list":          {req: request(admissionv1.Create, "", "[]", nil), wantReason: "decoding the object: json: cannot unmarshal array into Go value of type map[string]interface {}", wantCode: 400},
		"no old object":   {req: request(admissionv1.Update, "", identity("", goodSpec), nil), wantReason: "the update comes without the old object", wantCode: 400},
		"a broken object": {req: request(admissionv1.Update, identity("", goodSpec), "{", nil), wantReason: "decoding the spec: unexpected end of JSON input", wantCode: 400},
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
