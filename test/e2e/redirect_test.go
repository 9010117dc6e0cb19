package e2e

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"testing"

	"github.com/aad-pod-identity/aad-pod-identity/test/azure"
	"github.com/aad-pod-identity/aad-pod-identity/test/stack"
)

// nmiPod finds the NMI of the node by the guide's command.
func nmiPod(t *testing.T) string {
	t.Helper()
	return kubectl(t, "get", "pod", "-l", "component=nmi", `-ojsonpath={.items[?(@.spec.nodeName=="`+env.Cluster.NodeName()+`")].metadata.name}`)
}

// chain is what the troubleshooting guide prints, with the address of this node.
func chain() string {
	return `-N aad-metadata
-A aad-metadata ! -s 127.0.0.1/32 -d 169.254.169.254/32 -p tcp -m tcp --dport 80 -j DNAT --to-destination ` + env.Cluster.NodeIP() + `:2579
-A aad-metadata -j RETURN
`
}

// withoutWarnings drops what iptables says on a machine where somebody has used
// its other backend.
func withoutWarnings(output string) string {
	var kept strings.Builder
	for line := range strings.Lines(output) {
		if !strings.HasPrefix(line, "# Warning: ") {
			kept.WriteString(line)
		}
	}
	return kept.String()
}

func host(ctx context.Context, args ...string) (stack.Result, error) {
	return env.Run(ctx, stack.Command{Args: args})
}

func TestGuideEnsureThatIptablesRuleExists(t *testing.T) {
	if got := withoutWarnings(kubectl(t, "exec", nmiPod(t), "--", "iptables", "-t", "nat", "-S", "aad-metadata")); got != chain() {
		t.Errorf("the guide's command prints\n%s\nwant\n%s", got, chain())
	}
	r, err := host(t.Context(), "iptables", "-t", "nat", "-S", "PREROUTING")
	if err != nil {
		t.Fatal(err)
	}
	rules := strings.Split(withoutWarnings(r.Output), "\n")
	if len(rules) < 2 || rules[1] != "-A PREROUTING -j aad-metadata" {
		t.Errorf("the jump is not first in PREROUTING:\n%s", r.Output)
	}
}

func TestRedirectIsRepairedAfterAFlush(t *testing.T) {
	for _, args := range [][]string{
		{"iptables", "-t", "nat", "-D", "PREROUTING", "-j", "aad-metadata"},
		{"iptables", "-t", "nat", "-F", "aad-metadata"},
	} {
		if r, err := host(t.Context(), args...); err != nil || r.Code != 0 {
			t.Fatalf("%v: %v %s", args, err, r.Output)
		}
		eventually(t, "repair", func(ctx context.Context) error {
			r, err := host(ctx, "iptables", "-t", "nat", "-S")
			if err == nil && (!strings.Contains(r.Output, "-A PREROUTING -j aad-metadata") || !strings.Contains(r.Output, ":2579")) {
				err = errors.New("the redirect is incomplete")
			}
			return err
		})
	}
}

// TestNoPodReachesIMDSWhileNMIRestarts holds the redirect in place while NMI is
// gone: a pod's request must fail rather than reach the node's own identities.
func TestNoPodReachesIMDSWhileNMIRestarts(t *testing.T) {
	ns := namespace(t)
	apply(t, podManifest(ns, "stranger", ""))
	waitReady(t, ns, "stranger")
	podIP := kubectl(t, "get", "pod", "-n", ns, "stranger", "-o", "jsonpath={.status.podIP}")
	if err := env.Azure.ClearCalls(t.Context()); err != nil {
		t.Fatal(err)
	}
	old := nmiPod(t)
	kubectl(t, "delete", "pod", old, "--wait=false")
	const url = "http://169.254.169.254/metadata/identity/oauth2/token?api-version=2018-02-01&resource=https%3A%2F%2Fmanagement.azure.com%2F"
	eventually(t, "NMI runs again and refuses", func(ctx context.Context) error {
		r, err := env.Run(ctx, stack.Command{Args: []string{"kubectl", "exec", "-n", ns, "stranger", "--", "/client", "get", "-H", "Metadata: true", url}})
		if err != nil {
			return err
		}
		if strings.Contains(r.Output, "access_token") {
			t.Fatalf("the pod got a token around NMI:\n%s", r.Output)
		}
		if !strings.HasPrefix(r.Output, "404 application/json") || nmiPodOrNone(ctx) == old {
			return fmt.Errorf("last answer %q", r.Output)
		}
		return nil
	})
	calls, err := env.Azure.Calls(t.Context(), azure.CallFilter{Service: azure.ServiceIMDS})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range calls {
		if strings.HasPrefix(c.Source, podIP) {
			t.Errorf("the pod's request reached IMDS: %+v", c)
		}
	}
}

