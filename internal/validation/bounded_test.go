package validation

import (
	"fmt"
	"strings"
	"testing"

	v1 "github.com/aad-pod-identity/aad-pod-identity/api/v1"
)

// What a small object can hold by the hundred thousand is counted, not worked out.
func TestFindingsAreBounded(t *testing.T) {
	const count = 5000
	repeat := func(format string) string {
		var s strings.Builder
		for i := range count {
			fmt.Fprintf(&s, format, i)
		}
		return strings.TrimSuffix(s.String(), ",")
	}
	identity := `{"metadata":{"name":"demo"%s},"spec":{"type":0,"resourceID":"` + goodID + `","clientID":"7eb6d1a0-2c4f-4b8e-9d3a-5f1e0c7ba6a9"%s}}`
	tests := map[string]struct{ object, first, last string }{
		"unknown names": {
			object: fmt.Sprintf(identity, "", ","+repeat(`"x%05d":1,`)),
			first:  "spec.x00000", last: "spec.x00999",
		},
		"elements of a wrong type": {
			object: fmt.Sprintf(identity, "", `,"metadata":{"finalizers":[`+repeat(`%d,`)+`]}`),
			first:  "spec.metadata.finalizers[0]", last: "spec.metadata.finalizers[999]",
		},
		"entries of a wrong type": {
			object: fmt.Sprintf(identity, `,"labels":{`+repeat(`"x%05d":1,`)+`}`, ""),
			first:  "metadata.labels[x00000]", last: "metadata.labels[x00999]",
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			verdict, err := newValidator(t).Judge(v1.KindAzureIdentity, []byte(tt.object), WrittenParts, RejectCase)
			if err != nil {
				t.Fatal(err)
			}
			if len(verdict.Findings) != maxFindings || verdict.More != count-maxFindings {
				t.Fatalf("%d findings and %d more", len(verdict.Findings), verdict.More)
			}
			if first, last := verdict.Findings[0].Field, verdict.Findings[maxFindings-1].Field; first != tt.first || last != tt.last {
				t.Errorf("the findings are from %s to %s", first, last)
			}
		})
	}
}

func TestUntouched(t *testing.T) {
	const plain = `{"metadata":{"annotations":{"a":"b"}},"spec":{"type":0}}`
	tests := map[string]struct {
		before, after string
		want          bool
	}{
		"nothing changes":                  {plain, plain, true},
		"labels change":                    {plain, `{"metadata":{"annotations":{"a":"b"},"labels":{}},"spec":{"type":0}}`, true},
		"an annotation changes":            {plain, `{"metadata":{"annotations":{"a":"c"}},"spec":{"type":0}}`, true},
		"Behavior is set":                  {plain, `{"metadata":{"annotations":{"aadpodidentity.k8s.io/Behavior":"namespaced"}},"spec":{"type":0}}`, false},
		"the spec changes":                 {plain, `{"metadata":{"annotations":{"a":"b"}},"spec":{"type":1}}`, false},
		"too much to tell what it changes": {plain, `{"metadata":{"annotations":{"a":"` + strings.Repeat("c", 100) + `"}},"spec":{"type":0}}`, false},
		"large annotations that do not change": {
			`{"metadata":{"annotations":{"a":"` + strings.Repeat("c", 100) + `"}},"spec":{"type":0}}`,
			`{"metadata":{"finalizers":[],"annotations":{"a":"` + strings.Repeat("c", 100) + `"}},"spec":{"type":0}}`, true,
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			got, err := Untouched([]byte(tt.before), []byte(tt.after), 100)
			if err != nil || got != tt.want {
				t.Errorf("got %v, %v", got, err)
			}
		})
	}
	if _, err := Untouched([]byte(plain), nil, 100); err == nil {
		t.Error("an update without object")
	}
}

// Nor are the elements of a list judged, or the pairs of a map, of which there are far
// too many.
func TestLongListsAreNotJudged(t *testing.T) {
	tenants := strings.TrimSuffix(strings.Repeat(`"x y",`, 50_000), ",")
	var labels strings.Builder
	for i := range 40_000 {
		fmt.Fprintf(&labels, `,"a b%d":"c d"`, i)
	}
	for name, tt := range map[string]struct{ kind, object, want string }{
		"tenants": {v1.KindAzureIdentity, `{"spec":{"resourceID":"` + goodID + `","clientID":"7eb6d1a0-2c4f-4b8e-9d3a-5f1e0c7ba6a9","auxiliaryTenantIDs":[` + tenants + `]}}`, "spec.auxiliaryTenantIDs: Too many: 50000: must have at most 100 items"},
		"labels":  {v1.KindAzurePodIdentityException, `{"spec":{"podLabels":{` + labels.String()[1:] + `}}}`, "spec.podLabels: Too many: 40000: must have at most 1000 items"},
	} {
		t.Run(name, func(t *testing.T) {
			verdict, err := newValidator(t).Judge(tt.kind, []byte(tt.object), AllParts, RejectCase)
			if err != nil || len(verdict.Findings) != 1 || verdict.Findings[0].Error() != tt.want {
				t.Errorf("%d findings, %v; the first is %v", len(verdict.Findings), err, verdict.Findings)
			}
		})
	}
}
