package chart_test

import (
	"context"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/envtest"
)

// hookRun runs the hooks' Jobs as processes: the real program with the chart's
// arguments, under the chart's service account and with its roles alone.
type hookRun struct {
	*server
	all        objects
	kubeconfig *clientcmdapi.Config
}

func (s *server) newHookRun(t *testing.T) *hookRun {
	t.Helper()
	h := &hookRun{server: s, all: mustRender(t)}
	user, err := s.env.AddUser(envtest.User{Name: "hooks", Groups: []string{"system:masters"}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := user.KubeConfig()
	if err != nil {
		t.Fatal(err)
	}
	if h.kubeconfig, err = clientcmd.Load(raw); err != nil {
		t.Fatal(err)
	}
	return h
}

// run makes the hook's permissions, as Helm does, and runs its Job.
func (h *hookRun) run(t *testing.T, name string) string {
	t.Helper()
	full := "aad-pod-identity-" + name
	for key, o := range h.all {
		if o.GetName() == full && o.GetKind() != "Job" {
			if err := h.c.Create(t.Context(), o.DeepCopy()); err != nil && !apierrors.IsAlreadyExists(err) {
				t.Fatalf("creating %s: %v", key, err)
			}
		}
	}
	config := h.kubeconfig.DeepCopy()
	for _, user := range config.AuthInfos {
		user.Impersonate = "system:serviceaccount:" + namespace + ":" + full
	}
	file := filepath.Join(t.TempDir(), "kubeconfig")
	if err := clientcmd.WriteToFile(*config, file); err != nil {
		t.Fatal(err)
	}
	args := append(slices.Clone(arguments(t, h.all.get(t, "Job/"+full))), "--kubeconfig="+file)
	out, err := exec.CommandContext(t.Context(), h.webhook, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("webhook %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

func (h *hookRun) configMap(t *testing.T, name string, labels, data map[string]string) {
	t.Helper()
	h.create(t, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, Labels: labels}, Data: data})
}

func (h *hookRun) gone(t *testing.T, kind, apiVersion, ns, name string) {
	t.Helper()
	o := &unstructured.Unstructured{}
	o.SetAPIVersion(apiVersion)
	o.SetKind(kind)
	if err := h.c.Get(t.Context(), client.ObjectKey{Namespace: ns, Name: name}, o); !apierrors.IsNotFound(err) {
		t.Errorf("%s %s is still there (%v)", kind, name, err)
	}
}

func (s *server) testHooks(t *testing.T) {
	h := s.newHookRun(t)

	t.Run("prepare", func(t *testing.T) {
		h.configMap(t, "aad-pod-identity-uninstall", nil, map[string]string{"phase": "unassign"})
		if out := h.run(t, "prepare"); !strings.Contains(out, "4 CRDs are established") || !strings.Contains(out, "called off") {
			t.Errorf("prepare says:\n%s", out)
		}
		h.gone(t, "ConfigMap", "v1", namespace, "aad-pod-identity-uninstall")
	})

	t.Run("uninstall", func(t *testing.T) {
		for _, key := range []string{
			"MutatingWebhookConfiguration/aad-pod-identity-webhook", "ValidatingWebhookConfiguration/aad-pod-identity-webhook",
			"ValidatingAdmissionPolicy/aad-pod-identity-assigned-identities", "ValidatingAdmissionPolicyBinding/aad-pod-identity-assigned-identities",
			"Deployment/aad-pod-identity-mic", "DaemonSet/aad-pod-identity-nmi",
			"ServiceAccount/aad-pod-identity-nmi", "ClusterRole/aad-pod-identity-nmi", "ClusterRoleBinding/aad-pod-identity-nmi", "Role/aad-pod-identity-nmi", "RoleBinding/aad-pod-identity-nmi",
		} {
			o := h.all.get(t, key).DeepCopy()
			if err := h.c.Create(t.Context(), o); err != nil && !apierrors.IsAlreadyExists(err) {
				t.Fatalf("creating %s: %v", key, err)
			}
		}
		h.node(t, "node-1")
		h.nmi(t, "node-1")
		// NMI acknowledges with its own role.
		acknowledged := make(chan error, 1)
		nmi := h.serviceAccount(t, "aad-pod-identity-nmi")
		go func() { acknowledged <- acknowledge(t.Context(), nmi, "node-1") }()

		out := h.run(t, "uninstall")
		if err := <-acknowledged; err != nil {
			t.Errorf("NMI: %v", err)
		}
		for _, want := range []string{"told MIC", "MIC is not running and nothing of its work is left", "told every NMI"} {
			if !strings.Contains(out, want) {
				t.Errorf("uninstall does not say %q:\n%s", want, out)
			}
		}
		for _, kind := range []string{"MutatingWebhookConfiguration", "ValidatingWebhookConfiguration"} {
			h.gone(t, kind, "admissionregistration.k8s.io/v1", "", "aad-pod-identity-webhook")
		}
		// Helm deletes the policy last: until then an NMI may run.
		policy := h.all.get(t, "ValidatingAdmissionPolicy/aad-pod-identity-assigned-identities").DeepCopy()
		if err := h.c.Get(t.Context(), client.ObjectKeyFromObject(policy), policy); err != nil {
			t.Errorf("the policy about AzureAssignedIdentities: %v", err)
		}
	})

	t.Run("cleanup", func(t *testing.T) {
		if err := h.c.Delete(t.Context(), h.pod("node-1"), client.GracePeriodSeconds(0)); err != nil {
			t.Fatal(err)
		}
		h.configMap(t, "aad-pod-identity-config", nil, nil)
		h.configMap(t, "ledger", map[string]string{"aadpodidentity.k8s.io/ledger": "true"}, nil)
		for _, name := range []string{"aad-pod-identity-webhook-tls", "aad-pod-identity-webhook-ca"} {
			h.create(t, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name,
				Annotations: map[string]string{"cert-manager.io/issuer-name": "aad-pod-identity-webhook-selfsigned"}}})
		}
		lock := metav1.ObjectMeta{Namespace: "default", Name: "aad-pod-identity-mic"}
		lease, endpoints := &unstructured.Unstructured{}, &unstructured.Unstructured{}
		for o, gvk := range map[*unstructured.Unstructured][2]string{lease: {"coordination.k8s.io/v1", "Lease"}, endpoints: {"v1", "Endpoints"}} {
			o.SetAPIVersion(gvk[0])
			o.SetKind(gvk[1])
			o.SetNamespace(lock.Namespace)
			o.SetName(lock.Name)
			h.create(t, o)
		}
		out := h.run(t, "cleanup")
		if n := strings.Count(out, "deleted "); n != 7 {
			t.Errorf("cleanup deleted %d objects, want 7:\n%s", n, out)
		}
		h.gone(t, "ConfigMap", "v1", namespace, "aad-pod-identity-uninstall")
	})
}

func (h *hookRun) serviceAccount(t *testing.T, name string) client.Client {
	t.Helper()
	config := h.kubeconfig.DeepCopy()
	for _, user := range config.AuthInfos {
		user.Impersonate = "system:serviceaccount:" + namespace + ":" + name
	}
	cfg, err := clientcmd.NewDefaultClientConfig(*config, nil).ClientConfig()
	if err != nil {
		t.Fatal(err)
	}
	c, err := client.New(cfg, client.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// acknowledge does what NMI does in the second phase.
func acknowledge(ctx context.Context, c client.Client, node string) error {
	cm := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "aad-pod-identity-uninstall"}}
	err := wait.PollUntilContextTimeout(ctx, 50*time.Millisecond, 2*time.Minute, true, func(ctx context.Context) (bool, error) {
		err := c.Get(ctx, client.ObjectKeyFromObject(cm), cm)
		if apierrors.IsForbidden(err) {
			return false, nil // fresh permissions take a moment to be known
		}
		return err == nil && cm.Data["phase"] == "redirect", client.IgnoreNotFound(err)
	})
	if err != nil {
		return err
	}
	return c.Patch(ctx, cm, client.RawPatch("application/merge-patch+json", []byte(`{"data":{"nmi.`+node+`":"removed"}}`)))
}

func (h *hookRun) node(t *testing.T, name string) {
	t.Helper()
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}
	h.create(t, n)
	n.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}}
	if err := h.c.Status().Update(t.Context(), n); err != nil {
		t.Fatal(err)
	}
}

func (h *hookRun) pod(node string) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "nmi-" + node, Labels: map[string]string{
			"app.kubernetes.io/name": "aad-pod-identity", "app.kubernetes.io/instance": release, "app.kubernetes.io/component": "nmi"}},
		Spec: corev1.PodSpec{NodeName: node, Containers: []corev1.Container{{Name: "nmi", Image: "nmi"}}},
	}
}

func (h *hookRun) nmi(t *testing.T, node string) {
	t.Helper()
	p := h.pod(node)
	h.create(t, p)
	p.Status.Phase = corev1.PodRunning
	p.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "nmi", State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}}}
	if err := h.c.Status().Update(t.Context(), p); err != nil {
		t.Fatal(err)
	}
}
