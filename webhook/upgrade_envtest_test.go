package main

import (
	"slices"
	"strings"
	"testing"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/client-go/rest"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/envtest"
	"sigs.k8s.io/yaml"

	"github.com/aad-pod-identity/aad-pod-identity/charts"
	"github.com/aad-pod-identity/aad-pod-identity/test/apiserver"
	"github.com/aad-pod-identity/aad-pod-identity/test/helmtest"
)

// TestUpgradedCluster: a cluster of an older release has objects that today's
// rules refuse. Then come our CRDs, policies and webhook, and its users go on.
func TestUpgradedCluster(t *testing.T) {
	s := startEnvironment(t, &envtest.Environment{CRDInstallOptions: envtest.CRDInstallOptions{CRDs: oldCRDs(t)}})
	for _, o := range oldObjects {
		s.must(t, o.manifest, "create", "-f", "-")
	}
	s.upgrade(t)

	t.Run("stored objects keep their metadata, status and deletion", s.testOldObjects)
	t.Run("a changed spec must be valid", s.testOldSpecs)
	t.Run("kubectl edit", s.testEdit)
	t.Run("kubectl patch", s.testPatch)
	t.Run("kubectl replace", s.testReplace)
	t.Run("server-side apply", s.testServerSideApply)
	t.Run("dry run", s.testServerDryRun)
	t.Run("generateName", s.testGenerateName)
	t.Run("a list of good and bad objects", s.testMixedList)
	t.Run("lint over the live cluster", s.testLintLive)
	t.Run("the guide's example of a refusal", s.testGuideRefusal)
	t.Run("the guide's commands", s.testGuide)
	t.Run("delete collection", s.testDeleteCollection)
}

// oldCRDs are ours without rules, like those of the 1.8 releases.
func oldCRDs(t *testing.T) []*apiextensionsv1.CustomResourceDefinition {
	t.Helper()
	docs, err := charts.CRDs()
	if err != nil {
		t.Fatal(err)
	}
	var crds []*apiextensionsv1.CustomResourceDefinition
	for _, doc := range docs {
		crd := &apiextensionsv1.CustomResourceDefinition{}
		if err := yaml.Unmarshal(doc, crd); err != nil {
			t.Fatal(err)
		}
		for i := range crd.Spec.Versions {
			v := &crd.Spec.Versions[i]
			v.Subresources, v.AdditionalPrinterColumns, v.SelectableFields = nil, nil, nil
			v.Schema = &apiextensionsv1.CustomResourceValidation{OpenAPIV3Schema: &apiextensionsv1.JSONSchemaProps{
				Type: "object", XPreserveUnknownFields: ptr.To(true),
			}}
		}
		crds = append(crds, crd)
	}
	return crds
}

const (
	oldGroupID = "/subscriptions/0F3C5E2A-91B7-4D1E-8C57-2B1F6A9D4E30/RESOURCEGROUPS/rg/providers/microsoft.managedidentity/userassignedidentities/demo"
	finalizer  = "azureassignedidentity.finalizers.aadpodidentity.k8s.io"
)

// oldObjects are stored under the old CRDs. Their mistakes are all different.
var oldObjects = []struct{ name, manifest string }{
	{"azureidentity/old-names", header + "kind: AzureIdentity\nmetadata: {name: old-names}\nspec: {type: 0, ResourceID: " + goodID + ", ClientID: 7eb6d1a0-2c4f-4b8e-9d3a-5f1e0c7ba6a9, ClientPassword: {Name: '', Namespace: ''}}\n"},
	{"azureidentity/old-id", header + "kind: AzureIdentity\nmetadata: {name: old-id}\nspec: {type: 0, resourceID: " + oldGroupID + ", clientID: 7eb6d1a0-2c4f-4b8e-9d3a-5f1e0c7ba6a9}\n"},
	{"azureidentity/old-required", header + "kind: AzureIdentity\nmetadata: {name: old-required}\nspec: {type: 1, clientID: '', clientPassword: {}, auxiliaryTenantIDs: ['x y']}\n"},
	{"azureidentity/old-behavior", header + "kind: AzureIdentity\nmetadata: {name: old-behavior, annotations: {aadpodidentity.k8s.io/Behavior: Namespaced}}\nspec: {type: 0, resourceID: " + goodID + ", clientID: 7eb6d1a0-2c4f-4b8e-9d3a-5f1e0c7ba6a9}\n"},
	{"azureidentitybinding/old-binding", header + "kind: AzureIdentityBinding\nmetadata: {name: old-binding}\nspec: {AzureIdentity: default/demo, Selector: 'not a label', weight: 1}\n"},
	{"azurepodidentityexception/old-exception", header + "kind: AzurePodIdentityException\nmetadata: {name: old-exception}\nspec: {PodLabels: {app: mic}}\n"},
	{"azureassignedidentity/old-assigned-1", oldAssigned("old-assigned-1")},
	{"azureassignedidentity/old-assigned-2", oldAssigned("old-assigned-2")},
	{"azureassignedidentity/old-assigned-3", oldAssigned("old-assigned-3")},
}

