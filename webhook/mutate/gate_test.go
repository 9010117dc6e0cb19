package mutate

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/webhook/admission"

	v1 "github.com/aad-pod-identity/aad-pod-identity/api/v1"
)

// owners are ServiceAccounts, as namespace/name, and Namespaces by name.
type owners struct {
	objects map[string]*metav1.PartialObjectMetadata
	err     error
	asked   []string
}

func (o *owners) get(key string) (*metav1.PartialObjectMetadata, error) {
	o.asked = append(o.asked, key)
	return o.objects[key], o.err
}

func (o *owners) ServiceAccount(_ context.Context, namespace, name string) (*metav1.PartialObjectMetadata, error) {
	return o.get(namespace + "/" + name)
}

func (o *owners) Namespace(_ context.Context, name string) (*metav1.PartialObjectMetadata, error) {
	return o.get(name)
}

// selects is an object with the annotation.
func selects(value string) *metav1.PartialObjectMetadata {
	return &metav1.PartialObjectMetadata{ObjectMeta: metav1.ObjectMeta{Annotations: map[string]string{v1.SelectorAnnotationKey: value}}}
}

// gates is a namespace with the label.
func gates(value string) *metav1.PartialObjectMetadata {
	return &metav1.PartialObjectMetadata{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{v1.ReadinessGateKey: value}}}
}

const (
	ourGate   = `{"conditionType":"aadpodidentity.k8s.io/identity-assigned"}`
	otherGate = `{"conditionType":"example.com/ready"}`
	tagged    = `{"aadpodidbinding":"web",` + tagBinding + `:"first",` + tagIdentity + `:"one"}`
	allTags   = tagBindings + `:"a/first"`
	askGate   = `"aadpodidentity.k8s.io/readiness-gate"`
)

