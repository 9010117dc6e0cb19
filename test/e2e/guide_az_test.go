package e2e

import (
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/aad-pod-identity/aad-pod-identity/test/azure"
	"github.com/aad-pod-identity/aad-pod-identity/test/cluster/image"
	"github.com/aad-pod-identity/aad-pod-identity/test/soak"
	"github.com/aad-pod-identity/aad-pod-identity/test/stack"
)

// azureCLI is the image that the troubleshooting guide runs, with Debian's Azure CLI in
// it. That of Debian 12 is of the guide's time; later ones ask for tokens in other words.
func azureCLI(t *testing.T) image.Spec {
	t.Helper()
	files, err := image.UnpackDebian(t.Context(), []string{"azure-cli", "bash", "coreutils"}, neededToLogIn)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.ContainsFunc(files, func(f image.File) bool { return strings.Contains(f.Path, "/msrestazure/") }) {
		t.Skip("this Debian's Azure CLI is not of the guide's time")
	}
	return image.Spec{Name: "mcr.microsoft.com/azure-cli:latest", User: "0:0", Files: files}
}

// neededToLogIn leaves out the SDKs of the hundreds of services that the CLI manages;
// it says of their commands that it cannot load them, and goes on.
func neededToLogIn(file string) bool {
	rest, sdk := strings.CutPrefix(file, "/usr/lib/python3/dist-packages/azure/")
	if !sdk {
		return true
	}
	return slices.ContainsFunc([]string{"__init__.py", "cli/", "common/", "core/", "profiles/", "mgmt/__init__.py", "mgmt/core/", "mgmt/resource/"},
		func(needed string) bool { return strings.HasPrefix(rest, needed) })
}

// TestGuideRunAPodToValidate does what the guide says under this name, with the real
// Azure CLI, and compares what it prints with the guide.
func TestGuideRunAPodToValidate(t *testing.T) {
	soak.Only(t)
	if err := env.Cluster.LoadImages(t.Context(), azureCLI(t)); err != nil {
		t.Fatal(err)
	}
	ns := namespace(t)
	id := azureIdentity(t, "guide-az")
	// Else the list of subscriptions is empty, and az ends with an error.
	if err := env.Azure.Grant(t.Context(), azure.Role{PrincipalID: id.PrincipalID, Role: azure.RoleReader, Scope: "/subscriptions/" + stack.Subscription}); err != nil {
		t.Fatal(err)
	}
	apply(t, identityManifest(ns, "demo", id)+bindingManifest(ns, "demo", "demo", "demo"))
	ca, err := os.ReadFile(env.CAFile())
	if err != nil {
		t.Fatal(err)
	}
	// What is typed into the shell: before the guide's line, where this cloud is.
	shell := fmt.Sprintf(`cat > /tmp/ca.pem <<'end'
%s
end
mkdir -p ~/.azure
cat > ~/.azure/clouds.config <<'end'
[AzureCloud]
endpoint_resource_manager = %s
end
export REQUESTS_CA_BUNDLE=/tmp/ca.pem AZURE_CORE_COLLECT_TELEMETRY=0
az login -i --debug
exit
`, ca, env.ARMURL())
	// The guide's command, in a terminal; no registry is there to pull from.
	run := "kubectl run azure-cli -it --image=mcr.microsoft.com/azure-cli --labels=aadpodidbinding=demo --image-pull-policy=IfNotPresent -n " + ns + " /bin/bash"
	r, err := env.Run(t.Context(), stack.Command{Stdin: shell, Args: []string{"script", "-qec", run, "/dev/null"}})
	if err != nil {
		t.Fatal(err)
	}
	printed := regexp.MustCompile("\r|\x1b\\[[0-9;?]*[a-zA-Z]").ReplaceAllString(r.Output, "")
	rest := printed
	for _, want := range guideOfAz(t) {
		at := want.FindStringIndex(rest)
		if at == nil {
			t.Fatalf("az does not print, or not in this order,\n%s\nbut\n%s", want, printed)
		}
		rest = rest[at[1]:]
	}
	wantGuideLogLines(t, ns, "azure-cli", "demo", id, `https://management\.core\.windows\.net/`)
}

// guideOfAz is what the guide says that az prints: its lines up to the dots, and the
// list of subscriptions after them.
func guideOfAz(t *testing.T) []*regexp.Regexp {
	t.Helper()
	text, err := os.ReadFile("../../docs/troubleshooting.md")
	if err != nil {
		t.Fatal(err)
	}
	_, block, ok := strings.Cut(string(text), "```log\nurllib3.connectionpool")
	if !ok {
		t.Fatal("the guide does not say what az prints")
	}
	block, _, _ = strings.Cut("urllib3.connectionpool"+block, "\n```")
	before, after, ok := strings.Cut(block, "\n...\n")
	if !ok {
		t.Fatalf("the guide leaves nothing out of\n%s", block)
	}
	inGeneral := strings.NewReplacer(" : ", " ?: ", "<REDACTED>", `[^"]+`, " 200 1667", ` 200 \d+`)
	var lines []*regexp.Regexp
	for _, printed := range append(strings.Split(before, "\n"), after) {
		lines = append(lines, regexp.MustCompile(inGeneral.Replace(regexp.QuoteMeta(printed))))
	}
	return lines
}
