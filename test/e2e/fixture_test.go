package e2e

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aad-pod-identity/aad-pod-identity/test/azure"
	"github.com/aad-pod-identity/aad-pod-identity/test/stack"
)

// patience bounds each wait. It is generous: nothing is asserted about speed.
const patience = 90 * time.Second

// namespace makes a namespace for one test, with a suffix if the test needs
// several, and removes it afterwards.
func namespace(t *testing.T, suffix ...string) string {
	t.Helper()
	name := "e2e-" + strings.ToLower(strings.NewReplacer("Test", "", "/", "-", "_", "-").Replace(t.Name())) + strings.Join(suffix, "")
	kubectl(t, "create", "namespace", name)
	t.Cleanup(func() {
		// testMain checks that it really goes.
		if _, err := env.Kubectl(context.Background(), "", "delete", "namespace", name, "--wait=false"); err != nil {
			t.Errorf("removing the test's namespace: %v", err)
		}
	})
	return name
}

func kubectl(t *testing.T, args ...string) string {
	t.Helper()
	out, err := env.Kubectl(t.Context(), "", args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// refused runs kubectl, which must fail, and returns its output.
func refused(t *testing.T, stdin string, args ...string) string {
	t.Helper()
	r, err := env.Run(t.Context(), stack.Command{Args: append([]string{"kubectl"}, args...), Stdin: stdin})
	if err != nil {
		t.Fatal(err)
	}
	if r.Code == 0 {
		t.Fatalf("kubectl %s succeeded:\n%s", strings.Join(args, " "), r.Output)
	}
	return r.Output
}

// apply applies a manifest and returns kubectl's output. It tries again if the webhook
// had too little of the processors to answer in the chart's 3 s.
func apply(t *testing.T, manifest string) string {
	t.Helper()
	var all strings.Builder
	eventually(t, "apply", func(ctx context.Context) error {
		out, err := env.Kubectl(ctx, manifest, "apply", "-f", "-")
		all.WriteString(out)
		late := strings.Contains(out, "failed calling webhook") && strings.Contains(out, "deadline exceeded")
		if err != nil && !late {
			t.Fatal(err)
		}
		return err
	})
	return all.String()
}

// eventually waits until check passes.
func eventually(t *testing.T, what string, check func(ctx context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := stack.Poll(ctx, check); err != nil {
		t.Fatalf("%s: %v", what, err)
	}
}

// azureIdentity makes a user-assigned identity in Azure.
func azureIdentity(t *testing.T, name string) azure.Identity {
	t.Helper()
	id, err := env.Azure.PutIdentity(t.Context(), azure.Identity{ID: azure.IdentityID(stack.Subscription, stack.IdentityGroup, name)})
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func identityManifest(namespace, name string, id azure.Identity) string {
	return fmt.Sprintf(`---
apiVersion: aadpodidentity.k8s.io/v1
kind: AzureIdentity
metadata: {name: %s, namespace: %s}
spec:
  type: 0
  resourceID: %s
  clientID: %s
`, name, namespace, id.ID, id.ClientID)
}

func bindingManifest(namespace, name, identity, selector string) string {
	return fmt.Sprintf(`---
apiVersion: aadpodidentity.k8s.io/v1
kind: AzureIdentityBinding
metadata: {name: %s, namespace: %s}
spec: {azureIdentity: %s, selector: %s}
`, name, namespace, identity, selector)
}

// podManifest is the client workload; an empty selector leaves the label out.
func podManifest(namespace, name, selector string) string {
	labels := ""
	if selector != "" {
		labels = "aadpodidbinding: " + selector
	}
	return fmt.Sprintf(`---
apiVersion: v1
kind: Pod
metadata: {name: %s, namespace: %s, labels: {%s}}
spec:
  terminationGracePeriodSeconds: 1
  automountServiceAccountToken: false
  securityContext: {runAsNonRoot: true, seccompProfile: {type: RuntimeDefault}}
  containers:
    - name: client
      image: %s
      securityContext: {allowPrivilegeEscalation: false, readOnlyRootFilesystem: true, capabilities: {drop: [ALL]}}
`, name, namespace, labels, stack.ClientImage)
}

func waitReady(t *testing.T, namespace string, pods ...string) {
	t.Helper()
	for _, p := range pods {
		kubectl(t, "wait", "-n", namespace, "--for=condition=Ready", "pod/"+p, "--timeout=80s")
	}
}

// state returns the states of a pod's AzureAssignedIdentities, by identity name.
func states(ctx context.Context, podNamespace, pod string) (map[string]string, error) {
	out, err := env.Kubectl(ctx, "", "get", "azureassignedidentities", "-A",
		"-o", `jsonpath={range .items[*]}{.spec.podNamespace}/{.spec.pod} {.spec.azureIdentityRef.metadata.name} {.status.status}{"\n"}{end}`)
	if err != nil {
		return nil, err
	}
	found := map[string]string{}
	for line := range strings.Lines(out) {
		f := strings.Fields(line)
		if len(f) >= 2 && f[0] == podNamespace+"/"+pod {
			found[f[1]] = strings.Join(f[2:], " ")
		}
	}
	return found, nil
}

func waitState(t *testing.T, podNamespace, pod, identity, want string) {
	t.Helper()
	eventually(t, fmt.Sprintf("assignment of %s to %s/%s", identity, podNamespace, pod), func(ctx context.Context) error {
		s, err := states(ctx, podNamespace, pod)
		if err != nil {
			return err
		}
		if s[identity] != want {
			return fmt.Errorf("state %q, want %q", s[identity], want)
		}
		return nil
	})
}

// waitUnassigned waits until a pod has no AzureAssignedIdentity for an identity.
func waitUnassigned(t *testing.T, podNamespace, pod, identity string) {
	t.Helper()
	waitState(t, podNamespace, pod, identity, "")
}

// onScaleSet says whether ARM has the identity on the node's scale set.
func onScaleSet(ctx context.Context, id string) (bool, error) {
	c, err := env.Azure.Compute(ctx, env.VMSSID())
	if err != nil {
		return false, err
	}
	return slices.ContainsFunc(c.UserAssigned, func(a azure.Assignment) bool { return strings.EqualFold(a.ID, id) }), nil
}

func waitOnScaleSet(t *testing.T, id string, want bool) {
	t.Helper()
	eventually(t, fmt.Sprintf("%s on the scale set: %v", id, want), func(ctx context.Context) error {
		has, err := onScaleSet(ctx, id)
		if err == nil && has != want {
			err = fmt.Errorf("it is %v", has)
		}
		return err
	})
}

// token asks for a token in a pod, as an unmodified program does. Output holds
// the claims, or the error.
func token(t *testing.T, namespace, pod string, args ...string) (output string, ok bool) {
	t.Helper()
	r, err := env.Run(t.Context(), stack.Command{Args: append([]string{
		"kubectl", "exec", "-n", namespace, pod, "--", "/client", "token", "--once", "--timeout=80s"}, args...)})
	if err != nil {
		t.Fatal(err)
	}
	return r.Output, r.Code == 0
}

func wantToken(t *testing.T, namespace, pod string, id azure.Identity, args ...string) {
	t.Helper()
	out, ok := token(t, namespace, pod, args...)
	if !ok || !strings.Contains(out, `"appid": "`+id.ClientID+`"`) {
		t.Errorf("token %v in %s/%s is not that of %s:\n%s", args, namespace, pod, id.ID, out)
	}
}

func wantNoToken(t *testing.T, namespace, pod string, args ...string) string {
	t.Helper()
	out, ok := token(t, namespace, pod, args...)
	if ok {
		t.Errorf("%s/%s got a token %v:\n%s", namespace, pod, args, out)
	}
	return out
}

// helmUpgrade changes values of the release and keeps the others.
func helmUpgrade(ctx context.Context, values ...string) error {
	_, err := env.Helm(ctx, append([]string{"upgrade", stack.Release, env.Chart(), "--reset-then-reuse-values", "--wait", "--timeout=3m"}, values...)...)
	return err
}

// waitSettled waits until nothing is assigned: what earlier tests left is gone, and
// with it MIC's work on the scale set.
func waitSettled(t *testing.T) {
	t.Helper()
	eventually(t, "no assigned identities of earlier tests", func(ctx context.Context) error {
		out, err := env.Kubectl(ctx, "", "get", "azureassignedidentities", "-A", "-o", "name")
		if err == nil && strings.TrimSpace(out) != "" {
			err = fmt.Errorf("there are %q", out)
		}
		return err
	})
}
