package main

import (
	"context"
	"encoding/json"
	"errors"
	"net/netip"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/aad-pod-identity/aad-pod-identity/nmi/redirect"
	"github.com/aad-pod-identity/aad-pod-identity/nmi/redirect/redirecttest"
)

func TestSelects(t *testing.T) {
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1", Labels: map[string]string{"os": "linux", "pool": "a", "cores": "8"}}}
	tests := map[string]struct {
		spec  string // of the pods
		want  bool
		fails string
	}{
		"everything":            {spec: `{}`, want: true},
		"the selector matches":  {spec: `{"nodeSelector": {"os": "linux"}}`, want: true},
		"the selector does not": {spec: `{"nodeSelector": {"os": "linux", "pool": "b"}}`},
		"preferences do not count": {
			spec: `{"affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 1, "preference": {"matchExpressions": [{"key": "pool", "operator": "In", "values": ["b"]}]}}]}}}`, want: true,
		},
		"a term matches":               {spec: required(`{"matchExpressions": [{"key": "pool", "operator": "In", "values": ["b", "a"]}]}`), want: true},
		"no term does":                 {spec: required(`{"matchExpressions": [{"key": "pool", "operator": "NotIn", "values": ["a"]}]}, {"matchExpressions": [{"key": "gpu", "operator": "Exists"}]}`)},
		"one of two terms":             {spec: required(`{"matchExpressions": [{"key": "gpu", "operator": "Exists"}]}, {"matchExpressions": [{"key": "gpu", "operator": "DoesNotExist"}, {"key": "cores", "operator": "Gt", "values": ["4"]}]}`), want: true},
		"fewer than there are":         {spec: required(`{"matchExpressions": [{"key": "cores", "operator": "Lt", "values": ["8"]}]}`)},
		"by name":                      {spec: required(`{"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n1"]}]}`), want: true},
		"by another name":              {spec: required(`{"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n2"]}]}`)},
		"an empty term":                {spec: required(`{}`)},
		"selector and affinity":        {spec: `{"nodeSelector": {"pool": "b"}, ` + required(`{"matchExpressions": [{"key": "os", "operator": "Exists"}]}`)[1:]},
		"an operator nobody knows":     {spec: required(`{"matchExpressions": [{"key": "os", "operator": "Like"}]}`), fails: "Like"},
		"a number that is not one":     {spec: required(`{"matchExpressions": [{"key": "cores", "operator": "Gt", "values": ["x"]}]}`), fails: "selector"},
		"an affinity without a demand": {spec: `{"affinity": {"nodeAffinity": {}}}`, want: true},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			var p placement
			check(t, json.Unmarshal([]byte(`{"spec": {"template": {"spec": `+tc.spec+`}}}`), &p))
			got, err := p.selects(node)
			if (err != nil) != (tc.fails != "") || err != nil && !strings.Contains(err.Error(), tc.fails) {
				t.Fatalf("error %v", err)
			}
			if got != tc.want {
				t.Errorf("selects = %v", got)
			}
		})
	}
}

func required(terms string) string {
	return `{"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [` + terms + `]}}}}`
}

func TestWithoutTaint(t *testing.T) {
	ours, other := corev1.Taint{Key: "ours", Effect: corev1.TaintEffectNoSchedule}, corev1.Taint{Key: "other", Value: "x", Effect: corev1.TaintEffectNoExecute}
	patch, err := withoutTaint([]corev1.Taint{other, ours, {Key: "ours", Effect: corev1.TaintEffectNoExecute}}, "ours")
	check(t, err)
	const want = `[{"op":"test","path":"/spec/taints","value":[{"key":"other","value":"x","effect":"NoExecute"},{"key":"ours","effect":"NoSchedule"},{"key":"ours","effect":"NoExecute"}]},` +
		`{"op":"replace","path":"/spec/taints","value":[{"key":"other","value":"x","effect":"NoExecute"}]}]`
	if string(patch) != want {
		t.Errorf("patch\n%s\nwant\n%s", patch, want)
	}
	if patch, err := withoutTaint([]corev1.Taint{other}, "ours"); patch != nil || err != nil {
		t.Errorf("without it: %s, %v", patch, err)
	}
}

