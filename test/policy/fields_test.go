package policy_test

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	v1 "github.com/aad-pod-identity/aad-pod-identity/api/v1"
)

// TestPolicyKnowsTheGoTypes holds that the policy on field names knows the fields of
// the Go types, and no others.
func TestPolicyKnowsTheGoTypes(t *testing.T) {
	known := map[string]map[string]string{}
	for _, p := range staticPolicies(t) {
		if p.GetKind() != "ValidatingAdmissionPolicy" || !strings.HasSuffix(p.GetName(), "-field-names") {
			continue
		}
		variables, _, err := unstructured.NestedSlice(p.Object, "spec", "variables")
		if err != nil {
			t.Fatal(err)
		}
		for _, v := range variables {
			if v := v.(map[string]any); v["name"] == "fields" {
				if err := json.Unmarshal([]byte(v["expression"].(string)), &known); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	want := map[string]map[string]string{}
	for _, kind := range []any{v1.AzureIdentity{}, v1.AzureIdentityBinding{}, v1.AzureAssignedIdentity{}, v1.AzurePodIdentityException{}} {
		describe(reflect.TypeOf(kind), want)
	}
	if diff := cmp.Diff(want, known); diff != "" {
		t.Errorf("fields (-Go types +policy):\n%s", diff)
	}
}

// describe adds a struct, and those it is made of, to the fields by type.
func describe(t reflect.Type, into map[string]map[string]string) string {
	if into[t.Name()] != nil {
		return t.Name()
	}
	fields := map[string]string{}
	into[t.Name()] = fields
	_, isKind := t.FieldByName("TypeMeta")
	for _, f := range reflect.VisibleFields(t) {
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		switch {
		case name == "" || isKind && len(f.Index) > 1 && f.Name != "Kind" && f.Name != "APIVersion":
		case isKind && name == "metadata":
			fields[name] = "any" // the API server's to judge
		case len(f.Index) > 1 && !isKind: // promoted from metadata, which is described by itself
		default:
			fields[name] = typeName(f.Type, into)
			// The API server takes null for absent in metadata, which has no schema here.
			if t == reflect.TypeFor[metav1.ObjectMeta]() && !strings.HasSuffix(fields[name], "?") {
				fields[name] += "?"
			}
		}
	}
	return t.Name()
}

func typeName(t reflect.Type, into map[string]map[string]string) string {
	switch {
	case t.Kind() == reflect.Pointer:
		return strings.TrimSuffix(typeName(t.Elem(), into), "?") + "?"
	case t == reflect.TypeFor[metav1.Time]():
		return "time?"
	case t == reflect.TypeFor[metav1.FieldsV1]():
		return "any"
	}
	switch t.Kind() {
	case reflect.String:
		return "string"
	case reflect.Bool:
		return "boolean"
	case reflect.Int32:
		return "int32"
	case reflect.Int, reflect.Int64:
		return "integer"
	case reflect.Map:
		return "map of " + typeName(t.Elem(), into) + "s"
	case reflect.Slice:
		if t.Elem().Kind() == reflect.String {
			return "list of strings?"
		}
		return "list of " + typeName(t.Elem(), into) + "?"
	case reflect.Struct:
		return describe(t, into)
	default:
		return t.String()
	}
}
