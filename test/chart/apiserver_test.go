package chart_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/envtest"

	"github.com/aad-pod-identity/aad-pod-identity/test/apiserver"
)

// server is a real API server with our CRDs and cert-manager's.
type server struct {
	env *envtest.Environment
	cfg *rest.Config
	c   client.Client
	// webhook is the program.
	webhook string
}

func startServer(t *testing.T, webhook string) *server {
	t.Helper()
	apiserver.Require(t)
	dir, err := exec.CommandContext(t.Context(), "go", "list", "-m", "-f", "{{.Dir}}", "github.com/cert-manager/cert-manager").Output()
	if err != nil {
		t.Fatalf("finding cert-manager's module: %v", err)
	}
	env := &envtest.Environment{CRDInstallOptions: envtest.CRDInstallOptions{
		Paths:              []string{filepath.Join(chartDir, "crds"), filepath.Join(strings.TrimSpace(string(dir)), "deploy/crds")},
		ErrorIfPathMissing: true,
	}}
	cfg := apiserver.Start(t, env)
	c, err := client.New(cfg, client.Options{})
	if err != nil {
		t.Fatal(err)
	}
	s := &server{env: env, cfg: cfg, c: c, webhook: webhook}
	for _, ns := range []string{namespace, "team-a", "team-b"} {
		s.create(t, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: ns}})
	}
	s.create(t, &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "may-everything"},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "cluster-admin"},
		Subjects:   []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.GroupKind, Name: "may-everything"}},
	})
	return s
}

func (s *server) create(t *testing.T, o client.Object) {
	t.Helper()
	if err := s.c.Create(t.Context(), o); err != nil {
		t.Fatalf("creating %T %s: %v", o, o.GetName(), err)
	}
}

// as is a client of a user whom RBAC allows everything, so that only admission
// can refuse.
func (s *server) as(t *testing.T, user string) client.Client {
	t.Helper()
	cfg := rest.CopyConfig(s.cfg)
	cfg.Impersonate = rest.ImpersonationConfig{UserName: user, Groups: []string{"may-everything"}}
	c, err := client.New(cfg, client.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func testAgainstAPIServer(t *testing.T, webhook string) {
	s := startServer(t, webhook)
	t.Run("every object is accepted, with no unknown field", s.testStrict)
	t.Run("pods that need no privilege satisfy the restricted level", s.testRestricted)
	t.Run("AzureAssignedIdentities are MIC's", s.testAssignedIdentityPolicy)
	t.Run("an upgrade that loosens a rule and needs that", s.testLoosened)
	t.Run("hooks do their work with their roles alone", s.testHooks)
	t.Run("serving certificates", s.testServingCertificates)
}

func (s *server) testStrict(t *testing.T) {
	files, err := filepath.Glob("testdata/values/*.yaml")
	if err != nil {
		t.Fatal(err)
	}
	strict := client.WithFieldValidation(s.c, metav1.FieldValidationStrict)
	for _, file := range files {
		for key, o := range mustRender(t, "--values", file) {
			// Dry runs are for what does not depend on objects of the same rendering.
			if err := strict.Create(t.Context(), o, client.DryRunAll); err != nil {
				t.Errorf("%s: %s: %v", file, key, err)
			}
		}
	}
}

func (s *server) testRestricted(t *testing.T) {
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "restricted", Labels: map[string]string{
		"pod-security.kubernetes.io/enforce": "restricted"}}}
	s.create(t, ns)
	tests := map[string]struct {
		args       []string
		object     string
		restricted bool
	}{
		"webhook":                              {object: "Deployment/aad-pod-identity-webhook", restricted: true},
		"prepare":                              {object: "Job/aad-pod-identity-prepare", restricted: true},
		"uninstall":                            {object: "Job/aad-pod-identity-uninstall", restricted: true},
		"cleanup":                              {object: "Job/aad-pod-identity-cleanup", restricted: true},
		"MIC with a secret":                    {object: "Deployment/aad-pod-identity-mic", args: []string{"--values", "testdata/values/adminsecret.yaml"}, restricted: true},
		"MIC, which reads a file of the node":  {object: "Deployment/aad-pod-identity-mic"},
		"NMI, which edits the node's iptables": {object: "DaemonSet/aad-pod-identity-nmi"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			workload := mustRender(t, tc.args...).get(t, tc.object)
			spec, _, err := unstructured.NestedMap(workload.Object, "spec", "template", "spec")
			if err != nil {
				t.Fatal(err)
			}
			delete(spec, "priorityClassName")
			pod := &unstructured.Unstructured{Object: map[string]any{
				"apiVersion": "v1", "kind": "Pod",
				"metadata": map[string]any{"namespace": ns.Name, "name": "pod"},
				"spec":     spec,
			}}
			err = s.c.Create(t.Context(), pod, client.DryRunAll)
			if tc.restricted && err != nil {
				t.Error(err)
			}
			// The check judges at all.
			if !tc.restricted && !apierrors.IsForbidden(err) {
				t.Errorf("error %v, want it forbidden at this level", err)
			}
		})
	}
}

