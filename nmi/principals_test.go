package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	v1 "github.com/aad-pod-identity/aad-pod-identity/api/v1"
	"github.com/aad-pod-identity/aad-pod-identity/test/azure"
)

// TestManagedModeAndServicePrincipals runs NMI in the managed mode against a real
// API server, with the rights that the chart gives it there.
func TestManagedModeAndServicePrincipals(t *testing.T) {
	c := startCluster(t)
	e, err := azure.New(azure.Options{})
	check(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(func() { cancel(); e.Close() })
	check(t, e.Start(ctx))
	identity, err := e.PutIdentity(azure.Identity{ID: azure.IdentityID(subscription, "rg", "demo")})
	check(t, err)
	vm := azure.VMID(subscription, "rg", "vm")
	_, err = e.PutCompute(azure.Compute{ID: vm, UserAssigned: []azure.Assignment{{ID: identity.ID}}})
	check(t, err)
	imds, err := e.StartIMDS(ctx, vm, "127.0.0.1:0")
	check(t, err)
	app, err := e.PutApp(azure.App{Secrets: []string{"right"}})
	check(t, err)
	ca := filepath.Join(t.TempDir(), "ca.pem")
	check(t, os.WriteFile(ca, e.CAPEM(), 0o600))
	authority, err := url.Parse(e.Endpoint())
	check(t, err)

	subjects := []rbacv1.Subject{{Kind: "User", Name: "nmi", APIGroup: rbacv1.GroupName}}
	c.create(t,
		&rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: "managed"}, Rules: []rbacv1.PolicyRule{
			{APIGroups: []string{""}, Resources: []string{"secrets"}, Verbs: []string{"get"}},
			{APIGroups: []string{v1.GroupName}, Resources: []string{"azureidentities", "azureidentitybindings"}, Verbs: []string{"get", "list", "watch"}},
		}},
		&rbacv1.ClusterRoleBinding{ObjectMeta: metav1.ObjectMeta{Name: "managed"}, Subjects: subjects, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "managed"}},
	)
	p := start(t, c.nmi, imds, "--operation-mode=managed", "--forceNamespaced", "--cloud-ca-file="+ca, "--allowed-authority-hosts="+authority.Host)
	p.says("/readyz", 200, "")

	c.runningPod(t, "web", podIP)
	p.answers("nothing is bound", 404, "no AzureIdentityBinding of its namespace")

	bind := func(name string, spec v1.AzureIdentitySpec) *v1.AzureIdentityBinding {
		t.Helper()
		b := &v1.AzureIdentityBinding{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}, Spec: v1.AzureIdentityBindingSpec{AzureIdentity: name, Selector: "sel"}}
		c.create(t, &v1.AzureIdentity{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}, Spec: spec}, b)
		return b
	}
	managed := bind("managed", v1.AzureIdentitySpec{ResourceID: identity.ID, ClientID: identity.ClientID})
	p.answers("a managed identity is bound", 200, identity.ClientID)
	check(t, c.admin.Delete(t.Context(), managed))
	p.answers("it is not any more", 404, "no AzureIdentityBinding of its namespace")

	bind("principal", v1.AzureIdentitySpec{
		Type: v1.ServicePrincipal, ClientID: app.ClientID, TenantID: e.TenantID(), ADEndpoint: e.Endpoint() + "/",
		ClientPassword: v1.SecretReference{Namespace: "default", Name: "app"},
	})
	p.answers("there is no Secret", 503, "Secret default/app of the AzureIdentity cannot be used: it does not exist")
	c.create(t, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "app"}, StringData: map[string]string{"clientSecret": "right"}})
	p.answers("there is one", 200, app.ClientID)
	eventually(t, "the token is the application's", func() string {
		_, body, err := p.get(podIP, p.nmi, request)
		var m map[string]string
		if err == nil {
			err = json.Unmarshal([]byte(body), &m)
		}
		if err != nil || strings.Count(m["access_token"], ".") != 2 || m["client_id"] != app.ClientID {
			return fmt.Sprintf("%v, %s", err, m["client_id"])
		}
		return ""
	})
}