func nmiPodOrNone(ctx context.Context) string {
	out, err := env.Kubectl(ctx, "", "get", "pod", "-l", "component=nmi", "-o", "jsonpath={.items[*].metadata.name}")
	if err != nil {
		return ""
	}
	return out
}

func answersOfTheTokenEndpoint(t *testing.T) {
	ns := namespace(t)
	apply(t, podManifest(ns, "stranger", ""))
	waitReady(t, ns, "stranger")
	const base = "http://169.254.169.254/metadata/"
	tests := map[string]struct {
		path, header, want string
	}{
		"the SDK's probe without the header is answered at once": {"identity/oauth2/token?resource=x", "", `400 application/json`},
		"a missing resource is the caller's mistake":             {"identity/oauth2/token?api-version=2018-02-01", "Metadata: true", `400 application/json`},
		"a pod without an identity":                              {"identity/oauth2/token/?api-version=2018-02-01&resource=x", "Metadata: true", `404 application/json`},
		"a path that only looks like the token path":             {`identity\oauth2\token?resource=x`, "Metadata: true", `400 application/json`},
		"instance metadata is IMDS's":                            {"instance?api-version=2021-02-01", "Metadata: true", `200 application/json`},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			args := []string{"exec", "-n", ns, "stranger", "--", "/client", "get"}
			if tc.header != "" {
				args = append(args, "-H", tc.header)
			}
			got := kubectl(t, append(args, base+tc.path)...)
			if !strings.HasPrefix(got, tc.want) {
				t.Errorf("answer\n%s\nwant %s", got, tc.want)
			}
			if strings.HasPrefix(tc.want, "4") && !strings.Contains(got, `"error":`) {
				t.Errorf("the error has not IMDS's shape:\n%s", got)
			}
		})
	}
}

func guideLogLines(t *testing.T) {
	ns := namespace(t)
	id := azureIdentity(t, "loglines")
	apply(t, identityManifest(ns, "loglines", id)+bindingManifest(ns, "loglines", "loglines", "loglines")+podManifest(ns, "web", "loglines"))
	waitState(t, ns, "web", "loglines", "Assigned")
	waitReady(t, ns, "web")
	wantToken(t, ns, "web", id)
	wantGuideLogLines(t, ns, "web", "loglines", id, `https://management\.azure\.com/?`)
}

// wantGuideLogLines looks for the three lines of the troubleshooting guide about a pod
// that got a token of its only identity. Resource is a regular expression.
func wantGuideLogLines(t *testing.T, ns, pod, identity string, id azure.Identity, resource string) {
	t.Helper()
	podIP := kubectl(t, "get", "pod", "-n", ns, pod, "-o", "jsonpath={.status.podIP}")
	head := `(?m)^I\d{4} \d\d:\d\d:\d\d\.\d{6} +\d+ \w+\.go:\d+\] `
	redacted := regexp.QuoteMeta(id.ClientID[:4] + "##### REDACTED #####" + id.ClientID[len(id.ClientID)-4:])
	eventually(t, "the guide's lines", func(ctx context.Context) error {
		logs, err := env.Kubectl(ctx, "", "logs", nmiPodOrNone(ctx))
		if err != nil {
			return err
		}
		for _, line := range []string{
			head + `no clientID or resourceID in request\. ` + ns + `/` + pod + ` has been matched with azure identity ` + ns + `/` + identity + `$`,
			head + `matched identityType:0 clientid:` + redacted + ` resource:` + resource + `$`,
			head + `status \(200\) took \d+ ns for req\.method=GET reg\.path=/metadata/identity/oauth2/token req\.remote=` + regexp.QuoteMeta(podIP) + `$`,
		} {
			if !regexp.MustCompile(line).MatchString(logs) {
				return fmt.Errorf("no line matches %s", line)
			}
		}
		if strings.Contains(logs, id.ClientID) {
			t.Errorf("the log holds the full client ID")
		}
		return nil
	})
}

func TestProbes(t *testing.T) {
	t.Run("NMI is Active", func(t *testing.T) {
		out := kubectl(t, "get", "--raw", "/api/v1/nodes/"+env.Cluster.NodeName()+":8085/proxy/healthz")
		if out != "Active" {
			t.Errorf("healthz says %q", out)
		}
	})
	t.Run("one MIC is Active, the other is not", func(t *testing.T) {
		eventually(t, "one leader", func(ctx context.Context) error {
			names, err := env.Kubectl(ctx, "", "get", "pods", "-l", "component=mic", "-o", "jsonpath={.items[*].metadata.name}")
			if err != nil {
				return err
			}
			count := map[string]int{}
			for name := range strings.FieldsSeq(names) {
				out, err := env.Kubectl(ctx, "", "get", "--raw", "/api/v1/namespaces/default/pods/"+name+":8080/proxy/healthz")
				if err != nil {
					return err
				}
				count[out]++
			}
			if count["Active"] != 1 || count["Not Active"] != 1 {
				return fmt.Errorf("healthz says %v", count)
			}
			return nil
		})
	})
}
