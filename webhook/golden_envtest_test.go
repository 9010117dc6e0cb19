package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/aad-pod-identity/aad-pod-identity/test/helmtest"
)

var update = flag.Bool("update", false, "write the golden file anew")

// goldenFile holds what kubectl prints for every object that is refused.
const goldenFile = "testdata/apply.golden"

// testInvalid applies every manifest that is refused. Each must be with exactly its
// findings, and what a user sees for all of them is compared with the golden file, so
// that a change of the texts is seen where it is reviewed. To start kubectl takes a
// hundred times as long as to ask: it is run for some of each form of refusal, and
// shows that the others are written as it does.
func (s *apiServer) testInvalid(t *testing.T) {
	var got strings.Builder
	refused := func(t *testing.T, args ...string) string {
		r := s.run(t, "", args...)
		if !r.failed || r.stdout != "" {
			t.Errorf("kubectl %s was not refused: %s", strings.Join(args, " "), r.stdout)
		}
		got.WriteString("$ kubectl " + strings.Join(args, " ") + "\n" + r.stderr + "\n")
		return r.stderr
	}
	compare := func(t *testing.T, want, got string) {
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("output of kubectl (-want +got):\n%s", diff)
		}
	}
	// How many refusals of a form kubectl has been asked for: those with one finding and
	// with several are written differently.
	const enough = 5
	asked := map[bool]int{}
	for _, file := range glob(t, "../test/manifests/invalid/*.yaml") {
		t.Run(filepath.Base(file), func(t *testing.T) {
			want, serverSide := wantOutput(t, file)
			says := s.refusal(t, file)
			compare(t, want, says)
			if several := strings.Contains(want, "\n* "); serverSide != "" || asked[several] < enough {
				asked[several]++
				compare(t, says, refused(t, "apply", "-f", file))
			} else {
				got.WriteString("$ kubectl apply -f " + file + "\n" + says + "\n")
			}
			if serverSide != "" {
				compare(t, serverSide, refused(t, "apply", "--server-side", "-f", file))
			}
		})
	}
	for _, file := range glob(t, "testdata/golden/*.yaml") {
		refused(t, "apply", "-f", file)
	}
	t.Run("golden file of what kubectl prints", func(t *testing.T) { wantGolden(t, got.String()) })
}

// refusal creates the object of a manifest, which must be refused as invalid, and returns
// what kubectl prints in this case.
func (s *apiServer) refusal(t *testing.T, file string) string {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	objects := helmtest.Objects(t, string(text))
	if len(objects) != 1 {
		t.Fatalf("%s has %d objects, want one", file, len(objects))
	}
	objects[0].SetNamespace("default")
	err = s.client.Create(t.Context(), objects[0], client.FieldValidation(metav1.FieldValidationStrict))
	var status *apierrors.StatusError
	if !errors.As(err, &status) || !apierrors.IsInvalid(err) || status.ErrStatus.Details == nil {
		t.Fatalf("creating the object of %s: %v, want it refused as invalid", file, err)
	}
	details := status.ErrStatus.Details
	var findings []string
	for _, c := range details.Causes {
		if f := c.Field + ": " + c.Message; !slices.Contains(findings, f) {
			findings = append(findings, f)
		}
	}
	begin := fmt.Sprintf("The %s %q is invalid: ", details.Kind, details.Name)
	if len(findings) == 1 {
		return begin + findings[0] + "\n"
	}
	return begin + "\n* " + strings.Join(findings, "\n* ") + "\n"
}

func wantGolden(t *testing.T, got string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(goldenFile, []byte(got), 0o644); err != nil { //nolint:gosec // not secret
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(goldenFile)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(strings.Split(string(want), "\n"), strings.Split(got, "\n")); diff != "" {
		t.Errorf("kubectl prints something else than %s; if that is meant: go test ./webhook -run TestAdmission -update\n(-want +got):\n%s", goldenFile, diff)
	}
}
