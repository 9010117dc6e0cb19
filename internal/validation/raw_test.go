package validation

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/util/validation/field"

	v1 "github.com/aad-pod-identity/aad-pod-identity/api/v1"
)

const goodID = "/subscriptions/0f3c5e2a-91b7-4d1e-8c57-2b1f6a9d4e30/resourcegroups/rg/providers/Microsoft.ManagedIdentity/userAssignedIdentities/demo"

func messages(findings field.ErrorList) []string {
	var texts []string
	for _, f := range findings {
		texts = append(texts, f.Error())
	}
	return texts
}

// What the manifests in test/manifests cannot show, since kubectl or the API
// server would not let it through, or since it is of no interest to a reader.
func TestRaw(t *testing.T) {
	identity := func(spec string) string {
		return `{"spec":{"resourceID":"` + goodID + `","clientID":"7eb6d1a0-2c4f-4b8e-9d3a-5f1e0c7ba6a9"` + spec + `}}`
	}
	tests := map[string]struct {
		kind, object string
		want         []string
	}{
		"null fields are absent fields": {
			v1.KindAzureIdentity, identity(`,"clientPassword":null,"auxiliaryTenantIDs":null,"replicas":null,"metadata":{"creationTimestamp":null}`), nil,
		},
		"a null where something is required": {
			v1.KindAzureIdentityBinding, `{"spec":{"azureIdentity":null,"selector":"x"}}`,
			[]string{"spec.azureIdentity: Required value: the name of an AzureIdentity in the namespace of the binding"},
		},
		"no spec": {
			v1.KindAzureIdentityBinding, `{"metadata":{"name":"x"}}`,
			[]string{
				"spec.azureIdentity: Required value: the name of an AzureIdentity in the namespace of the binding",
				"spec.selector: Required value: the value of the label aadpodidbinding of the pods that get the identity",
			},
		},
		"a spec that is no object": {
			v1.KindAzureIdentityBinding, `{"spec":"x"}`,
			[]string{`spec: Invalid value: "x": must be an object, not a string`},
		},
		"a capitalised spec, which the API server would refuse": {
			v1.KindAzureIdentityBinding, `{"Spec":{"azureIdentity":"demo","Selector":"x"}}`,
			[]string{`Spec: Forbidden: miscapitalised, use "spec"`, `spec.Selector: Forbidden: miscapitalised, use "selector"`},
		},
		"two wrong capitalisations of one name": {
			v1.KindAzureIdentityBinding, `{"spec":{"azureIdentity":"demo","SELECTOR":"a","Selector":"b"}}`,
			[]string{`spec.SELECTOR: Forbidden: miscapitalised, use "selector"`, `spec.Selector: Forbidden: miscapitalised, and "selector" is there as well: remove one`},
		},
		"an element of a list": {
			v1.KindAzureIdentity, identity(`,"auxiliaryTenantIDs":["contoso.com",5,"x y"]`),
			[]string{
				"spec.auxiliaryTenantIDs[1]: Invalid value: 5: must be a string, not a number: put it in quotes",
				`spec.auxiliaryTenantIDs[2]: Invalid value: "x y": must be a GUID or a verified domain, such as contoso.onmicrosoft.com`,
			},
		},
		"a value of a map": {
			v1.KindAzurePodIdentityException, `{"spec":{"podLabels":{"a":"b","c/d":true}}}`,
			[]string{"spec.podLabels[c/d]: Invalid value: true: must be a string, not a boolean: put it in quotes"},
		},
		"a list where a map belongs": {
			v1.KindAzurePodIdentityException, `{"spec":{"podLabels":["a"]}}`,
			[]string{"spec.podLabels: Invalid value: must be an object, not a list"},
		},
		"an object where a string belongs": {
			v1.KindAzureIdentity, identity(`,"tenantID":{"name":"x"}`),
			[]string{"spec.tenantID: Invalid value: must be a string, not an object"},
		},
		"a type that is a fraction": {
			v1.KindAzureIdentity, identity(`,"type":0.5`),
			[]string{"spec.type: Invalid value: 0.5: must be a whole number without decimal point or exponent"},
		},
		"a number that is too large": {
			v1.KindAzureIdentity, identity(`,"replicas":2147483648`),
			[]string{"spec.replicas: Invalid value: 2147483648: must be from -2147483648 to 2147483647"},
		},
		"a number that no integer can hold": {
			v1.KindAzureIdentity, identity(`,"type":1e300`),
			[]string{"spec.type: Invalid value: 1e+300: must be a whole number without decimal point or exponent"},
		},
		"a time that is none": {
			v1.KindAzureIdentity, identity(`,"metadata":{"creationTimestamp":"yesterday","deletionTimestamp":5}`),
			[]string{
				`spec.metadata.creationTimestamp: Invalid value: "yesterday": must be a time in RFC 3339 format, such as 2006-01-02T15:04:05Z`,
				"spec.metadata.deletionTimestamp: Invalid value: 5: must be a time in RFC 3339 format, not a number",
			},
		},
		"a boolean that is none": {
			v1.KindAzureIdentity, identity(`,"metadata":{"ownerReferences":[{"controller":"yes"}]}`),
			[]string{`spec.metadata.ownerReferences[0].controller: Invalid value: "yes": must be true or false, not a string`},
		},
		"the stored status is not the user's": {
			v1.KindAzureIdentity, `{"status":{"State":5,"availableReplicas":"many"},` + identity("")[1:], nil,
		},
		"a client ID in braces": {
			v1.KindAzureIdentity, strings.Replace(identity(""), "7eb6d1a0-2c4f-4b8e-9d3a-5f1e0c7ba6a9", "{7eb6d1a0-2c4f-4b8e-9d3a-5f1e0c7ba6a9}", 1),
			[]string{`spec.clientID: Invalid value: "{7eb6d1a0-2c4f-4b8e-9d3a-5f1e0c7ba6a9}": must be a GUID; use "7eb6d1a0-2c4f-4b8e-9d3a-5f1e0c7ba6a9"`},
		},
		"an authority that is not https": {
			v1.KindAzureIdentity, identity(`,"adEndpoint":"http://login.microsoftonline.com/"`),
			[]string{`spec.adEndpoint: Invalid value: "http://login.microsoftonline.com/": must be an https URL, such as https://login.microsoftonline.com/`},
		},
		"an authority with a password": {
			v1.KindAzureIdentity, identity(`,"adEndpoint":"https://a:b@login.microsoftonline.com/"`),
			[]string{`spec.adEndpoint: Invalid value: "https://a:b@login.microsoftonline.com/": must be an https URL without user, query and fragment`},
		},
		"an object as older releases stored it": {
			v1.KindAzureAssignedIdentity, `{"apiVersion":"aadpodidentity.k8s.io/v1","kind":"AzureAssignedIdentity","metadata":{"name":"x","managedFields":[{"manager":"m","operation":"Update","time":"2026-01-01T00:00:00Z","fieldsV1":{"f:spec":{"f:Whatever":{}}}}]},
			 "spec":{"azureBindingRef":{"metadata":{"creationTimestamp":null,"name":"b"},"spec":{"azureIdentity":"demo","metadata":{"creationTimestamp":null},"selector":"x","weight":0},"status":{"availableReplicas":0,"metadata":{"creationTimestamp":null}}},
			 "azureIdentityRef":{"spec":{"adEndpoint":"","adResourceID":"","clientPassword":{},"replicas":null,"type":0}},"metadata":{"creationTimestamp":null},"nodename":"n","pod":"p","podNamespace":"d","replicas":1},
			 "status":{"availableReplicas":1,"metadata":{"creationTimestamp":null},"status":"Assigned"}}`, nil,
		},
	}
	v := newValidator(t)
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			findings, err := v.Raw(tt.kind, []byte(tt.object))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, messages(findings)); diff != "" {
				t.Errorf("findings (-want +got):\n%s", diff)
			}
		})
	}
}

