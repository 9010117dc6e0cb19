package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const (
	otherClient = "00000000-0000-0000-0000-000000000001"
	selectorBad = `spec.Selector: Forbidden: miscapitalised, use "selector"`
)

// deniedCreate is how kubectl apply and create name one of several objects.
func deniedCreate(name, finding string) string {
	return `Error from server (Invalid): error when creating "STDIN": admission webhook "mutate.aadpodidentity.k8s.io" denied the request: AzureIdentityBinding.aadpodidentity.k8s.io "` + name + `" is invalid: ` + finding + "\n"
}

func (s *apiServer) wantSpec(t *testing.T, name, path, want string) {
	t.Helper()
	if got := s.must(t, "", "get", name, "-o", "jsonpath={"+path+"}"); got != want {
		t.Errorf("%s of %s is %q, want %q", path, name, got, want)
	}
}

// testEdit: a mistake comes back as a comment in the file that is being edited.
func (s *apiServer) testEdit(t *testing.T) {
	s.must(t, identityManifest("edit"), "apply", "-f", "-")
	dir := t.TempDir()
	editor := filepath.Join(dir, "editor")
	// It keeps what it is shown, and makes the same change each time.
	if err := os.WriteFile(editor, []byte("#!/bin/sh\ncat \"$1\" >>\"$SEEN\"\nsed -i \"$CHANGE\" \"$1\"\n"), 0o755); err != nil { //nolint:gosec // a program
		t.Fatal(err)
	}
	edit := func(change string) (kubectlResult, string) {
		seen := filepath.Join(t.TempDir(), "seen")
		r := s.shell(t, "kubectl edit azureidentity edit", "EDITOR="+editor, "SEEN="+seen, "CHANGE="+change)
		text, err := os.ReadFile(seen)
		if err != nil {
			t.Fatal(err)
		}
		return r, string(text)
	}
	r, seen := edit("s/^  resourceID:/  ResourceID:/")
	if want := "# azureidentities.aadpodidentity.k8s.io \"edit\" was not valid:\n# * spec.ResourceID: Forbidden: miscapitalised, use \"resourceID\"\n"; !r.failed || !strings.Contains(seen, want) {
		t.Errorf("kubectl edit: failed %v, %s%s; the file says\n%s", r.failed, r.stdout, r.stderr, seen)
	}
	s.wantSpec(t, "azureidentity/edit", ".spec.resourceID", goodID)
	if r, _ := edit("s/^  clientID: .*/  clientID: " + otherClient + "/"); r.failed || r.stdout != "azureidentity.aadpodidentity.k8s.io/edit edited\n" {
		t.Errorf("a good edit: %+v", r)
	}
	s.wantSpec(t, "azureidentity/edit", ".spec.clientID", otherClient)
}

func (s *apiServer) testPatch(t *testing.T) {
	s.must(t, identityManifest("patch"), "apply", "-f", "-")
	const refused = `The AzureIdentity "patch" is invalid: spec.clientID: Invalid value: "x": must be a GUID, such as 00000000-0000-0000-0000-000000000000` + "\n"
	s.refused(t, refused, "patch", "azureidentity", "patch", "--type=merge", "-p", `{"spec":{"clientID":"x"}}`)
	s.refused(t, refused, "patch", "azureidentity", "patch", "--type=json", "-p", `[{"op":"replace","path":"/spec/clientID","value":"x"}]`)
	s.refused(t, `The AzureIdentity "patch" is invalid: spec.ResourceID: Forbidden: miscapitalised, and "resourceID" is there as well: remove one`+"\n",
		"patch", "azureidentity", "patch", "--type=merge", "-p", `{"spec":{"ResourceID":"x"}}`)
	s.must(t, "", "patch", "azureidentity", "patch", "--type=json", "-p", `[{"op":"replace","path":"/spec/clientID","value":"`+otherClient+`"}]`)
	s.wantSpec(t, "azureidentity/patch", ".spec.clientID", otherClient)
}

func (s *apiServer) testReplace(t *testing.T) {
	s.must(t, bindingManifestWith("replace", "selector"), "create", "-f", "-")
	r := s.run(t, bindingManifestWith("replace", "Selector"), "replace", "-f", "-")
	if want := `The AzureIdentityBinding "replace" is invalid: ` + selectorBad + "\n"; !r.failed || r.stderr != want {
		t.Errorf("kubectl says %q, want %q", r.stderr, want)
	}
	s.must(t, strings.Replace(bindingManifestWith("replace", "selector"), "selector: x", "selector: z", 1), "replace", "-f", "-")
	s.wantSpec(t, "azureidentitybinding/replace", ".spec.selector", "z")
}

