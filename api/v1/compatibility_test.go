package v1_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/yaml"

	v1 "github.com/aad-pod-identity/aad-pod-identity/api/v1"
)

// TestOldObjectsSurvive decodes objects that release 1.8.17 stored and encodes
// them again: nothing may be lost, added or renamed.
func TestOldObjectsSurvive(t *testing.T) {
	scheme := runtime.NewScheme()
	if err := v1.AddToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile("testdata/old-release.yaml")
	if err != nil {
		t.Fatal(err)
	}
	seen := 0
	for dec := yaml.NewYAMLOrJSONDecoder(bytes.NewReader(data), 4096); ; seen++ {
		var stored map[string]any
		if err := dec.Decode(&stored); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		kind := stored["kind"].(string)
		t.Run(kind, func(t *testing.T) {
			obj, err := scheme.New(schema.GroupVersionKind{Group: "aadpodidentity.k8s.io", Version: "v1", Kind: kind})
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(stored, roundTrip(t, stored, obj)); diff != "" {
				t.Errorf("the object changed (-stored +encoded):\n%s", diff)
			}
		})
	}
	if seen != 4 {
		t.Errorf("read %d objects, want one of each of the 4 kinds", seen)
	}
}

// TestOptionalFieldsStayAbsent keeps the encoding of an empty object free of
// fields that the old release would not understand or would misread.
func TestOptionalFieldsStayAbsent(t *testing.T) {
	for _, obj := range []runtime.Object{&v1.AzureIdentity{}, &v1.AzureIdentityBinding{}, &v1.AzureAssignedIdentity{}, &v1.AzurePodIdentityException{}} {
		got := roundTrip(t, map[string]any{}, obj)
		if diff := cmp.Diff(map[string]any{"metadata": map[string]any{}, "spec": map[string]any{}}, got); diff != "" {
			t.Errorf("%T (-want +got):\n%s", obj, diff)
		}
	}
}

// roundTrip decodes a document into obj and returns what obj encodes to.
func roundTrip(t *testing.T, doc map[string]any, obj runtime.Object) map[string]any {
	t.Helper()
	in, err := json.Marshal(doc)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(in, obj); err != nil {
		t.Fatal(err)
	}
	out, err := json.Marshal(obj)
	if err != nil {
		t.Fatal(err)
	}
	var got map[string]any
	if err := json.Unmarshal(out, &got); err != nil {
		t.Fatal(err)
	}
	return got
}
