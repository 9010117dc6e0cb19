package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"testing"

	"gomodules.xyz/jsonpatch/v2"
	admissionv1 "k8s.io/api/admission/v1"
	"k8s.io/klog/v2"
	"sigs.k8s.io/yaml"

	v1 "github.com/aad-pod-identity/aad-pod-identity/api/v1"
	"github.com/aad-pod-identity/aad-pod-identity/internal/validation"
)

// reviewSeeds are bodies about every manifest of test/manifests and about pods,
// created and updated.
func reviewSeeds(f *testing.F) []string {
	f.Helper()
	var bodies []string
	add := func(group, kind, object string) {
		gvk := fmt.Sprintf(`{"group":%q,"version":"v1","kind":%q}`, group, kind)
		const head = `{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","request":{"uid":"1","name":"x","namespace":"default","userInfo":{"username":"someone"},"kind":`
		bodies = append(bodies, head+gvk+`,"operation":"CREATE","object":`+object+`}}`,
			head+gvk+`,"operation":"UPDATE","object":`+object+`,"oldObject":{"spec":{}}}}`)
	}
	for _, pattern := range []string{"../test/manifests/valid/*.yaml", "../test/manifests/invalid/*.yaml"} {
		files, err := filepath.Glob(pattern)
		if err != nil || len(files) == 0 {
			f.Fatalf("no files match %s, %v", pattern, err)
		}
		for _, file := range files {
			text, err := os.ReadFile(file)
			if err != nil {
				f.Fatal(err)
			}
			object, err := yaml.YAMLToJSON(text)
			if err != nil {
				f.Fatal(err)
			}
			var meta struct{ Kind string }
			if err := json.Unmarshal(object, &meta); err != nil {
				f.Fatal(err)
			}
			add(v1.GroupName, meta.Kind, string(object))
		}
	}
	add("", "Pod", `{"metadata":{"labels":{"aadpodidbinding":"x","aadpodidentity.k8s.io/binding":"y"},"annotations":{}}}`)
	add("", "Pod", `{"metadata":{"generateName":"x-","labels":{"aadpodidentity.k8s.io/identity":"y"}}}`)
	return bodies
}

// FuzzReview feeds raw bodies to all paths, under each policy about the
// capitalisation of resource IDs: nothing panics, and no object of ours is
// admitted that the oracle refuses.
func FuzzReview(f *testing.F) {
	// A line for every object that is refused would make up most of the time.
	klog.LogToStderr(false)
	klog.SetOutput(io.Discard)
	for _, body := range reviewSeeds(f) {
		f.Add(body)
	}
	muxes := make(map[validation.IDCase]http.Handler)
	for _, idCase := range validation.IDCases() {
		muxes[idCase] = newMux(f, func(o *options) { o.resourceIDCase = string(idCase) })
	}
	f.Fuzz(func(t *testing.T, body string) {
		for idCase, mux := range muxes {
			for _, path := range paths {
				recorder := post(t.Context(), mux, path, body)
				var answer, asked admissionv1.AdmissionReview
				if err := json.Unmarshal(recorder.Body.Bytes(), &answer); err != nil || answer.Response == nil {
					t.Fatalf("%s answers %q, %v", path, recorder.Body, err)
				}
				if path != pathMutate && path != pathValidate {
					continue // those for pods, which are not asked about our kinds
				}
				if !answer.Response.Allowed || json.Unmarshal([]byte(body), &asked) != nil || asked.Request == nil {
					continue
				}
				anyCase := idCase == validation.WarnCase || idCase == validation.CanonicalizeCase && path == pathMutate
				checkAdmitted(t, oracle{anyCase}, path, asked.Request, answer.Response)
			}
		}
	})
}

// checkAdmitted asks the oracle about a request that was allowed.
func checkAdmitted(t *testing.T, o oracle, path string, r *admissionv1.AdmissionRequest, answer *admissionv1.AdmissionResponse) {
	t.Helper()
	if r.SubResource != "" || r.Kind.Group != v1.GroupName {
		return
	}
	good := true
	switch r.Operation {
	case admissionv1.Create:
		good = o.accepts(r.Kind.Kind, r.Object.Raw)
	case admissionv1.Update:
		object, ok := oracleDecode(r.Object.Raw)
		spec, _ := object["spec"].(map[string]any)
		changedSpec, changedBehavior := oracleChanged(r.OldObject.Raw, r.Object.Raw)
		good = ok && (!changedSpec || o.spec(r.Kind.Kind, spec)) && (!changedBehavior || r.Kind.Kind != v1.KindAzureIdentity || behaves(object))
	}
	if !good {
		t.Fatalf("%s allows a %s of %s that the oracle refuses: %s", path, r.Operation, r.Kind.Kind, r.Object.Raw)
	}
	checkPatch(t, path, r, answer)
}

// checkPatch holds that an object of ours is changed in nothing but its resource
// ID, and that it is good then.
func checkPatch(t *testing.T, path string, r *admissionv1.AdmissionRequest, answer *admissionv1.AdmissionResponse) {
	t.Helper()
	if len(answer.Patch) == 0 {
		return
	}
	var patch []jsonpatch.Operation
	if err := json.Unmarshal(answer.Patch, &patch); err != nil || len(patch) != 1 || patch[0].Operation != "replace" || patch[0].Path != "/spec/resourceID" {
		t.Fatalf("%s patches %s, %v", path, answer.Patch, err)
	}
	if !(oracle{}).resourceID(patch[0].Value) || r.Kind.Kind != v1.KindAzureIdentity {
		t.Fatalf("%s writes what the oracle refuses: %s", path, answer.Patch)
	}
}
