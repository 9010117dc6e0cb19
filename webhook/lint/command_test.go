package lint

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/aad-pod-identity/aad-pod-identity/internal/run"
)

const (
	goodBinding = header + "kind: AzureIdentityBinding\nmetadata:\n  name: good\nspec:\n  azureIdentity: demo\n  selector: x\n"
	badBinding  = header + "kind: AzureIdentityBinding\nmetadata:\n  name: bad\nspec:\n  azureIdentity: demo\n  Selector: x\n"
	badText     = `AzureIdentityBinding bad: spec.Selector: Forbidden: miscapitalised, use "selector"` + "\n"
)

// files writes files into a new directory, which becomes the working directory.
func files(t *testing.T, contents map[string]string) {
	t.Helper()
	t.Chdir(t.TempDir())
	for name, text := range contents {
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// outcome of a command: exit code, standard output, standard error and the text
// of the error that the process would print.
type outcome struct {
	code                    int
	stdout, stderr, trouble string
}

func execute(t *testing.T, stdin string, args ...string) outcome {
	t.Helper()
	var stdout, stderr bytes.Buffer
	err := command(t.Context(), args, strings.NewReader(stdin), &stdout, &stderr)
	o := outcome{stdout: stdout.String(), stderr: stderr.String()}
	var exit *run.ExitError
	if errors.As(err, &exit) {
		o.code = exit.Code
		if exit.Err != nil {
			o.trouble = exit.Err.Error()
		}
	} else if err != nil {
		t.Errorf("error %v without an exit code", err)
	}
	return o
}

func TestCommand(t *testing.T) {
	const help = "; 'webhook lint --help' prints the flags"
	tests := map[string]struct {
		files map[string]string
		stdin string
		args  []string
		want  outcome
	}{
		"a clean file": {
			files: map[string]string{"a.yaml": goodBinding},
			args:  []string{"-f", "a.yaml"},
			want:  outcome{stderr: "1 object checked, 0 with errors; 0 errors, 0 warnings; 0 objects of other kinds ignored; 1 file read\n"},
		},
		"findings": {
			files: map[string]string{"a.yaml": "kind: Pod\n---\n" + badBinding, "b.yaml": goodBinding},
			args:  []string{"-f", "a.yaml", "--filename=b.yaml"},
			want: outcome{code: 1, stdout: "a.yaml:9: " + badText,
				stderr: "2 objects checked, 1 with errors; 1 error, 0 warnings; 1 object of other kinds ignored; 2 files read\n"},
		},
		"further arguments are files, as a shell expands a pattern": {
			files: map[string]string{"a.yaml": badBinding, "b.yaml": badBinding},
			args:  []string{"-f", "a.yaml", "b.yaml", "a.yaml"},
			want: outcome{code: 1, stdout: "a.yaml:7: " + badText + "b.yaml:7: " + badText,
				stderr: "2 objects checked, 2 with errors; 2 errors, 0 warnings; 0 objects of other kinds ignored; 2 files read\n"},
		},
		"standard input": {
			stdin: badBinding, args: []string{"-f", "-"},
			want: outcome{code: 1, stdout: "-:7: " + badText,
				stderr: "1 object checked, 1 with errors; 1 error, 0 warnings; 0 objects of other kinds ignored; 1 file read\n"},
		},
		"a directory": {
			files: map[string]string{"d/b.yml": badBinding, "d/a.json": `{"apiVersion":"v1"}`, "d/README.md": "x: [", "d/below/c.yaml": badBinding},
			args:  []string{"-f", "d"},
			want: outcome{code: 1, stdout: "d/b.yml:7: " + badText,
				stderr: "1 object checked, 1 with errors; 1 error, 0 warnings; 1 object of other kinds ignored; 2 files read\n"},
		},
		"a directory and those below": {
			files: map[string]string{"d/b.yaml": goodBinding, "d/below/c.yaml": badBinding},
			args:  []string{"-R", "-f", "d/"},
			want: outcome{code: 1, stdout: "d/below/c.yaml:7: " + badText,
				stderr: "2 objects checked, 1 with errors; 1 error, 0 warnings; 0 objects of other kinds ignored; 2 files read\n"},
		},
		"a directory without manifests": {
			files: map[string]string{"d/README.md": ""},
			args:  []string{"-f", "d"},
			want: outcome{code: 2, trouble: "d: no files with the extensions [.yaml .yml .json]; -R looks into the directories below",
				stderr: "0 objects checked, 0 with errors; 0 errors, 0 warnings; 0 objects of other kinds ignored; 0 files read\n"},
		},
		"a file that is not there does not hide the findings in another": {
			files: map[string]string{"a.yaml": badBinding},
			args:  []string{"-f", "none.yaml", "-f", "a.yaml"},
			want: outcome{code: 2, stdout: "a.yaml:7: " + badText, trouble: "stat none.yaml: no such file or directory",
				stderr: "1 object checked, 1 with errors; 1 error, 0 warnings; 0 objects of other kinds ignored; 1 file read\n"},
		},
		"an empty pipe, since the command before it failed": {
			stdin: "\n", args: []string{"-f", "-"},
			want: outcome{code: 2, trouble: "standard input: it is empty",
				stderr: "0 objects checked, 0 with errors; 0 errors, 0 warnings; 0 objects of other kinds ignored; 0 files read\n"},
		},
		"a program": {
			files: map[string]string{"a.yaml": "\x7fELF\x02\x01\x01\x00"},
			args:  []string{"-f", "a.yaml"},
			want: outcome{code: 2, trouble: "a.yaml: it is not text in UTF-8, so neither YAML nor JSON",
				stderr: "0 objects checked, 0 with errors; 0 errors, 0 warnings; 0 objects of other kinds ignored; 0 files read\n"},
		},
		"a file from PowerShell": {
			files: map[string]string{"a.yaml": "\xff\xfea\x00:\x00"},
			args:  []string{"-f", "a.yaml"},
			want: outcome{code: 2, trouble: "a.yaml: it is UTF-16: save it as UTF-8",
				stderr: "0 objects checked, 0 with errors; 0 errors, 0 warnings; 0 objects of other kinds ignored; 0 files read\n"},
		},
		"a byte order mark": {
			files: map[string]string{"a.yaml": "\ufeff" + badBinding},
			args:  []string{"-f", "a.yaml"},
			want: outcome{code: 1, stdout: "a.yaml:7: " + badText,
				stderr: "1 object checked, 1 with errors; 1 error, 0 warnings; 0 objects of other kinds ignored; 1 file read\n"},
		},
		"no file":           {want: outcome{code: 2, trouble: "lint: no manifests: name files or directories with -f, or - for standard input" + help}},
		"an unknown flag":   {args: []string{"--file=x"}, want: outcome{code: 2, trouble: "lint: unknown flag: --file" + help}},
		"an unknown output": {args: []string{"-f", "-", "-o", "yaml"}, want: outcome{code: 2, trouble: `lint: --output="yaml": must be text or json` + help}},
		"an unknown policy": {args: []string{"-f", "-", "--resource-id-case=ignore"}, want: outcome{code: 2, trouble: `lint: --resource-id-case="ignore": must be reject, warn or canonicalize` + help}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			files(t, tt.files)
			if diff := cmp.Diff(tt.want, execute(t, tt.stdin, tt.args...), cmp.AllowUnexported(outcome{})); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestHelp(t *testing.T) {
	o := execute(t, "", "--help")
	if o.code != 0 || !strings.Contains(o.stdout, "Exit codes: 0 nothing would be refused") || !strings.Contains(o.stdout, "--resource-id-case") {
		t.Errorf("%+v", o)
	}
}

func TestJSON(t *testing.T) {
	files(t, map[string]string{"a.yaml": header + `kind: AzureIdentity
metadata:
  name: demo
  namespace: web
spec:
  ResourceID: /subscriptions/0f3c5e2a-91b7-4d1e-8c57-2b1f6a9d4e30/resourcegroups/rg/providers/microsoft.managedidentity/userAssignedIdentities/demo
  clientID: x
---
a: [
`})
	const want = `[
  {
    "file": "a.yaml",
    "line": 7,
    "column": 3,
    "severity": "error",
    "kind": "AzureIdentity",
    "namespace": "web",
    "name": "demo",
    "field": "spec.ResourceID",
    "message": "Forbidden: miscapitalised, use \"resourceID\"",
    "rules": [
      "field-miscapitalised"
    ],
    "suggestion": "resourceID"
  },
  {
    "file": "a.yaml",
    "line": 7,
    "column": 3,
    "severity": "error",
    "kind": "AzureIdentity",
    "namespace": "web",
    "name": "demo",
    "field": "spec.resourceID",
    "message": "Invalid value: \"/subscriptions/0f3c5e2a-91b7-4d1e-8c57-2b1f6a9d4e30/resourcegroups/rg/providers/microsoft.managedidentity/userAssignedIdentities/demo\": segment \"microsoft.managedidentity\" is miscapitalised, use \"Microsoft.ManagedIdentity\"; use \"/subscriptions/0f3c5e2a-91b7-4d1e-8c57-2b1f6a9d4e30/resourcegroups/rg/providers/Microsoft.ManagedIdentity/userAssignedIdentities/demo\"",
    "rules": [
      "resource-id-miscapitalised"
    ],
    "suggestion": "/subscriptions/0f3c5e2a-91b7-4d1e-8c57-2b1f6a9d4e30/resourcegroups/rg/providers/Microsoft.ManagedIdentity/userAssignedIdentities/demo"
  },
  {
    "file": "a.yaml",
    "line": 8,
    "column": 3,
    "severity": "error",
    "kind": "AzureIdentity",
    "namespace": "web",
    "name": "demo",
    "field": "spec.clientID",
    "message": "Invalid value: \"x\": must be a GUID, such as 00000000-0000-0000-0000-000000000000",
    "rules": [
      "client-id-format"
    ]
  },
  {
    "file": "a.yaml",
    "line": 10,
    "column": 1,
    "severity": "error",
    "kind": "",
    "namespace": "",
    "name": "",
    "field": "",
    "message": "not valid YAML: did not find expected node content"
  }
]
`
	o := execute(t, "", "-f", "a.yaml", "-o", "json")
	if diff := cmp.Diff(want, o.stdout); diff != "" || o.code != 1 {
		t.Errorf("exit code %d (-want +got):\n%s", o.code, diff)
	}
	if o := execute(t, goodBinding, "-f", "-", "-o", "json"); o.stdout != "[]\n" || o.code != 0 {
		t.Errorf("without findings: %+v", o)
	}
}

// TestResourceIDCase: the flag has the meaning that it has for the server.
func TestResourceIDCase(t *testing.T) {
	identity := func(id string) string {
		return header + "kind: AzureIdentity\nmetadata:\n  name: demo\nspec:\n  resourceID: " + id + "\n  clientID: " + client + "\n"
	}
	miscapitalised := strings.Replace(goodID, "Microsoft.ManagedIdentity", "microsoft.managedidentity", 1)
	const about = "-:6: warning: AzureIdentity demo: spec.resourceID: segment \"microsoft.managedidentity\" is miscapitalised, use \"Microsoft.ManagedIdentity\"; "
	tests := map[string]struct {
		idCase, id, want string
		code             int
	}{
		"refused":         {"reject", miscapitalised, `-:6: AzureIdentity demo: spec.resourceID: Invalid value: "` + miscapitalised + `": segment "microsoft.managedidentity" is miscapitalised, use "Microsoft.ManagedIdentity"; use "` + goodID + "\"\n", 1},
		"warned about":    {"warn", miscapitalised, about + `use "` + goodID + "\"\n", 0},
		"rewritten":       {"canonicalize", miscapitalised, about + `stored as "` + goodID + "\"\n", 0},
		"another mistake": {"warn", miscapitalised + "/", `-:6: AzureIdentity demo: spec.resourceID: Invalid value: "` + miscapitalised + `/": slash at the end; segment "microsoft.managedidentity" is miscapitalised, use "Microsoft.ManagedIdentity"; use "` + goodID + "\"\n", 1},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			o := execute(t, identity(tt.id), "-f", "-", "--resource-id-case="+tt.idCase)
			if diff := cmp.Diff(tt.want, o.stdout); diff != "" || o.code != tt.code {
				t.Errorf("exit code %d, want %d (-want +got):\n%s", o.code, tt.code, diff)
			}
			if o := execute(t, identity(tt.id), "-f", "-", "-o", "json", "--resource-id-case="+tt.idCase); !strings.Contains(o.stdout, `"suggestion": "`+goodID+`"`) {
				t.Errorf("no suggestion in %s", o.stdout)
			}
		})
	}
}

// TestDocumentation: docs/lint.md shows what is printed.
func TestDocumentation(t *testing.T) {
	text, err := os.ReadFile("../../docs/lint.md")
	if err != nil {
		t.Fatal(err)
	}
	files(t, map[string]string{"identity.yaml": header + "kind: AzureIdentity\nmetadata:\n  name: demo\n  namespace: web\nspec:\n  type: 0\n  ResourceID: " + goodID + "\n  clientID: " + client + "\n"})
	o := execute(t, "", "-f", "identity.yaml")
	if want := "$ webhook lint -f identity.yaml\n" + o.stdout + o.stderr; !strings.Contains(string(text), want) {
		t.Errorf("docs/lint.md does not hold\n%s", want)
	}
	_, after, _ := strings.Cut(string(text), "```json\n")
	printed, _, _ := strings.Cut(after, "```")
	var want, got []Finding
	if err := json.Unmarshal([]byte(printed), &want); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal([]byte(execute(t, "", "-f", "identity.yaml", "-o", "json").stdout), &got); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("JSON in docs/lint.md (-want +got):\n%s", diff)
	}
}

// endless is a file that never ends.
type endless struct{}

func (endless) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = '\n'
	}
	return len(p), nil
}

func TestReadingIsBounded(t *testing.T) {
	var stdout, stderr bytes.Buffer
	err := command(t.Context(), []string{"-f", "-"}, endless{}, &stdout, &stderr)
	if err == nil || err.Error() != "standard input: it has more than 32 MiB: lint it in parts, such as one namespace at a time" {
		t.Errorf("error %v", err)
	}
}

func TestInterruptEndsWaiting(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	reader, writer := io.Pipe()
	defer writer.Close()
	cancel()
	var stdout, stderr bytes.Buffer
	if err := command(ctx, []string{"-f", "-"}, reader, &stdout, &stderr); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
}