const micUser = "system:serviceaccount:" + namespace + ":aad-pod-identity-mic"

// assigned is an AzureAssignedIdentity as MIC writes it.
func assigned(name string) *unstructured.Unstructured {
	return &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "aadpodidentity.k8s.io/v1",
		"kind":       "AzureAssignedIdentity",
		"metadata": map[string]any{
			"namespace":   "default",
			"name":        name,
			"labels":      map[string]any{"nodename": "node-1"},
			"annotations": map[string]any{"aadpodidentity.k8s.io/pod-uid": "uid-1"},
			"finalizers":  []any{"azureassignedidentity.finalizers.aadpodidentity.k8s.io"},
		},
		"spec": map[string]any{
			"pod": "pod", "podNamespace": "default", "nodename": "node-1",
			"azureIdentityRef": map[string]any{
				"apiVersion": "aadpodidentity.k8s.io/v1", "kind": "AzureIdentity",
				"metadata": map[string]any{"name": "id", "namespace": "default", "creationTimestamp": nil},
				"spec":     map[string]any{"type": int64(0), "clientID": "a", "resourceID": "b"},
			},
			"azureBindingRef": map[string]any{
				"apiVersion": "aadpodidentity.k8s.io/v1", "kind": "AzureIdentityBinding",
				"metadata": map[string]any{"name": "binding", "namespace": "default"},
				"spec":     map[string]any{"azureIdentity": "id", "selector": "demo"},
			},
		},
		"status": map[string]any{"status": "Assigned", "availableReplicas": int64(1)},
	}}
}

