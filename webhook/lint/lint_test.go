package lint

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/aad-pod-identity/aad-pod-identity/internal/validation"
)

const (
	manifests = "../../test/manifests"
	goodID    = "/subscriptions/0f3c5e2a-91b7-4d1e-8c57-2b1f6a9d4e30/resourcegroups/rg/providers/Microsoft.ManagedIdentity/userAssignedIdentities/demo"
	client    = "7eb6d1a0-2c4f-4b8e-9d3a-5f1e0c7ba6a9"
	header    = "apiVersion: aadpodidentity.k8s.io/v1\n"
)

func newLinter(t testing.TB) *linter {
	t.Helper()
	rules, err := validation.New()
	if err != nil {
		t.Fatal(err)
	}
	return &linter{rules: rules, idCase: validation.RejectCase}
}

// texts judges a file and returns what is printed.
func texts(t *testing.T, text string) ([]string, *report) {
	t.Helper()
	l := newLinter(t)
	l.file("f", []byte(text))
	var printed strings.Builder
	if err := l.report.write(&printed, outputText); err != nil {
		t.Fatal(err)
	}
	return strings.Split(strings.TrimSuffix(printed.String(), "\n"), "\n"), &l.report
}

// TestManifests: the texts are those of admission, and the line is that of the
// field.
func TestManifests(t *testing.T) {
	files, err := filepath.Glob(manifests + "/*/*.yaml")
	if err != nil || len(files) < 40 {
		t.Fatalf("%d manifests, %v", len(files), err)
	}
	for _, file := range files {
		t.Run(filepath.Base(filepath.Dir(file))+"/"+filepath.Base(file), func(t *testing.T) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			lines := strings.Split(string(text), "\n")
			var want, got []string
			for _, line := range lines {
				if finding, ok := strings.CutPrefix(line, "# want: "); ok {
					want = append(want, finding)
				}
			}
			l := newLinter(t)
			l.file(file, text)
			for _, f := range l.report.findings {
				if f.Severity != SeverityError {
					continue
				}
				got = append(got, f.Field+": "+f.Message)
				last := f.Field[strings.LastIndexAny(f.Field, ".[")+1:]
				if strings.HasSuffix(last, "]") && strings.HasPrefix(strings.TrimSpace(lines[f.Line-1]), "- ") {
					continue // an element of a list
				}
				line := strings.ToLower(lines[f.Line-1])
				if missing := strings.HasPrefix(f.Message, "Required value") && !strings.Contains(line, strings.ToLower(last)); missing {
					last = strings.Split(f.Field, ".")[0]
				}
				if f.Line < 2 || !strings.Contains(line, strings.ToLower(strings.TrimSuffix(last, "]"))+":") {
					t.Errorf("%s is said to be in line %d: %s", f.Field, f.Line, line)
				}
			}
			slices.Sort(want)
			slices.Sort(got)
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("findings (-want +got):\n%s", diff)
			}
			if l.report.objects != 1 || l.report.others != 0 {
				t.Errorf("%d objects, %d others", l.report.objects, l.report.others)
			}
		})
	}
}

