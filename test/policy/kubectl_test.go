package policy_test

import (
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/controller-runtime/pkg/envtest"

	"github.com/aad-pod-identity/aad-pod-identity/test/apiserver"
)

var update = flag.Bool("update", false, "write the golden files anew")

// testKubectl shows what a user reads who applies each of the bad manifests while no
// webhook is there to say it better.
func (s *server) testKubectl(t *testing.T) {
	user, err := s.env.AddUser(envtest.User{Name: "user", Groups: []string{"system:masters"}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	kubeconfig, err := user.KubeConfig()
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "kubeconfig")
	if err := os.WriteFile(file, kubeconfig, 0o600); err != nil {
		t.Fatal(err)
	}
	kubectl := func(args ...string) (string, error) {
		cmd := exec.CommandContext(t.Context(), apiserver.Kubectl(), append([]string{"--kubeconfig", file}, args...)...)
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	got, err := kubectl("apply", "-f", manifests+"/invalid")
	if err == nil {
		t.Error("kubectl apply: no error")
	}
	for line := range strings.Lines(got) {
		if strings.HasSuffix(line, " created\n") || strings.HasSuffix(line, " configured\n") {
			t.Errorf("accepted: %s", line)
		}
	}
	const golden = "testdata/kubectl-apply.txt"
	if *update {
		if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(strings.Split(string(want), "\n"), strings.Split(got, "\n")); diff != "" {
		t.Errorf("the texts differ from %s; if that is meant: go test ./test/policy -update\n%s", golden, diff)
	}
	if out, err := kubectl("apply", "--dry-run=server", "-f", manifests+"/valid"); err != nil {
		t.Errorf("valid manifests: %v\n%s", err, out)
	}
}