// nodeRights gives the user of NMI the chart's rights to nodes and its DaemonSet.
func (c *cluster) nodeRights(t *testing.T) {
	t.Helper()
	subjects := []rbacv1.Subject{{Kind: "User", Name: "nmi", APIGroup: rbacv1.GroupName}}
	c.create(t,
		&rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: "nmi-nodes"}, Rules: []rbacv1.PolicyRule{
			{APIGroups: []string{""}, Resources: []string{"nodes"}, Verbs: []string{"get", "patch"}},
			{APIGroups: []string{"apps"}, Resources: []string{"daemonsets"}, ResourceNames: []string{"nmi"}, Verbs: []string{"get"}},
		}},
		&rbacv1.ClusterRoleBinding{ObjectMeta: metav1.ObjectMeta{Name: "nmi-nodes"}, Subjects: subjects, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "nmi-nodes"}},
	)
}

// TestNode: NMI takes its taint off the node, and its redirect when the node is no
// longer one of the DaemonSet's, on a real API server.
func TestNode(t *testing.T) {
	c := startCluster(t)
	c.nodeRights(t)
	n := &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: testNode, Labels: map[string]string{"pool": "a"}},
		Spec:       corev1.NodeSpec{Taints: []corev1.Taint{{Key: "starting", Effect: corev1.TaintEffectNoSchedule}, {Key: "kept", Effect: corev1.TaintEffectNoSchedule}}},
	}
	c.create(t, n)
	labels := map[string]string{"app": "nmi"}
	ds := &appsv1.DaemonSet{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "nmi"},
		Spec: appsv1.DaemonSetSpec{
			Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: labels},
				Spec:       corev1.PodSpec{NodeSelector: map[string]string{"pool": "a"}, Containers: []corev1.Container{{Name: "c", Image: "none"}}},
			},
		},
	}
	c.create(t, ds)
	clients, err := clientsFor(c.nmi)
	check(t, err)

	ready := make(chan struct{})
	taint := &startupTaint{client: clients.core, node: testNode, key: "starting", ready: func(context.Context) error {
		select {
		case <-ready:
			return nil
		default:
			return errors.New("not yet")
		}
	}}
	done := make(chan error, 1)
	go func() { done <- taint.run(t.Context()) }()
	select {
	case err := <-done:
		t.Fatalf("ended before NMI was ready: %v", err)
	default:
	}
	close(ready)
	check(t, <-done)
	check(t, c.admin.Get(t.Context(), client.ObjectKeyFromObject(n), n))
	for _, left := range n.Spec.Taints {
		if left.Key == "starting" {
			t.Errorf("taints %v", n.Spec.Taints)
		}
	}
	check(t, taint.run(t.Context())) // there is none any more

	target := redirect.Target{Metadata: netip.MustParseAddr("169.254.169.254"), MetadataPort: 80, NMI: netip.MustParseAddrPort("10.0.0.1:2579")}
	tables := redirecttest.NewTables()
	if _, err := redirect.Ensure(tables, target); err != nil {
		t.Fatal(err)
	}
	leave := func(daemonSet string) error {
		return leaveNode(t.Context(), clients.core, daemonSet, testNode, []redirect.Redirect{{Tables: tables, Target: target}})
	}
	check(t, leave("default/nmi"))
	if !tables.Redirects("10.0.0.1:2579") {
		t.Error("the redirect is gone though the node is selected")
	}
	if err := leave("default/none"); err == nil || !tables.Redirects("10.0.0.1:2579") {
		t.Errorf("without a DaemonSet: %v, redirect %v", err, tables.Redirects("10.0.0.1:2579"))
	}
	n.Labels["pool"] = "b"
	check(t, c.admin.Update(t.Context(), n))
	check(t, leave("default/nmi"))
	if tables.Redirects("10.0.0.1:2579") {
		t.Error("the redirect is there though the node is no longer selected")
	}
}
