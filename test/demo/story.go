package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/aad-pod-identity/aad-pod-identity/test/azure"
	"github.com/aad-pod-identity/aad-pod-identity/test/stack"
)

const (
	manifests   = "test/demo/manifests/"
	clientID    = "7eb6a1c2-5d3e-4f60-9a7b-8c9d0e1fa6a9"
	principalID = "b1a2c3d4-0001-4a00-8a00-00000000d3e0"

	// patience bounds each wait; everything normally happens within seconds.
	patience = 60 * time.Second
)

func identityID() string {
	return azure.IdentityID(stack.Subscription, stack.IdentityGroup, "demo")
}

// prepare takes away what an earlier demo left and creates the identity in Azure.
func prepare(ctx context.Context, t *teller) error {
	s := t.stack
	if _, err := s.Kubectl(ctx, "", "delete", "pod", "demo", "stranger", "--ignore-not-found", "--now"); err != nil {
		return err
	}
	if err := s.UninstallRelease(ctx); err != nil {
		return err
	}
	if _, err := s.Kubectl(ctx, "", "delete", "azureidentities,azureidentitybindings", "--all", "--ignore-not-found"); err != nil &&
		!strings.Contains(err.Error(), "doesn't have a resource type") {
		return err
	}
	if err := s.Azure.Reset(ctx); err != nil {
		return err
	}
	if _, err := s.Azure.PutIdentity(ctx, azure.Identity{ID: identityID(), ClientID: clientID, PrincipalID: principalID}); err != nil {
		return err
	}
	ca, err := s.Kubectl(ctx, "", "create", "configmap", "azure-ca", "--from-file=ca.pem="+s.CAFile(), "--dry-run=client", "-o", "yaml")
	if err != nil {
		return err
	}
	_, err = s.Kubectl(ctx, ca, "apply", "-f", "-")
	return err
}

func tell(ctx context.Context, t *teller) {
	if !t.install(ctx) {
		return
	}
	t.rejections(ctx)
	t.pod(ctx)
	t.token(ctx)
	t.release(ctx)
}

func (t *teller) install(ctx context.Context) bool {
	t.begin("The chart is installed; cert-manager issues the webhook's serving certificate")
	args := []string{"helm", "install", stack.Release, "charts/aad-pod-identity", "--wait"}
	if !t.expect(ctx, "helm install", append(args, t.stack.HelmArgs()...), "STATUS: deployed") {
		t.run(ctx, "kubectl", "get", "pods", "--all-namespaces") //nolint:errcheck // shown to help, the step has failed already
		return false
	}
	running := t.expect(ctx, "webhook, MIC and NMI run", []string{"kubectl", "get", "pods", "-l", "app.kubernetes.io/name=aad-pod-identity"},
		"aad-pod-identity-webhook-", "aad-pod-identity-mic-", "aad-pod-identity-nmi-")
	trusted := t.expect(ctx, "the API server trusts the webhook's certificate", stack.WaitForCA(), "condition met")
	return running && trusted
}

func (t *teller) rejections(ctx context.Context) {
	for _, bad := range []struct {
		title, what, file string
		texts             []string
	}{
		{
			"A miscapitalised field is rejected, with the text that says what to write", "the field's right spelling is in the answer",
			"miscapitalised-field.yaml", []string{"spec.ResourceID", "miscapitalised", `"resourceID"`},
		},
		{
			"A miscapitalised resource ID is rejected, with the corrected ID ready to paste", "the corrected ID is in the answer",
			"miscapitalised-id.yaml", []string{"spec.resourceID", "miscapitalised", identityID0()},
		},
		{
			"An invalid resource ID is rejected, with everything that is wrong with it", "the answer names each mistake",
			"invalid-id.yaml", []string{"spec.resourceID", "no slash at the beginning", `"Microsoft.Compute/virtualMachines" must be`, `"production" is not a GUID`},
		},
	} {
		t.begin(bad.title)
		t.show(manifests + bad.file)
		if !t.refuse(ctx, bad.what, []string{"kubectl", "apply", "-f", manifests + bad.file}, bad.texts...) {
			// What was wrongly accepted must not spoil the later steps.
			t.run(ctx, "kubectl", "delete", "azureidentity", "demo", "--ignore-not-found") //nolint:errcheck // the step has failed already
		}
	}
}

// identityID0 is the identity's ID in the spelling of the manifests.
func identityID0() string {
	return strings.Replace(identityID(), "resourceGroups", "resourcegroups", 1)
}

func (t *teller) pod(ctx context.Context) {
	t.begin("A good identity and binding are accepted")
	t.show(manifests + "identity.yaml")
	t.show(manifests + "binding.yaml")
	t.expect(ctx, "both are created", []string{"kubectl", "apply", "-f", manifests + "identity.yaml", "-f", manifests + "binding.yaml"},
		"azureidentity.aadpodidentity.k8s.io/demo created", "azureidentitybinding.aadpodidentity.k8s.io/demo-binding created")

	t.begin("A pod with the binding's selector is tagged by the webhook, and MIC assigns the identity to its node")
	watching, stopWatch := context.WithTimeout(ctx, patience)
	defer stopWatch()
	states := make(chan watched, 1)
	go func() { states <- t.watchAssignment(watching) }()
	t.expect(ctx, "the pod is created", []string{"kubectl", "apply", "-f", manifests + "pod.yaml"}, "pod/demo created")
	t.expect(ctx, "the pod carries the tags", []string{"kubectl", "get", "pods", "demo", "-L", "aadpodidentity.k8s.io/binding,aadpodidentity.k8s.io/identity"},
		"demo-binding demo")
	w := <-states
	fmt.Fprintf(t.out, "$ kubectl get azureassignedidentities --all-namespaces --watch\n%s", w.output)
	t.check("the AzureAssignedIdentity is Created, then Assigned", w.err)

	t.begin("The identity is on the scale set in ARM")
	t.showARM(ctx)
	t.check("ARM lists the identity", t.onScaleSet(ctx, true))
}