func TestFile(t *testing.T) {
	tests := map[string]struct {
		text string
		want []string
	}{
		"nothing":                    {"", []string{""}},
		"comments":                   {"# a\n---\n# b\n", []string{""}},
		"an object of another kind":  {"apiVersion: v1\nkind: ConfigMap\nmetadata: {Name: x}\n", []string{""}},
		"values, which is no object": {"azureIdentities:\n  demo:\n    ResourceID: x\n", []string{""}},
		"lines are those of the file": {
			"# one\n---\napiVersion: v1\nkind: Namespace\n--- # two\n" + header + "kind: AzureIdentityBinding\nmetadata:\n  name: b\n  namespace: web\nspec:\n  azureIdentity: demo\n  # the selector\n  Selector: x\n",
			[]string{`f:14: AzureIdentityBinding web/b: spec.Selector: Forbidden: miscapitalised, use "selector"`},
		},
		"a field that is missing is missed where it belongs": {
			header + "kind: AzureIdentity\nmetadata:\n  name: sp\nspec:\n  type: 1\n  tenantID: contoso.com\n  clientID: " + client + "\n  clientPassword:\n    name: x\n",
			[]string{"f:9: AzureIdentity sp: spec.clientPassword.namespace: Required value: type 1 needs the namespace of the Secret with the client secret"},
		},
		"a spec that is missing": {
			"\n" + header + "kind: AzureIdentityBinding\nmetadata:\n  name: b\n",
			[]string{
				"f:2: AzureIdentityBinding b: spec.azureIdentity: Required value: the name of an AzureIdentity in the namespace of the binding",
				"f:2: AzureIdentityBinding b: spec.selector: Required value: the value of the label aadpodidbinding of the pods that get the identity",
			},
		},
		"a misspelt field that holds others": {
			header + "kind: AzureIdentity\nmetadata:\n  name: sp\nspec:\n  type: 1\n  tenantID: contoso.com\n  clientID: " + client + "\n  clientPasword:\n    name: x\n    Namespace: 8\n",
			[]string{
				`f:9: AzureIdentity sp: spec.clientPasword: Forbidden: unknown field, did you mean "clientPassword"?`,
				`f:11: AzureIdentity sp: spec.clientPassword.Namespace: Forbidden: miscapitalised, use "namespace"`,
				"f:11: AzureIdentity sp: spec.clientPassword.namespace: Invalid value: 8: must be a string, not a number: put it in quotes",
			},
		},
		"a number for a name": {
			header + "kind: AzureIdentityBinding\nmetadata:\n  name: 1e3\nspec:\n  azureIdentity: demo\n  selector: on\n",
			[]string{
				"f:4: AzureIdentityBinding: metadata.name: Invalid value: 1000: must be a string, not a number: put it in quotes",
				"f:7: AzureIdentityBinding: spec.selector: Invalid value: true: must be a string, not a boolean: put it in quotes",
			},
		},
		"a key that is read as a boolean": {
			header + "kind: AzurePodIdentityException\nmetadata:\n  name: e\nspec:\n  podLabels:\n    on: x\n    \"off\": x\n    8080: x\n",
			[]string{`f:7: AzurePodIdentityException e: spec.podLabels.on: Invalid value: "on": YAML reads this key as "true": put it in quotes`},
		},
		"a key twice": {
			header + "kind: AzureIdentityBinding\nmetadata:\n  name: b\nspec:\n  azureIdentity: demo\n  selector: x\n  azureIdentity: demo2\n",
			[]string{"f:8: AzureIdentityBinding b: spec.azureIdentity: Forbidden: written more than once: keep one"},
		},
		"a key twice in another kind": {"kind: ConfigMap\napiVersion: v1\nkind: ConfigMap\n", []string{""}},
		"an anchor and a merge": {
			"apiVersion: v1\nkind: List\nitems:\n- apiVersion: aadpodidentity.k8s.io/v1\n  kind: AzureIdentityBinding\n  metadata: {name: a}\n  spec: &spec\n    azureIdentity: demo\n    Selector: x\n" +
				"- apiVersion: aadpodidentity.k8s.io/v1\n  kind: AzureIdentityBinding\n  metadata: {name: b}\n  spec:\n    <<: *spec\n    azureIdentity: other\n",
			[]string{
				`f:9: AzureIdentityBinding a: spec.Selector: Forbidden: miscapitalised, use "selector"`,
				`f:9: AzureIdentityBinding b: spec.Selector: Forbidden: miscapitalised, use "selector"`,
			},
		},
		"a merge of several": {
			header + "kind: AzureIdentityBinding\nmetadata: {name: b}\nspec:\n  <<:\n  - {selector: x, azureIdentity: A}\n  - selector: ''\n    azureIdentity: b\n",
			[]string{`f:6: AzureIdentityBinding b: spec.azureIdentity: Invalid value: "A": must be the name of an object: at most 253 lower-case letters, digits, - and ., the first and last of each dotted part a letter or digit; use "a"`},
		},
		"a folded value": {
			header + "kind: AzureIdentity\nmetadata:\n  name: demo\nspec:\n  type: 0\n  resourceID: >-\n    " + goodID + "\n  clientID: |\n    " + client + "\n",
			[]string{`f:9: AzureIdentity demo: spec.clientID: Invalid value: "` + client + `\n": must be a GUID; use "` + client + `"`},
		},
		"a list within a list": {
			"apiVersion: v1\nkind: List\nitems:\n- apiVersion: v1\n  kind: Pod\n- apiVersion: aadpodidentity.k8s.io/v1\n  kind: AzureIdentityBindingList\n  items:\n  - apiVersion: aadpodidentity.k8s.io/v1\n    kind: AzureIdentityBinding\n    metadata:\n      name: b\n    spec: {azureIdentity: demo, selector: [x]}\n",
			[]string{"f:13: AzureIdentityBinding b: spec.selector: Invalid value: must be a string, not a list"},
		},
		"JSON": {
			"{\n\t\"apiVersion\": \"aadpodidentity.k8s.io/v1\",\n\t\"kind\": \"AzureIdentityBinding\",\n\t\"metadata\": {\"name\": \"b\"},\n\t\"spec\": {\n\t\t\"azureIdentity\": \"demo\",\n\t\t\"Selector\": \"\\ud83d\\ude00\"\n\t}\n}\n" +
				`{"apiVersion":"aadpodidentity.k8s.io/v1","kind":"AzureIdentityBinding","metadata":{"name":"c"},"spec":{"AzureIdentity":"demo","selector":"x"}}`,
			[]string{
				`f:1: AzureIdentityBinding b: spec.Selector: Forbidden: miscapitalised, use "selector"`,
				`f:1: AzureIdentityBinding b: spec.selector: Invalid value: "😀": must be possible as the value of the pod label aadpodidbinding: at most 63 letters, digits, -, _ and ., the first and last a letter or digit`,
				`f:10: AzureIdentityBinding c: spec.AzureIdentity: Forbidden: miscapitalised, use "azureIdentity"`,
			},
		},
		"a flow mapping, which is no JSON": {
			"{apiVersion: aadpodidentity.k8s.io/v1, kind: AzureIdentityBinding, metadata: {name: b},\n  spec: {azureIdentity: demo, Selector: x}}\n",
			[]string{`f:2: AzureIdentityBinding b: spec.Selector: Forbidden: miscapitalised, use "selector"`},
		},
		"Windows line ends": {
			strings.ReplaceAll("---\n"+header+"kind: AzureIdentityBinding\nmetadata:\n  name: b\nspec:\n  azureIdentity: demo\n  Selector: x\n---\n"+header+"kind: AzureIdentityBinding\nmetadata:\n  name: c\nspec:\n  azureIdentity: demo\n  Selector: x\n", "\n", "\r\n"),
			[]string{
				`f:8: AzureIdentityBinding b: spec.Selector: Forbidden: miscapitalised, use "selector"`,
				`f:16: AzureIdentityBinding c: spec.Selector: Forbidden: miscapitalised, use "selector"`,
			},
		},
		"what the API server says of metadata": {
			header + "kind: AzureIdentityBinding\nmetadata:\n  name: Demo\n  labels:\n    a b: x\nspec:\n  azureIdentity: demo\n  selector: x\n",
			[]string{
				`f:4: AzureIdentityBinding Demo: metadata.name: Invalid value: "Demo": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')`,
				`f:5: AzureIdentityBinding Demo: metadata.labels: Invalid value: "a b": name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')`,
			},
		},
		"fields of the metadata": {
			header + "kind: AzureIdentityBinding\nmetadata:\n  name: b\n  Labels: {a: b}\n  anotations: {a: b}\n  future: x\nspec:\n  azureIdentity: demo\n  selector: x\n",
			[]string{
				`f:5: AzureIdentityBinding b: metadata.Labels: Forbidden: miscapitalised, use "labels"`,
				`f:6: AzureIdentityBinding b: metadata.anotations: Forbidden: unknown field, did you mean "annotations"?`,
				"f:7: warning: AzureIdentityBinding b: metadata.future: unknown field: an API server that does not know it either refuses or drops it",
			},
		},
		"a name to be generated": {
			header + "kind: AzureIdentityBinding\nmetadata:\n  generateName: b-\nspec:\n  azureIdentity: demo\n  Selector: x\n",
			[]string{`f:7: AzureIdentityBinding b-: spec.Selector: Forbidden: miscapitalised, use "selector"`},
		},
		"a miscapitalised spec": {
			header + "kind: AzureIdentityBinding\nmetadata:\n  name: b\nSpec:\n  azureIdentity: demo\n  Selector: x\n",
			[]string{
				`f:5: AzureIdentityBinding b: Spec: Forbidden: miscapitalised, use "spec"`,
				`f:7: AzureIdentityBinding b: spec.Selector: Forbidden: miscapitalised, use "selector"`,
			},
		},
		"a miscapitalised kind": {
			header + "kind: AzureIDentityBinding\nmetadata:\n  name: b\nspec:\n  azureIdentity: demo\n  Selector: x\n",
			[]string{
				`f:2: AzureIdentityBinding b: kind: Invalid value: "AzureIDentityBinding": miscapitalised, use "AzureIdentityBinding"`,
				`f:7: AzureIdentityBinding b: spec.Selector: Forbidden: miscapitalised, use "selector"`,
			},
		},
		"a misspelt kind": {
			header + "kind: AzureIdentityBindings\nmetadata: {name: b}\nspec: {azureIdentity: demo, selector: x}\n",
			[]string{`f:2: AzureIdentityBinding b: kind: Invalid value: "AzureIdentityBindings": unknown kind, did you mean "AzureIdentityBinding"?`},
		},
		"an unknown kind": {
			header + "kind: AzureThing\nmetadata: {name: b}\n",
			[]string{`f:2: AzureThing b: kind: Unsupported value: "AzureThing": supported values: "AzureAssignedIdentity", "AzureIdentity", "AzureIdentityBinding", "AzurePodIdentityException"`},
		},
		"no kind": {
			header + "metadata: {name: b}\n",
			[]string{"f:1: kind: Required value: one of AzureAssignedIdentity, AzureIdentity, AzureIdentityBinding, AzurePodIdentityException"},
		},
		"another version": {
			"apiVersion: aadpodidentity.k8s.io/v1beta1\nkind: AzureIdentityBinding\nmetadata: {name: b}\nspec: {azureIdentity: demo, selector: x}\n",
			[]string{`f:1: AzureIdentityBinding b: apiVersion: Invalid value: "aadpodidentity.k8s.io/v1beta1": unknown version; use "aadpodidentity.k8s.io/v1"`},
		},
		"a misspelt group": {
			"apiVersion: aadpodidentitiy.k8s.io/v1\nkind: AzureIdentityBinding\nmetadata: {name: b}\nspec: {azureIdentity: demo, selector: x}\n",
			[]string{`f:1: AzureIdentityBinding b: apiVersion: Invalid value: "aadpodidentitiy.k8s.io/v1": unknown version; use "aadpodidentity.k8s.io/v1"`},
		},
		"no apiVersion": {
			"kind: AzureIdentityBinding\nmetadata: {name: b}\nspec: {azureIdentity: demo, selector: x}\n",
			[]string{"f:1: AzureIdentityBinding b: apiVersion: Required value: aadpodidentity.k8s.io/v1"},
		},
		"a miscapitalised apiVersion": {
			"apiversion: aadpodidentity.k8s.io/v1\nkind: AzureIdentityBinding\nmetadata: {name: b}\nspec: {azureIdentity: demo, selector: x}\n",
			[]string{`f:1: AzureIdentityBinding b: apiversion: Forbidden: miscapitalised, use "apiVersion"`},
		},
		"a kind of this name in another group": {"apiVersion: example.com/v1\nkind: AzureIdentity\nmetadata: {Name: x}\n", []string{""}},
		"no YAML: a block that is not indented as it should be": {
			header + "kind: AzureIdentityBinding\nmetadata:\n  name: b\nspec:\n  azureIdentity: demo\n selector: x\n---\n" + header + "kind: AzureIdentityBinding\nmetadata: {name: c}\nspec: {azureIdentity: demo, Selector: x}\n",
			[]string{
				"f:7: not valid YAML: did not find expected key",
				`f:12: AzureIdentityBinding c: spec.Selector: Forbidden: miscapitalised, use "selector"`,
			},
		},
		"no YAML: a tab": {
			"a:\n\tb: c\n", []string{"f:2: not valid YAML: found character that cannot start any token"},
		},
		"no YAML: two colons": {
			"a: b\nc: d: e\n", []string{"f:2: not valid YAML: mapping values are not allowed in this context"},
		},
		"no YAML: a quote that does not end": {
			"a: b\nc: \"d\ne: f\n", []string{"f:2: not valid YAML: found unexpected end of stream"},
		},
		"no YAML: an unknown anchor": {
			"a: b\nc: *d\n", []string{"f:1: not valid YAML: unknown anchor 'd' referenced"},
		},
		"no YAML: a template": {
			"a: b\n---\n{{- if .Values.x }}\nc: d\n{{- end }}\n",
			[]string{"f:3: not valid YAML: did not find expected node content; templates are not rendered: lint what 'helm template' prints"},
		},
		"no YAML: cut off": {
			`{"apiVersion":"v1",` + "\n" + `"kind":"List","items":[`, []string{"f:1: not valid YAML: did not find expected node content"},
		},
		"two documents without a separator": {
			"a: b\n...\nc: d\n", []string{"f:3: a second document that no line '---' separates from the first: kubectl would not read it"},
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			got, _ := texts(t, tt.text)
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// TestLeftOut: what is beyond the limit of the rules is counted, in text and JSON, and
// in the closing line.
func TestLeftOut(t *testing.T) {
	var file strings.Builder
	file.WriteString(header + "kind: AzureIdentityBinding\nmetadata:\n  name: b\nspec:\n  azureIdentity: demo\n  selector: x\n")
	for i := range 1234 {
		fmt.Fprintf(&file, "  x%04d: y\n", i)
	}
	lines, r := texts(t, file.String())
	want := "f:1: AzureIdentityBinding b: 234 further findings about this object are left out"
	if len(lines) != 1001 || !slices.Contains(lines, want) {
		t.Errorf("%d lines, and none is %q", len(lines), want)
	}
	if got := r.summary(); !strings.Contains(got, "1 with errors; 1234 errors, 0 warnings") {
		t.Errorf("the closing line is %q", got)
	}
	var printed bytes.Buffer
	if err := r.write(&printed, outputJSON); err != nil {
		t.Fatal(err)
	}
	var findings []Finding
	if err := json.Unmarshal(printed.Bytes(), &findings); err != nil {
		t.Fatal(err)
	}
	left := 0
	for _, f := range findings {
		left += f.LeftOut
	}
	if len(findings) != 1001 || left != 234 {
		t.Errorf("%d findings, %d left out", len(findings), left)
	}
}