// oldAssigned is an AzureAssignedIdentity as the old MIC wrote it.
func oldAssigned(name string) string {
	return header + "kind: AzureAssignedIdentity\nmetadata: {name: " + name + ", labels: {nodename: node-0}, finalizers: [" + finalizer + "]}\n" +
		"spec: {pod: " + name + ", podNamespace: default, nodename: node-0, replicas: 1, azureIdentityRef: {apiVersion: aadpodidentity.k8s.io/v1, kind: AzureIdentity, " +
		"metadata: {name: old-names, namespace: default}, spec: {type: 0, ResourceID: " + oldGroupID + ", clientPassword: {}}}, " +
		"azureBindingRef: {apiVersion: aadpodidentity.k8s.io/v1, kind: AzureIdentityBinding, metadata: {name: old-binding, creationTimestamp: null}, spec: {AzureIdentity: demo, Selector: x, weight: 0}}}\n" +
		"status: {status: Assigned, availableReplicas: 1}\n"
}

// upgrade installs our CRDs, the chart's policies and the webhook, and waits until
// each of them speaks.
func (s *apiServer) upgrade(t *testing.T) {
	t.Helper()
	refused := func(by, manifest string) {
		waitFor(t, by, func() bool {
			r := s.run(t, manifest, "create", "--dry-run=server", "-f", "-")
			return r.failed && strings.Contains(r.stderr, by)
		})
	}
	if _, err := envtest.InstallCRDs(s.config, envtest.CRDInstallOptions{Paths: []string{"../charts/aad-pod-identity/crds"}, ErrorIfPathMissing: true, MaxTime: apiserver.Patience}); err != nil {
		t.Fatal(err)
	}
	refused("spec.selector: Invalid value", header+"kind: AzureIdentityBinding\nmetadata: {name: trial}\nspec: {azureIdentity: demo, selector: [x]}\n")

	s.must(t, policies(t), "apply", "-f", "-")
	refused("only MIC", header+"kind: AzureAssignedIdentity\nmetadata: {name: trial}\nspec: {pod: p, podNamespace: default, nodename: node-0}\n")

	install, ours := &s.env.WebhookInstallOptions, ourWebhooks()
	install.MutatingWebhooks, install.ValidatingWebhooks = ours.MutatingWebhooks, ours.ValidatingWebhooks
	if err := install.ModifyWebhookDefinitions(); err != nil {
		t.Fatal(err)
	}
	if err := install.Install(s.config); err != nil {
		t.Fatal(err)
	}
	s.startWebhook(t, func(*options, *rest.Config) {})
	refused(`spec.Selector: Forbidden: miscapitalised, use "selector"`, bindingManifestWith("trial", "Selector"))
}

// bindingManifestWith has the selector under a name of choice.
func bindingManifestWith(name, selector string) string {
	return header + "kind: AzureIdentityBinding\nmetadata: {name: " + name + "}\nspec: {azureIdentity: demo, " + selector + ": x}\n"
}

// policies renders those of the chart with its default values.
func policies(t *testing.T) string {
	t.Helper()
	out, err := helmtest.Run(t, "template", "aad-pod-identity", "../charts/aad-pod-identity", "--namespace", "default", "--kube-version", "1.37.0")
	if err != nil {
		t.Fatal(err)
	}
	docs := slices.DeleteFunc(strings.Split(out, "\n---\n"), func(doc string) bool {
		return !strings.Contains(doc, "\nkind: ValidatingAdmissionPolicy")
	})
	return strings.ReplaceAll(strings.Join(docs, "\n---\n"), "system:serviceaccount:default:aad-pod-identity-mic", micUser)
}

// oldObjectSteps are what a user may do with the metadata of objects, all in one
// command.
var oldObjectSteps = []string{
	"kubectl annotate $ALL a=b",
	"kubectl label $OURS a=b",
	`kubectl patch $ALL --type=merge -p '{"metadata":{"finalizers":["example.com/hold"]}}'`,
	`kubectl patch $ALL --type=json -p '[{"op":"remove","path":"/metadata/finalizers"}]'`,
	`kubectl patch $COUNTED --subresource=status --type=merge -p '{"status":{"availableReplicas":1}}'`,
	`EDITOR="sed -i 's/^    annotations:/&\n      edited: by-hand/'" kubectl edit $ALL`,
	`kubectl get $ALL -o yaml | sed 's/^    annotations:/&\n      replaced: by-file/' | kubectl replace -f -`,
	`kubectl get $ALL -o json | jq '.items[] |= {apiVersion,kind,metadata:{name:.metadata.name,annotations:{"applied":"x"}}}' | kubectl apply --server-side -f -`,
	`kubectl get $ALL -o json | jq '.items[].metadata.annotations.again="yes"' | kubectl apply -f -`,
}