func TestReadinessGate(t *testing.T) {
	world := cluster{
		bindings:   []*v1.AzureIdentityBinding{bindingTo("a", "first", "one", "web")},
		identities: []*v1.AzureIdentity{managedIdentity("a", "one")},
	}
	const (
		never = "spec.readinessGates: the condition aadpodidentity.k8s.io/identity-assigned needs the label aadpodidbinding with a value: without it the pod cannot become Ready"
		off   = "spec.readinessGates: nobody sets aadpodidentity.k8s.io/identity-assigned, since the readiness gate is not enabled in this cluster: the pod cannot become Ready"
		vain  = "annotation aadpodidentity.k8s.io/readiness-gate: the readiness gate is not enabled in this cluster: the pod may be Ready before it has its identities"
	)
	tests := map[string]struct {
		mode        GateMode
		namespace   *metav1.PartialObjectMetadata
		err         error
		annotation  string // value of the pod's; "" for none
		labels      string // tagged if ""
		gates       string // the pod's, without the brackets; "-" for none
		want        string // the pod's then; "-" for none
		wantWarning []string
	}{
		"off, it is not added":                        {mode: GateOff, namespace: gates("enabled"), gates: "-", want: "-"},
		"the zero mode is off":                        {namespace: gates("enabled"), gates: "-", want: "-"},
		"off, a pod that asks for it is warned":       {mode: GateOff, annotation: "true", gates: "-", want: "-", wantWarning: []string{vain}},
		"off, a pod that declines it is not":          {mode: GateOff, annotation: "false", gates: "-", want: "-"},
		"off, a pod that has it is warned":            {mode: GateOff, gates: ourGate, want: ourGate, wantWarning: []string{off}},
		"opt-in, nobody asks":                         {mode: GateOptIn, gates: "-", want: "-"},
		"opt-in, the pod asks":                        {mode: GateOptIn, annotation: "true", gates: "-", want: ourGate},
		"opt-in, the namespace asks":                  {mode: GateOptIn, namespace: gates("enabled"), gates: "-", want: ourGate},
		"opt-in, another value of the label asks not": {mode: GateOptIn, namespace: gates("disabled"), gates: "-", want: "-"},
		"opt-in, the pod declines what the namespace asks for": {
			mode: GateOptIn, namespace: gates("enabled"), annotation: "false", gates: "-", want: "-",
		},
		"opt-in, a word that is neither counts as none": {
			mode: GateOptIn, annotation: "yes", gates: "-", want: "-",
			wantWarning: []string{`annotation aadpodidentity.k8s.io/readiness-gate: must be "true" or "false", not "yes"`},
		},
		"opt-in, the namespace cannot be read": {
			mode: GateOptIn, err: errors.New("no cache"), gates: "-", want: "-", wantWarning: []string{"no readiness gate is added: no cache"},
		},
		"all":                                 {mode: GateAll, gates: "-", want: ourGate},
		"all, the pod declines":               {mode: GateAll, annotation: "false", gates: "-", want: "-"},
		"it is there already":                 {mode: GateAll, gates: ourGate, want: ourGate},
		"it joins others":                     {mode: GateAll, gates: otherGate, want: otherGate + "," + ourGate},
		"it is there among others":            {mode: GateAll, gates: ourGate + "," + otherGate, want: ourGate + "," + otherGate},
		"an empty list of gates":              {mode: GateAll, gates: "", want: ourGate},
		"an empty label asks for no identity": {mode: GateAll, labels: `{"aadpodidbinding":""}`, gates: "-", want: "-"},
		"an empty label with the gate is warned of": {
			mode: GateAll, labels: `{"aadpodidbinding":""}`, gates: ourGate, want: ourGate, wantWarning: []string{never},
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			labels, annotations := tagged, allTags
			if tt.labels != "" {
				labels, annotations = tt.labels, `"x":"y"`
			}
			if tt.annotation != "" {
				annotations += `,` + askGate + `:"` + tt.annotation + `"`
			}
			pod := func(gates string) string {
				spec := `"x":"kept"`
				if gates != "-" {
					spec += `,"readinessGates":[` + gates + `]`
				}
				return fmt.Sprintf(`{"metadata":{"name":"p","labels":%s,"annotations":{%s}},"spec":{%s}}`, labels, annotations, spec)
			}
			tagger := &Tagger{Reader: world, Gate: tt.mode, Metadata: &owners{objects: map[string]*metav1.PartialObjectMetadata{"apps": tt.namespace}, err: tt.err}}
			resp := tagger.Handle(t.Context(), create(pod(tt.gates)))
			patched := patched(t, pod(tt.gates), resp)
			if diff := cmp.Diff(metadata(t, pod(tt.want)), metadata(t, patched)); diff != "" {
				t.Errorf("pod (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(tt.wantWarning, resp.Warnings); diff != "" {
				t.Errorf("warnings (-want +got):\n%s", diff)
			}
			if tt.want == tt.gates && len(resp.Patches) > 0 {
				t.Errorf("the patch is not empty: %v", resp.Patches)
			}
			if again := tagger.Handle(t.Context(), create(patched)); len(again.Patches) > 0 {
				t.Errorf("a second call patches again: %v", again.Patches)
			}
		})
	}
}

func TestAPodWithoutLabelThatHasTheGateIsWarned(t *testing.T) {
	pod := `{"metadata":{"name":"p"},"spec":{"readinessGates":[` + ourGate + `]}}`
	for _, h := range []admission.Handler{Stripper{}, &Injector{Tagger: &Tagger{Metadata: &owners{}}}} {
		resp := h.Handle(t.Context(), create(pod))
		if !resp.Allowed || len(resp.Patches) > 0 || len(resp.Warnings) != 1 || !strings.Contains(resp.Warnings[0], "cannot become Ready") {
			t.Errorf("%T: %+v", h, resp)
		}
	}
}

func TestGateModes(t *testing.T) {
	for _, name := range []string{"off", "opt-in", "all"} {
		if m, err := ParseGateMode(name); err != nil || string(m) != name {
			t.Errorf("%q is %q, %v", name, m, err)
		}
	}
	for _, name := range []string{"", "on", "All"} {
		if _, err := ParseGateMode(name); err == nil {
			t.Errorf("%q is a mode", name)
		}
	}
}
