package main

import (
	"os"
	"regexp"
	"strings"
	"testing"
)

// printed returns the shell commands of a document: those of its bash blocks that
// contain a word.
func printed(t *testing.T, file, word string) []string {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var blocks []string
	for _, block := range regexp.MustCompile("(?s)```bash\n(.*?)```").FindAllStringSubmatch(string(text), -1) {
		if strings.Contains(block[1], word) {
			blocks = append(blocks, block[1])
		}
	}
	return blocks
}

// testGuide runs the commands that clear finalizers, as the guide prints them. No
// MIC runs here, as in the guide; what it wrote long ago breaks today's rules.
func (s *apiServer) testGuide(t *testing.T) {
	blocks := printed(t, "../docs/troubleshooting.md", "| jq ")
	if len(blocks) != 2 {
		t.Fatalf("%d blocks with jq in the guide, want that for all and that for one", len(blocks))
	}
	left := func() string { return s.must(t, "", "get", "azureassignedidentity", "-A", "-o", "name") }
	const name = "azureassignedidentity.aadpodidentity.k8s.io/old-assigned-"
	if got, want := left(), name+"1\n"+name+"2\n"+name+"3\n"; got != want {
		t.Fatalf("before: %s, want %s", got, want)
	}
	t.Run("the form of old guides for a single object cannot work", func(t *testing.T) {
		r := s.shell(t, "kubectl get azureassignedidentity old-assigned-1 -n default -o=json | jq '.items[].metadata.finalizers=null' | kubectl apply -f -")
		if !r.failed || !strings.Contains(r.stderr, "Cannot iterate over null") {
			t.Errorf("%+v", r)
		}
	})
	for _, step := range []struct{ what, block, want string }{
		{"one", strings.NewReplacer("<name>", "old-assigned-2", "<namespace>", "default").Replace(blocks[1]), name + "1\n" + name + "3\n"},
		{"all", blocks[0], ""},
	} {
		if r := s.shell(t, "set -euo pipefail\n"+step.block); r.failed {
			t.Fatalf("%s: %s%s", step.what, r.stdout, r.stderr)
		}
		if got := left(); got != step.want {
			t.Errorf("after %s: %q are left, want %q", step.what, got, step.want)
		}
	}
}

// testGuideRefusal applies a manifest like that of the guide's example.
func (s *apiServer) testGuideRefusal(t *testing.T) {
	text, err := os.ReadFile("../docs/troubleshooting.md")
	if err != nil {
		t.Fatal(err)
	}
	r := s.run(t, header+"kind: AzureIdentity\nmetadata: {name: demo}\nspec: {type: 0, ResourceID: "+goodID+"}\n", "apply", "-f", "-")
	if want := "$ kubectl apply -f identity.yaml\n" + r.stderr + "```"; !r.failed || !strings.Contains(string(text), want) {
		t.Errorf("the guide does not hold\n%s", want)
	}
}

// testLintLive runs the check before an upgrade over the live cluster, as the
// guide prints it.
func (s *apiServer) testLintLive(t *testing.T) {
	blocks := printed(t, "../docs/troubleshooting.md", "kubectl get azureidentity,azureidentitybinding -A ")
	if len(blocks) != 1 {
		t.Fatalf("the guide has %d commands that lint the live cluster", len(blocks))
	}
	s.must(t, identityManifest("lint-good"), "apply", "-f", "-")
	r := s.shell(t, "set -o pipefail\n"+blocks[0]+`echo "exit code $?"`)
	var found []string
	for line := range strings.Lines(r.stdout) {
		_, line, _ = strings.Cut(line, ": ") // the line of the input is of no interest
		object, finding, _ := strings.Cut(strings.TrimSuffix(line, "\n"), ": ")
		field, _, _ := strings.Cut(finding, ": ")
		found = append(found, object+" "+field)
	}
	want := []string{
		"AzureIdentity default/old-behavior metadata.annotations[aadpodidentity.k8s.io/Behavior]",
		"AzureIdentity default/old-id spec.resourceID",
		"AzureIdentity default/old-required spec.auxiliaryTenantIDs[0]",
	}
	for _, w := range want {
		if !strings.Contains("\n"+strings.Join(found, "\n")+"\n", "\n"+w+"\n") {
			t.Errorf("no finding %s in\n%s%s", w, r.stdout, r.stderr)
		}
	}
	if strings.Contains(r.stdout, "lint-good") || !strings.HasSuffix(r.stdout, "exit code 1\n") || !strings.Contains(r.stderr, " checked, 3 with errors;") {
		t.Errorf("%s%s", r.stdout, r.stderr)
	}
}