type watched struct {
	output string
	err    error
}

// watchAssignment watches until the AzureAssignedIdentity of the demo is Assigned.
func (t *teller) watchAssignment(ctx context.Context) watched {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	out := &watcher{until: "Assigned", done: cancel}
	_, runErr := t.stack.Run(ctx, stack.Command{
		Args:     []string{"kubectl", "get", "azureassignedidentities", "--all-namespaces", "--watch"},
		Progress: out,
	})
	text := out.String()
	created, assigned := strings.Index(text, "Created"), strings.Index(text, "Assigned")
	switch {
	case assigned < 0 && created < 0:
		return watched{text, firstError(runErr, errors.New("none appeared"))}
	case assigned < 0:
		return watched{text, firstError(runErr, errors.New("it stays Created"))}
	case created < 0 || created > assigned:
		return watched{text, errors.New("it was never Created")}
	}
	return watched{text, nil} // the watch was ended on purpose
}

func (t *teller) token(ctx context.Context) {
	t.begin("The pod gets a token at 169.254.169.254 with the unmodified azidentity ManagedIdentityCredential")
	if !t.expect(ctx, "the pod runs", []string{"kubectl", "wait", "--for=condition=Ready", "pod/demo", "--timeout=60s"}, "condition met") {
		return
	}
	jwks := t.stack.ARMURL() + "/common/discovery/v2.0/keys"
	t.expect(ctx, "the token is the identity's, and its signature is Azure's",
		[]string{"kubectl", "exec", "demo", "--", "/client", "token", "--timeout=60s", "--jwks=" + jwks, "--ca-file=/azure/ca.pem"},
		"signature verified", `"appid": "`+clientID+`"`, `"oid": "`+principalID+`"`, "userAssignedIdentities/demo")

	t.begin("A pod without a binding is refused")
	t.expect(ctx, "the pod is created", []string{"kubectl", "apply", "-f", manifests + "stranger.yaml"}, "pod/stranger created")
	t.expect(ctx, "the pod runs", []string{"kubectl", "wait", "--for=condition=Ready", "pod/stranger", "--timeout=60s"}, "condition met")
	t.refuse(ctx, "no token, and an answer that says why",
		[]string{"kubectl", "exec", "stranger", "--", "/client", "token", "--once"}, "404", "default/stranger")
}

func (t *teller) release(ctx context.Context) {
	t.begin("The pod is deleted, and MIC takes the identity off the scale set")
	t.expect(ctx, "the pod is deleted", []string{"kubectl", "delete", "pod", "demo", "--now"}, `pod "demo"`)
	err := t.onScaleSet(ctx, false)
	t.showARM(ctx)
	t.check("ARM no longer lists the identity", err)
	waiting, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	err = stack.Poll(waiting, func(ctx context.Context) error { return t.none(ctx, "azureassignedidentities") })
	t.expect(ctx, "the AzureAssignedIdentity is gone", []string{"kubectl", "get", "azureassignedidentities", "--all-namespaces"}, "No resources found")
	if err != nil {
		t.check("the finalizer is released", err)
	}
}

// showARM prints the identity part of the scale set as ARM has it.
func (t *teller) showARM(ctx context.Context) {
	fmt.Fprintf(t.out, "# ARM: GET %s\n", t.stack.VMSSID())
	c, err := t.stack.Azure.Compute(ctx, t.stack.VMSSID())
	if err != nil {
		fmt.Fprintln(t.out, err)
		return
	}
	ids := make([]string, 0, len(c.UserAssigned))
	for _, a := range c.UserAssigned {
		ids = append(ids, a.ID)
	}
	data, err := json.MarshalIndent(map[string]any{"systemAssigned": c.SystemAssigned, "userAssignedIdentities": ids}, "", "  ")
	if err != nil {
		fmt.Fprintln(t.out, err)
		return
	}
	fmt.Fprintf(t.out, "%s\n", data)
}

// onScaleSet waits until ARM has, or no longer has, the identity on the scale set.
// The system-assigned identity, which was there before, must stay either way.
func (t *teller) onScaleSet(ctx context.Context, want bool) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	return stack.Poll(ctx, func(ctx context.Context) error {
		c, err := t.stack.Azure.Compute(ctx, t.stack.VMSSID())
		if err != nil {
			return err
		}
		has := slices.ContainsFunc(c.UserAssigned, func(a azure.Assignment) bool { return strings.EqualFold(a.ID, identityID()) })
		switch {
		case !c.SystemAssigned:
			return errors.New("the scale set has lost its system-assigned identity")
		case has != want && want:
			return errors.New("the identity is not on the scale set")
		case has != want:
			return errors.New("the identity is still on the scale set")
		}
		return nil
	})
}

// none says that there are no objects of a kind.
func (t *teller) none(ctx context.Context, kind string) error {
	out, err := t.stack.Kubectl(ctx, "", "get", kind, "--all-namespaces", "--no-headers", "--ignore-not-found")
	if err != nil {
		return err
	}
	if n := len(strings.Fields(out)); n > 0 {
		return fmt.Errorf("there are still %s:\n%s", kind, out)
	}
	return nil
}