// testOldObjects: what does not touch what is wrong passes.
func (s *apiServer) testOldObjects(t *testing.T) {
	var all, ours, counted []string
	for _, o := range oldObjects {
		if o.name == "azureassignedidentity/old-assigned-2" {
			break // like the first
		}
		all = append(all, o.name)
		if !strings.HasPrefix(o.name, "azureassignedidentity/") {
			ours = append(ours, o.name)
		}
		if strings.HasPrefix(o.name, "azureidentit") {
			counted = append(counted, o.name)
		}
	}
	join := func(names []string) string { return strings.Join(names, " ") }
	for _, step := range oldObjectSteps {
		if r := s.shell(t, "set -o pipefail\n"+step, "ALL="+join(all), "OURS="+join(ours), "COUNTED="+join(counted)); r.failed {
			t.Errorf("%s: %s", step, r.stderr)
		}
	}
	out := s.must(t, "", append([]string{"get", "-o", "jsonpath={range .items[*]}{.metadata.annotations.a} {.metadata.annotations.edited} {.metadata.annotations.replaced} {.metadata.annotations.applied} {.metadata.annotations.again}\n{end}"}, all...)...)
	if want := strings.Repeat("b by-hand by-file x yes\n", len(all)); out != want {
		t.Errorf("annotations of %q:\n%s", all, out)
	}
	t.Run("an AzureAssignedIdentity keeps its labels, which say who serves it", func(t *testing.T) {
		r := s.run(t, "", "label", "azureassignedidentity", "old-assigned-1", "nodename=other", "--overwrite")
		if !r.failed || !strings.Contains(r.stderr, "only MIC") {
			t.Errorf("kubectl says %q", r.stderr)
		}
		s.must(t, "", "label", "azureassignedidentity", "old-assigned-1", "a=b", "--as="+micUser, "--as-group=system:masters")
		s.must(t, "", "patch", "azureassignedidentity", "old-assigned-1", "--type=merge", "-p", `{"status":{"status":"Unassigned"}}`, "--as="+micUser, "--as-group=system:masters")
	})
	t.Run("a deletion waits for the finalizer and no longer", func(t *testing.T) {
		s.must(t, "", "patch", "azureidentity", "old-names", "--type=merge", "-p", `{"metadata":{"finalizers":["example.com/hold"]}}`)
		s.must(t, "", "delete", "azureidentity", "old-names", "--wait=false")
		s.must(t, "", "annotate", "azureidentity", "old-names", "while=it-goes")
		s.must(t, "", "patch", "azureidentity", "old-names", "--type=merge", "-p", `{"metadata":{"finalizers":null}}`)
		if out := s.must(t, "", "get", "azureidentity", "old-names", "--ignore-not-found", "-o", "name"); out != "" {
			t.Errorf("%s is still there", out)
		}
	})
}

// testOldSpecs: a spec is judged as soon as it changes, and as a whole.
func (s *apiServer) testOldSpecs(t *testing.T) {
	const patch = "kubectl patch $O --type=merge -p "
	for name, tt := range map[string]struct{ object, patch, want string }{
		"a change elsewhere in the spec": {"azureidentity/old-id", `{"spec":{"replicas":1}}`,
			`The AzureIdentity "old-id" is invalid: spec.resourceID: Invalid value: "` + oldGroupID + `": segment "RESOURCEGROUPS" is miscapitalised`},
		"a change that corrects only a part": {"azureidentitybinding/old-binding", `{"spec":{"AzureIdentity":null,"azureIdentity":"demo"}}`,
			`spec.Selector: Forbidden: miscapitalised, use "selector"`},
	} {
		t.Run(name, func(t *testing.T) {
			r := s.shell(t, patch+"'"+tt.patch+"'", "O="+tt.object)
			if !r.failed || !strings.Contains(r.stderr, tt.want) {
				t.Errorf("kubectl says %q, want %q", r.stderr, tt.want)
			}
		})
	}
	t.Run("a change that corrects everything", func(t *testing.T) {
		s.must(t, "", "patch", "azureidentitybinding", "old-binding", "--type=merge", "-p", `{"spec":{"AzureIdentity":null,"azureIdentity":"demo","Selector":null,"selector":"x"}}`)
	})
}