// The schema must know every name that the Go types write, or an object of ours
// would be refused.
func TestSchemaKnowsWhatTheTypesWrite(t *testing.T) {
	v := newValidator(t)
	for kind, object := range map[string]any{
		v1.KindAzureIdentity:             filled[v1.AzureIdentity](),
		v1.KindAzureIdentityBinding:      filled[v1.AzureIdentityBinding](),
		v1.KindAzureAssignedIdentity:     filled[v1.AzureAssignedIdentity](),
		v1.KindAzurePodIdentityException: filled[v1.AzurePodIdentityException](),
	} {
		t.Run(kind, func(t *testing.T) {
			raw, err := json.Marshal(object)
			if err != nil {
				t.Fatal(err)
			}
			decoded, err := decode(raw)
			if err != nil {
				t.Fatal(err)
			}
			w := &walker{}
			w.object(v.kinds[kind].schema, decoded, func() *field.Path { return nil })
			if len(w.findings) > 0 {
				t.Errorf("%s\nfindings: %v", raw, messages(w.findings))
			}
		})
	}
}

// filled returns a T in which every field has a value other than zero.
func filled[T any]() *T {
	var object T
	fill(reflect.ValueOf(&object).Elem())
	return &object
}

func fill(v reflect.Value) {
	if v.Type().String() == "v1.Time" {
		v.FieldByName("Time").Set(reflect.ValueOf(someTime))
		return
	}
	switch v.Kind() {
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(v.Elem())
	case reflect.Struct:
		if v.Type().String() == "v1.FieldsV1" {
			return
		}
		for i := range v.NumField() {
			if v.Type().Field(i).IsExported() {
				fill(v.Field(i))
			}
		}
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 1, 1))
		fill(v.Index(0))
	case reflect.Map:
		element := reflect.New(v.Type().Elem()).Elem()
		fill(element)
		v.Set(reflect.MakeMap(v.Type()))
		v.SetMapIndex(reflect.ValueOf("key").Convert(v.Type().Key()), element)
	case reflect.String:
		v.SetString("x")
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int, reflect.Int32, reflect.Int64:
		v.SetInt(1)
	}
}