func (s *server) testAssignedIdentityPolicy(t *testing.T) {
	all := mustRender(t)
	for _, kind := range []string{"ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding"} {
		s.create(t, all.get(t, kind+"/aad-pod-identity-assigned-identities"))
	}
	mic, admin := s.as(t, micUser), s.as(t, "admin")

	// A policy takes a moment to be obeyed.
	err := wait.PollUntilContextTimeout(t.Context(), 100*time.Millisecond, time.Minute, true, func(ctx context.Context) (bool, error) {
		err := admin.Create(ctx, assigned("forged"), client.DryRunAll)
		return apierrors.IsForbidden(err), nil
	})
	if err != nil {
		t.Fatalf("a forged AzureAssignedIdentity is accepted: %v", err)
	}
	set := func(value any, path ...string) func(o *unstructured.Unstructured) {
		return func(o *unstructured.Unstructured) {
			if err := unstructured.SetNestedField(o.Object, value, path...); err != nil {
				t.Fatal(err)
			}
		}
	}
	remove := func(path ...string) func(o *unstructured.Unstructured) {
		return func(o *unstructured.Unstructured) { unstructured.RemoveNestedField(o.Object, path...) }
	}
	tests := map[string]struct {
		change func(o *unstructured.Unstructured)
		denied string
	}{
		"the pod":                          {set("other", "spec", "pod"), "may change the spec"},
		"the identity":                     {set("other", "spec", "azureIdentityRef", "spec", "clientID"), "may change the spec"},
		"a field of the spec we never had": {set("x", "spec", "other"), "may change the spec"},
		"no identity":                      {remove("spec", "azureIdentityRef"), "may change the spec"},
		"the status":                       {set("Created", "status", "status"), "may change the status"},
		"no status":                        {remove("status"), "may change the status"},
		"the node's label":                 {set("node-2", "metadata", "labels", "nodename"), "may change the labels"},
		"another label":                    {set("x", "metadata", "labels", "other"), "may change the labels"},
		"no labels":                        {remove("metadata", "labels"), "may change the labels"},
		"the pod's UID":                    {set("uid-2", "metadata", "annotations", "aadpodidentity.k8s.io/pod-uid"), "may change the annotation"},
		"no pod UID":                       {remove("metadata", "annotations", "aadpodidentity.k8s.io/pod-uid"), "may change the annotation"},
		"another annotation":               {set("x", "metadata", "annotations", "other"), ""},
		"no finalizers":                    {remove("metadata", "finalizers"), ""},
		"nothing":                          {func(*unstructured.Unstructured) {}, ""},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			o := assigned(strings.ToLower(strings.NewReplacer(" ", "-", "'", "").Replace(name)))
			if err := mic.Create(t.Context(), o); err != nil {
				t.Fatalf("MIC may not create: %v", err)
			}
			before := o.DeepCopy()
			changed := o.DeepCopy()
			tc.change(changed)
			err := admin.Update(t.Context(), changed.DeepCopy())
			switch {
			case tc.denied == "" && err != nil:
				t.Errorf("an administrator's update: %v", err)
			case tc.denied != "" && (!apierrors.IsForbidden(err) || !strings.Contains(err.Error(), tc.denied)):
				t.Errorf("an administrator's update: error %v, want one that says %q", err, tc.denied)
			}
			if tc.denied != "" {
				// The same by patch, as old MIC and kubectl do it.
				if err := admin.Patch(t.Context(), changed.DeepCopy(), client.MergeFrom(before)); !apierrors.IsForbidden(err) {
					t.Errorf("an administrator's patch: error %v, want it forbidden", err)
				}
				if err := mic.Update(t.Context(), changed.DeepCopy()); err != nil {
					t.Errorf("MIC's update: %v", err)
				}
			}
			if err := admin.Delete(t.Context(), o); err != nil {
				t.Errorf("an administrator's delete: %v", err)
			}
		})
	}
	t.Run("objects without labels, annotations and status are compared, too", func(t *testing.T) {
		o := assigned("bare")
		for _, path := range [][]string{{"metadata", "labels"}, {"metadata", "annotations"}, {"status"}} {
			unstructured.RemoveNestedField(o.Object, path...)
		}
		if err := mic.Create(t.Context(), o); err != nil {
			t.Fatal(err)
		}
		o.SetFinalizers(nil)
		if err := admin.Update(t.Context(), o); err != nil {
			t.Errorf("clearing finalizers: %v", err)
		}
	})
	t.Run("service accounts of that name elsewhere are not MIC", func(t *testing.T) {
		other := s.as(t, "system:serviceaccount:team-a:aad-pod-identity-mic")
		err := other.Create(t.Context(), assigned("elsewhere"))
		if !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), "only MIC ("+micUser+") may create") {
			t.Errorf("error %v, want it forbidden and MIC named", err)
		}
	})
	t.Run("the troubleshooting guide's commands work as printed", func(t *testing.T) { s.testGuide(t, mic) })
}

// testGuide clears finalizers as the guide does, with real kubectl and jq.
func (s *server) testGuide(t *testing.T, mic client.Client) {
	if _, err := exec.LookPath("jq"); err != nil {
		t.Skipf("needs jq: %v", err)
	}
	kubectl := apiserver.Kubectl()
	user, err := s.env.AddUser(envtest.User{Name: "guide", Groups: []string{"system:masters"}}, nil)
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
	o := assigned("guide")
	if err := mic.Create(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	for _, command := range []string{
		"kubectl get azureassignedidentity -A -o=json | jq '.items[].metadata.finalizers=null' | kubectl apply -f -",
		"kubectl delete azureassignedidentity --all",
	} {
		script := fmt.Sprintf("set -o pipefail; kubectl() { %q --kubeconfig=%q \"$@\"; }; %s", kubectl, file, command)
		var out bytes.Buffer
		cmd := exec.CommandContext(t.Context(), "bash", "-c", script)
		cmd.Stdout, cmd.Stderr = &out, &out
		if err := cmd.Run(); err != nil {
			t.Errorf("%s: %v\n%s", command, err, out.String())
		}
	}
	if err := s.c.Get(t.Context(), client.ObjectKeyFromObject(o), o); !apierrors.IsNotFound(err) {
		text, _ := json.Marshal(o.Object["metadata"])
		t.Errorf("the object is still there (%v): %s", err, text)
	}
}
