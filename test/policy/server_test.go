// Package policy_test asks a real API server, with the chart's CRDs and policies and
// without the webhook, what it refuses: every defect that the webhook refuses, but for
// the differences that docs/policies.md lists.
package policy_test

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/rest"
	"k8s.io/klog/v2"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/envtest"
	"sigs.k8s.io/yaml"

	v1 "github.com/aad-pod-identity/aad-pod-identity/api/v1"
	"github.com/aad-pod-identity/aad-pod-identity/charts"
	"github.com/aad-pod-identity/aad-pod-identity/test/apiserver"
	"github.com/aad-pod-identity/aad-pod-identity/test/helmtest"
)

const (
	chartDir  = "../../charts/aad-pod-identity"
	manifests = "../manifests"
	// Who MIC is where the chart is rendered as here.
	release   = "aad-pod-identity"
	namespace = "pod-identity"
	micUser   = "system:serviceaccount:" + namespace + ":aad-pod-identity-mic"
	// The oldest version that the chart supports.
	kubeVersion = "1.30.0"
)

// plurals of the kinds, for paths.
var plurals = map[string]string{
	v1.KindAzureIdentity:             "azureidentities",
	v1.KindAzureIdentityBinding:      "azureidentitybindings",
	v1.KindAzureAssignedIdentity:     "azureassignedidentities",
	v1.KindAzurePodIdentityException: "azurepodidentityexceptions",
}

// server is a real API server.
type server struct {
	env        *envtest.Environment
	config     *rest.Config
	admin, mic client.Client
}

func startServer(t *testing.T) *server {
	t.Helper()
	ctrl.SetLogger(klog.Background())
	env := &envtest.Environment{}
	config := apiserver.Start(t, env)
	config.QPS = -1
	s := &server{env: env, config: config}
	s.admin = s.as(t, "admin")
	s.mic = s.as(t, micUser)
	return s
}