func TestWhatIsNoObject(t *testing.T) {
	v := newValidator(t)
	for name, tt := range map[string]struct{ kind, object, want string }{
		"an unknown kind": {"Pod", "{}", `kind "Pod" is not known`},
		"no JSON":         {v1.KindAzureIdentity, "{", "decoding the object: unexpected end of JSON input"},
		"null":            {v1.KindAzureIdentity, "null", "decoding the object: it is null"},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := v.Raw(tt.kind, []byte(tt.object)); err == nil || err.Error() != tt.want {
				t.Errorf("got %v, want %s", err, tt.want)
			}
		})
	}
}

func TestStoredIdentity(t *testing.T) {
	tests := map[string]struct {
		spec v1.AzureIdentitySpec
		want string
	}{
		"a managed identity without client ID": {v1.AzureIdentitySpec{ResourceID: goodID}, ""},
		"an ID in another capitalisation":      {v1.AzureIdentitySpec{ResourceID: strings.ToUpper(goodID)}, ""},
		"an empty ID": {v1.AzureIdentitySpec{},
			`Invalid resource id: "", must match /subscriptions/<subid>/resourcegroups/<resourcegroup>/providers/Microsoft.ManagedIdentity/userAssignedIdentities/<name>`},
		"an ID with junk before it, which the old pattern let through": {v1.AzureIdentitySpec{ResourceID: "x" + goodID},
			`Invalid resource id: "x` + goodID + `", must match /subscriptions/<subid>/resourcegroups/<resourcegroup>/providers/Microsoft.ManagedIdentity/userAssignedIdentities/<name>: "x" before /subscriptions; use "` + goodID + `"`},
		"a service principal needs no ID":   {v1.AzureIdentitySpec{Type: v1.ServicePrincipal}, ""},
		"a certificate needs no ID":         {v1.AzureIdentitySpec{Type: v1.ServicePrincipalCertificate}, ""},
		"a type that nobody can make sense": {v1.AzureIdentitySpec{Type: 7, ResourceID: goodID}, "Invalid type: 7, must be 0, 1 or 2"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			got := ""
			if err := StoredIdentity(&v1.AzureIdentity{Spec: tt.spec}); err != nil {
				got = err.Error()
			}
			if got != tt.want {
				t.Errorf("got  %s\nwant %s", got, tt.want)
			}
		})
	}
}
