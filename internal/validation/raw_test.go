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

type rawCase struct {
	kind, object string
	want         []string
}

// rawCases are what the manifests in test/manifests cannot show, since kubectl or
// the API server would not let it through, or since it is of no interest to a
// reader.
func rawCases() map[string]rawCase {
	identity := func(spec string) string {
		return `{"spec":{"resourceID":"` + goodID + `","clientID":"7eb6d1a0-2c4f-4b8e-9d3a-5f1e0c7ba6a9"` + spec + `}}`
	}
	return map[string]rawCase{
		"null fields are absent fields": {
			v1.KindAzureIdentity, identity(`,"auxiliaryTenantIDs":null,"replicas":null,"metadata":{"creationTimestamp":null,"labels":null}`), nil,
		},
		"null where the schema of the API server does not take it": {
			v1.KindAzureIdentity, identity(`,"clientPassword":null,"adEndpoint":null,"type":null`),
			[]string{
				"spec.adEndpoint: Invalid value: must be a string, not null",
				"spec.clientPassword: Invalid value: must be an object, not null",
				"spec.type: Invalid value: must be a number, not null",
			},
		},
		"null for a whole spec": {v1.KindAzureIdentityBinding, `{"spec":null}`, []string{"spec: Invalid value: must be an object, not null"}},
		"null elements": {
			v1.KindAzureIdentity, identity(`,"auxiliaryTenantIDs":[null]`),
			[]string{"spec.auxiliaryTenantIDs[0]: Invalid value: must be a string, not null"},
		},
		"fields that are there twice": {
			v1.KindAzureIdentityBinding, `{"spec":{"azureIdentity":"demo","selector":"a","selector":"b c","metadata":{"name":"x","name":"y"}}}`,
			[]string{
				"spec.selector: Forbidden: written more than once: keep one",
				"spec.metadata.name: Forbidden: written more than once: keep one",
				`spec.selector: Invalid value: "b c": must be possible as the value of the pod label aadpodidbinding: at most 63 letters, digits, -, _ and ., the first and last a letter or digit`,
			},
		},
		"a spec that is there twice": {
			v1.KindAzureIdentityBinding, `{"spec":{"azureIdentity":"demo","selector":"a"},"spec":{"azureIdentity":"demo","selector":"a"}}`,
			[]string{"spec: Forbidden: written more than once: keep one"},
		},
		"a whole number written as a fraction, as the API server takes it": {v1.KindAzureIdentity, identity(`,"type":0.0,"replicas":1e0`), nil},
		"a type in quotes is judged as what it means": {
			v1.KindAzureIdentity, `{"spec":{"type":"2","tenantID":"contoso.com","clientID":"7eb6d1a0-2c4f-4b8e-9d3a-5f1e0c7ba6a9","clientPassword":{"name":"x"}}}`,
			[]string{
				`spec.type: Invalid value: "2": must be a number, not a string: remove the quotes`,
				"spec.clientPassword.namespace: Required value: type 2 needs the namespace of the Secret with the certificate",
			},
		},
		"a type that says nothing, and a value that is bad in any type": {
			v1.KindAzureIdentity, `{"spec":{"type":true,"clientID":"x"}}`,
			[]string{
				"spec.type: Invalid value: true: must be a number, not a boolean",
				`spec.clientID: Invalid value: "x": must be a GUID, such as 00000000-0000-0000-0000-000000000000`,
			},
		},
		"the only label of an exception has a wrong type": {
			v1.KindAzurePodIdentityException, `{"spec":{"podLabels":{"a":1}}}`,
			[]string{"spec.podLabels[a]: Invalid value: 1: must be a string, not a number: put it in quotes"},
		},
		"several labels of an exception": {
			v1.KindAzurePodIdentityException, `{"spec":{"podLabels":{"z z":"","b":"b b","a":"","Example.com/a":"x"}}}`,
			[]string{
				`spec.podLabels[Example.com/a]: Invalid value: "Example.com/a": must be the key of a label: at most 63 letters, digits, -, _ and ., the first and last a letter or digit, after a lower-case domain and a slash if need be`,
				`spec.podLabels[b]: Invalid value: "b b": must be possible as the value of a label: empty, or at most 63 letters, digits, -, _ and ., the first and last a letter or digit`,
				`spec.podLabels[z z]: Invalid value: "z z": must be the key of a label: at most 63 letters, digits, -, _ and ., the first and last a letter or digit, after a lower-case domain and a slash if need be`,
			},
		},
		"the copies in an AzureAssignedIdentity are judged by names and types alone": {
			v1.KindAzureAssignedIdentity, `{"spec":{"pod":"p","podNamespace":"d","nodename":"n","azureIdentityRef":{"metadata":{"annotations":{"aadpodidentity.k8s.io/behavior":"x"}},"spec":{"type":7,"resourceID":"x","clientID":"y","adEndpoint":"z"}},"azureBindingRef":{"spec":{"selector":5}}}}`,
			[]string{"spec.azureBindingRef.spec.selector: Invalid value: 5: must be a string, not a number: put it in quotes"},
		},
		"fields of the metadata, which is the API server's to read, in the object and in a copy": {
			v1.KindAzureAssignedIdentity, `{"metadata":{"future":{"a":1},"Labels":1},"spec":{"pod":"p","podNamespace":"d","nodename":"n","azureIdentityRef":{"metadata":{"future":1}},"metadata":{"future":1}}}`,
			[]string{"spec.metadata.future: Forbidden: unknown field"},
		},
		"annotations that are others": {
			v1.KindAzureIdentity, `{"metadata":{"annotations":{"aadpodidentity.k8s.io/selector":"x","example.com/Behavior":"x","Behavior":"x","kubectl.kubernetes.io/last-applied-configuration":"{}"}},` + identity("")[1:], nil,
		},
		"an annotation in capitals": {
			v1.KindAzureIdentity, `{"metadata":{"annotations":{"AADPODIDENTITY.k8s.io/BEHAVIOR":"NAMESPACED"}},` + identity("")[1:],
			[]string{
				`metadata.annotations[AADPODIDENTITY.k8s.io/BEHAVIOR]: Forbidden: miscapitalised, use "aadpodidentity.k8s.io/Behavior"`,
				`metadata.annotations[AADPODIDENTITY.k8s.io/BEHAVIOR]: Invalid value: "NAMESPACED": miscapitalised, use "namespaced"`,
			},
		},
		"an IP address is no domain": {
			v1.KindAzureIdentity, identity(`,"tenantID":"10.0.0.1"`),
			[]string{`spec.tenantID: Invalid value: "10.0.0.1": must be a GUID or a verified domain, such as contoso.onmicrosoft.com`},
		},
		"authorities with a port, a path or an address": {v1.KindAzureIdentity, identity(`,"adEndpoint":"https://adfs.local:8443/adfs"`), nil},
		"an authority with an impossible port": {
			v1.KindAzureIdentity, identity(`,"adEndpoint":"https://login.microsoftonline.com:70000/"`),
			[]string{`spec.adEndpoint: Invalid value: "https://login.microsoftonline.com:70000/": must be an https URL with the name of a host, and a port from 1 to 65535 if any`},
		},
		"an authority with an empty fragment": {
			v1.KindAzureIdentity, identity(`,"adEndpoint":"https://login.microsoftonline.com/#"`),
			[]string{`spec.adEndpoint: Invalid value: "https://login.microsoftonline.com/#": must be an https URL without user, query and fragment`},
		},
		"a null where something is required": {
			v1.KindAzureIdentityBinding, `{"spec":{"azureIdentity":null,"selector":"x"}}`,
			[]string{"spec.azureIdentity: Invalid value: must be a string, not null"},
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
			[]string{"spec.type: Invalid value: 0.5: must be a whole number"},
		},
		"a number that is too large": {
			v1.KindAzureIdentity, identity(`,"replicas":2147483648`),
			[]string{"spec.replicas: Invalid value: 2147483648: must be from -2147483648 to 2147483647"},
		},
		"a number that no integer can hold": {
			v1.KindAzureIdentity, identity(`,"type":1e300`),
			[]string{"spec.type: Invalid value: 1e+300: must be from -9223372036854775808 to 9223372036854775807"},
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
}

func TestRaw(t *testing.T) {
	v := newValidator(t)
	for name, tt := range rawCases() {
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
			decoded, _, err := decode(raw)
			if err != nil {
				t.Fatal(err)
			}
			w := &walker{}
			w.object(v.kinds[kind].schema, decoded)
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
		"nothing":         {v1.KindAzureIdentity, "", "there is no object"},
		"no JSON":         {v1.KindAzureIdentity, `{"spec":}`, "the object is not valid JSON at byte 9"},
		"half of it":      {v1.KindAzureIdentity, "{", "the object is not valid JSON at byte 1"},
		"null":            {v1.KindAzureIdentity, "null", "the object must be an object, not null"},
		"a list":          {v1.KindAzureIdentity, "[]", "the object must be an object, not a list"},
		"a huge number":   {v1.KindAzureIdentity, `{"spec":{"type":1e999}}`, "the object holds a number that is too large"},
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