// as is a client of a user whom RBAC allows everything, so that only admission
// can refuse.
func (s *server) as(t *testing.T, user string) client.Client {
	t.Helper()
	config := rest.CopyConfig(s.config)
	config.Impersonate = rest.ImpersonationConfig{UserName: user, Groups: []string{"system:masters"}}
	scheme := runtime.NewScheme()
	if err := apiextensionsv1.AddToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	c, err := client.New(config, client.Options{Scheme: scheme})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// apply applies as the chart's hook does.
func (s *server) apply(t *testing.T, o *unstructured.Unstructured) {
	t.Helper()
	err := s.admin.Apply(t.Context(), client.ApplyConfigurationFromUnstructured(o.DeepCopy()), client.ForceOwnership, client.FieldOwner("policy-test"))
	if err != nil {
		t.Fatalf("applying %s %s: %v", o.GetKind(), o.GetName(), err)
	}
}

// applyCRDs applies CRDs and waits until they are served with their schema.
func (s *server) applyCRDs(t *testing.T, crds []*unstructured.Unstructured) {
	t.Helper()
	for _, crd := range crds {
		s.apply(t, crd)
	}
	eventually(t, "the CRDs to be served", func(ctx context.Context) (bool, error) {
		for _, crd := range crds {
			got := &apiextensionsv1.CustomResourceDefinition{}
			if err := s.admin.Get(ctx, client.ObjectKeyFromObject(crd), got); err != nil {
				return false, err
			}
			served := false
			for _, c := range got.Status.Conditions {
				if c.Type == apiextensionsv1.NonStructuralSchema && c.Status == apiextensionsv1.ConditionTrue {
					return false, fmt.Errorf("%s is not structural: %s", got.Name, c.Message)
				}
				served = served || c.Type == apiextensionsv1.Established && c.Status == apiextensionsv1.ConditionTrue
			}
			if !served {
				return false, nil
			}
		}
		return true, nil
	})
}

// ourCRDs are the CRDs of the chart.
func ourCRDs(t *testing.T) []*unstructured.Unstructured {
	t.Helper()
	docs, err := charts.CRDs()
	if err != nil {
		t.Fatal(err)
	}
	var crds []*unstructured.Unstructured
	for _, doc := range docs {
		crd := &unstructured.Unstructured{}
		if err := yaml.Unmarshal(doc, &crd.Object); err != nil {
			t.Fatal(err)
		}
		crds = append(crds, crd)
	}
	return crds
}

// staticPolicies are those policies of the chart, with their bindings, that judge an
// object by itself. The others ask who writes it.
func staticPolicies(t *testing.T, args ...string) []*unstructured.Unstructured {
	t.Helper()
	var policies []*unstructured.Unstructured
	for _, o := range render(t, args...) {
		if !strings.HasPrefix(o.GetKind(), "ValidatingAdmissionPolicy") {
			continue
		}
		if name := o.GetName(); strings.HasSuffix(name, "-field-names") || strings.HasSuffix(name, "-resource-id-case") {
			policies = append(policies, o)
		}
	}
	return policies
}

// installPolicies creates the static policies and waits until they are obeyed.
func (s *server) installPolicies(t *testing.T) {
	t.Helper()
	for _, p := range staticPolicies(t) {
		s.apply(t, p)
	}
	probes := map[string]*unstructured.Unstructured{
		"field-names":      mutated(identity(), func(spec map[string]any) { spec["unknown"] = "x" }),
		"resource-id-case": mutated(identity(), func(spec map[string]any) { spec["resourceID"] = strings.ToUpper(spec["resourceID"].(string)) }),
	}
	for policy, probe := range probes {
		eventually(t, "the policy "+policy+" to be obeyed", func(ctx context.Context) (bool, error) {
			err := s.admin.Create(ctx, probe.DeepCopy(), client.DryRunAll)
			if err != nil && !apierrors.IsInvalid(err) {
				return false, err
			}
			return err != nil && strings.Contains(err.Error(), "-"+policy+"'"), nil
		})
	}
}

func eventually(t *testing.T, what string, done func(ctx context.Context) (bool, error)) {
	t.Helper()
	if err := wait.PollUntilContextTimeout(t.Context(), 50*time.Millisecond, time.Minute, true, done); err != nil {
		t.Fatalf("waiting for %s: %v", what, err)
	}
}

// render returns what real Helm makes of the chart.
func render(t *testing.T, args ...string) []*unstructured.Unstructured {
	t.Helper()
	helmtest.Require(t)
	out, err := helmtest.Run(t, append([]string{"template", release, chartDir, "--namespace", namespace, "--kube-version", kubeVersion}, args...)...)
	if err != nil {
		t.Fatal(err)
	}
	return helmtest.Objects(t, out)
}

// mutated returns a copy of an object with its spec changed.
func mutated(o *unstructured.Unstructured, change func(spec map[string]any)) *unstructured.Unstructured {
	o = o.DeepCopy()
	spec, _ := o.Object["spec"].(map[string]any)
	change(spec)
	return o
}

func object(kind, name string, spec map[string]any) *unstructured.Unstructured {
	return &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": v1.GroupVersion.String(), "kind": kind,
		"metadata": map[string]any{"namespace": "default", "name": name},
		"spec":     spec,
	}}
}

const (
	resourceID = "/subscriptions/0f3c5e2a-91b7-4d1e-8c57-2b1f6a9d4e30/resourcegroups/demo-rg/providers/Microsoft.ManagedIdentity/userAssignedIdentities/demo"
	clientID   = "7eb6d1a0-2c4f-4b8e-9d3a-5f1e0c7ba6a9"
)

// identity is a valid AzureIdentity.
func identity() *unstructured.Unstructured {
	return object(v1.KindAzureIdentity, "demo", map[string]any{"type": int64(0), "resourceID": resourceID, "clientID": clientID})
}

func encode(t *testing.T, o any) []byte {
	t.Helper()
	raw, err := json.Marshal(o)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}