// testServerSideApply: a conflict of managers is said before a mistake is.
func (s *apiServer) testServerSideApply(t *testing.T) {
	apply := func(manifest string, args ...string) kubectlResult {
		return s.run(t, manifest, append([]string{"apply", "--server-side", "-f", "-"}, args...)...)
	}
	good := identityManifest("ssa")
	if r := apply(good, "--field-manager=first"); r.failed {
		t.Fatal(r.stderr)
	}
	changed := strings.Replace(good, "7eb6d1a0-2c4f-4b8e-9d3a-5f1e0c7ba6a9", otherClient, 1)
	bad := strings.Replace(good, "7eb6d1a0-2c4f-4b8e-9d3a-5f1e0c7ba6a9", "x", 1)
	for _, manifest := range []string{changed, bad} {
		if r := apply(manifest, "--field-manager=second"); !r.failed || !strings.Contains(r.stderr, "Apply failed with 1 conflict: conflict with \"first\": .spec.clientID") {
			t.Errorf("a conflict: %q", r.stderr)
		}
	}
	const refused = `The AzureIdentity "ssa" is invalid: spec.clientID: Invalid value: "x": must be a GUID, such as 00000000-0000-0000-0000-000000000000` + "\n"
	for _, args := range [][]string{{"--field-manager=second", "--force-conflicts"}, {"--field-manager=first"}} {
		if r := apply(bad, args...); !r.failed || r.stderr != refused {
			t.Errorf("%v: kubectl says %q", args, r.stderr)
		}
	}
	if r := apply(changed, "--field-manager=second", "--force-conflicts"); r.failed {
		t.Errorf("forced: %s", r.stderr)
	}
	s.wantSpec(t, "azureidentity/ssa", ".spec.clientID", otherClient)
	// Whoever lets go of a field without which the object is invalid is refused
	// like anybody else.
	if r := apply(header+"kind: AzureIdentity\nmetadata: {name: ssa}\n", "--field-manager=second"); !r.failed || !strings.Contains(r.stderr, "spec.clientID: Required value") {
		t.Errorf("a required field goes: %q", r.stderr)
	}
}

func (s *apiServer) testServerDryRun(t *testing.T) {
	if r := s.run(t, bindingManifestWith("dry", "selector"), "apply", "--dry-run=server", "-f", "-"); r.failed || r.stdout != "azureidentitybinding.aadpodidentity.k8s.io/dry created (server dry run)\n" {
		t.Errorf("%+v", r)
	}
	if r := s.run(t, bindingManifestWith("dry", "Selector"), "create", "--dry-run=server", "-f", "-"); !r.failed || !strings.Contains(r.stderr, selectorBad) {
		t.Errorf("%+v", r)
	}
	if out := s.must(t, "", "get", "azureidentitybinding", "dry", "--ignore-not-found", "-o", "name"); out != "" {
		t.Errorf("a dry run has stored %s", out)
	}
	s.must(t, bindingManifestWith("dry", "selector"), "create", "-f", "-")
	s.must(t, "", "delete", "azureidentitybinding", "dry", "--dry-run=server")
	s.must(t, "", "get", "azureidentitybinding", "dry")
}

func (s *apiServer) testGenerateName(t *testing.T) {
	generated := func(selector string) string {
		return strings.Replace(bindingManifestWith("gen-", selector), "name:", "generateName:", 1)
	}
	out := s.must(t, generated("selector"), "create", "-f", "-")
	if name, ok := strings.CutPrefix(out, "azureidentitybinding.aadpodidentity.k8s.io/gen-"); !ok || len(name) < len("xxxxx created\n") {
		t.Errorf("kubectl says %q", out)
	}
	r := s.run(t, generated("Selector"), "create", "-f", "-")
	if want := `The AzureIdentityBinding "gen-" is invalid: ` + selectorBad + "\n"; !r.failed || r.stderr != want {
		t.Errorf("kubectl says %q, want %q", r.stderr, want)
	}
}

// testMixedList: the good objects of a list are stored, each bad one is named.
func (s *apiServer) testMixedList(t *testing.T) {
	item := func(manifest string) string {
		return "- " + strings.ReplaceAll(strings.TrimSuffix(manifest, "\n"), "\n", "\n  ") + "\n"
	}
	list := "apiVersion: v1\nkind: List\nitems:\n" +
		item(bindingManifestWith("mixed-1", "selector")) + item(bindingManifestWith("mixed-2", "Selector")) +
		item("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: mixed-3}\n") +
		item(bindingManifestWith("mixed-4", "selectro")) + item(bindingManifestWith("mixed-5", "selector"))
	r := s.run(t, list, "apply", "-f", "-")
	want := kubectlResult{
		stdout: "azureidentitybinding.aadpodidentity.k8s.io/mixed-1 created\nconfigmap/mixed-3 created\nazureidentitybinding.aadpodidentity.k8s.io/mixed-5 created\n",
		stderr: deniedCreate("mixed-2", selectorBad) + deniedCreate("mixed-4", `spec.selectro: Forbidden: unknown field, did you mean "selector"?`),
		failed: true,
	}
	r.stderr = withoutLines(r.stderr, "Warning: ")
	if diff := cmp.Diff(want, r, cmp.AllowUnexported(kubectlResult{})); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// withoutLines drops the lines that begin with a word.
func withoutLines(text, begin string) string {
	var kept strings.Builder
	for line := range strings.Lines(text) {
		if !strings.HasPrefix(line, begin) {
			kept.WriteString(line)
		}
	}
	return kept.String()
}

// testDeleteCollection deletes what is left of all kinds, in one request each.
func (s *apiServer) testDeleteCollection(t *testing.T) {
	for _, resource := range []string{"azureidentities", "azureidentitybindings", "azurepodidentityexceptions"} {
		if before := s.must(t, "", "get", resource, "-o", "name"); before == "" {
			t.Errorf("no %s to delete", resource)
		}
		s.must(t, "", "delete", "--raw", "/apis/aadpodidentity.k8s.io/v1/namespaces/default/"+resource)
		if left := s.must(t, "", "get", resource, "-o", "name"); left != "" {
			t.Errorf("left: %s", left)
		}
	}
}
