// Package attack tries what nobody may do by our objects: to have a Secret used or
// sent away, to get the node's identity or another team's, to forge an assignment.
//
// Each attempt runs on a real API server under the policies that the chart renders,
// and nothing else: no webhook runs, and the rules of the CRDs are taken out, so that
// what is refused here is refused by the policies alone. Each is made first by
// somebody whom RBAC lets write all our objects, and has to be refused in the words of
// the policy and to change nothing; then, the very same, by who has the right, and has
// to succeed.
package attack

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/rest"
	"k8s.io/klog/v2"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/envtest"
	"sigs.k8s.io/yaml"

	"github.com/aad-pod-identity/aad-pod-identity/test/apiserver"
	"github.com/aad-pod-identity/aad-pod-identity/test/helmtest"
)

const (
	chartDir    = "../../charts/aad-pod-identity"
	kubeVersion = "1.30.0"
	// releaseNamespace is MIC's.
	releaseNamespace = "pod-identity"
	micUser          = "system:serviceaccount:" + releaseNamespace + ":aad-pod-identity-mic"

	// oldNamespace has what was stored before the policies.
	oldNamespace = "old"

	// Users. All may write our objects everywhere; what else they may is granted.
	attacker = "mallory"
	owner    = "olivia"
	writers  = "writers"

	// patience is how long a state is waited for. It is reached in a fraction.
	patience = 2 * time.Minute
)

var namespaces = []string{releaseNamespace, "team-a", "team-b", oldNamespace}

// server is a real API server with our CRDs.
type server struct {
	config     *rest.Config
	admin      client.Client
	kubectl    string
	kubeconfig string
	users      map[string]*user
	// What reset takes back.
	policies []string
	granted  []authorizationv1.SubjectAccessReviewSpec
}

// TestPolicies tries the policies one after the other, each alone in force.
func TestPolicies(t *testing.T) {
	s := startServer(t)
	for name, try := range map[string]func(*testing.T){
		"assigned identities": s.testAssigned,
		"exceptions":          s.testExceptions,
		"references":          s.testReferences,
		"use":                 s.testUse,
		"MIC and pods":        s.testMICAndPods,
		"NMI and nodes":       s.testNMIAndNodes,
	} {
		t.Run(name, func(t *testing.T) {
			t.Cleanup(func() { s.reset(t) })
			try(t)
		})
	}
}

// reset takes policies, rights and objects away, and waits until that is known.
func (s *server) reset(t *testing.T) {
	t.Helper()
	ctx := context.WithoutCancel(t.Context())
	for _, kind := range []client.Object{&admissionv1.ValidatingAdmissionPolicyBinding{}, &admissionv1.ValidatingAdmissionPolicy{}} {
		check(t, s.admin.DeleteAllOf(ctx, kind))
	}
	s.takeRights(ctx, t)
	for _, name := range s.policies {
		s.eventually(t, "the end of policy "+name, func() error {
			if err := s.tryCanary(ctx, t, name); err != nil && strings.Contains(err.Error(), name) {
				return err
			}
			return nil
		})
	}
	for _, right := range s.granted {
		s.eventually(t, "the end of a right of "+right.User, func() error {
			allowed, reason, err := s.review(ctx, right)
			if err == nil && allowed {
				err = fmt.Errorf("%s may still %s %s: %s", right.User, right.ResourceAttributes.Verb, right.ResourceAttributes.Resource, reason)
				s.takeRights(ctx, t) // what has come since
			}
			return err
		})
	}
	s.policies, s.granted = nil, nil
	for _, o := range s.list(t, "AzureIdentity", "AzureIdentityBinding", "AzurePodIdentityException", "AzureAssignedIdentity") {
		check(t, s.admin.Delete(ctx, &o))
	}
}

// takeRights deletes what grants and the chart's roles have given.
func (s *server) takeRights(ctx context.Context, t *testing.T) {
	t.Helper()
	for _, namespace := range namespaces {
		for _, kind := range []client.Object{&rbacv1.RoleBinding{}, &rbacv1.Role{}} {
			check(t, s.admin.DeleteAllOf(ctx, kind, client.InNamespace(namespace)))
		}
	}
	var cluster rbacv1.ClusterRoleBindingList
	check(t, s.admin.List(ctx, &cluster))
	for _, o := range cluster.Items {
		if strings.HasPrefix(o.Name, "aad-pod-identity-") {
			check(t, client.IgnoreNotFound(s.admin.Delete(ctx, &o)))
		}
	}
}

// startServer starts an API server. Flags change how it is started.
func startServer(t *testing.T, flags ...func(*envtest.APIServer)) *server {
	t.Helper()
	helmtest.Require(t)
	ctrl.SetLogger(klog.Background())
	env := &envtest.Environment{CRDs: crds(t)}
	for _, f := range flags {
		f(env.ControlPlane.GetAPIServer())
	}
	config := apiserver.Start(t, env)
	config.QPS = -1
	admin, err := client.New(config, client.Options{})
	check(t, err)
	account, err := env.AddUser(envtest.User{Name: "admin", Groups: []string{"system:masters"}}, nil)
	check(t, err)
	kubeconfig, err := account.KubeConfig()
	check(t, err)
	s := &server{config: config, admin: admin, kubectl: apiserver.Kubectl(), kubeconfig: filepath.Join(t.TempDir(), "kubeconfig"), users: map[string]*user{}}
	check(t, os.WriteFile(s.kubeconfig, kubeconfig, 0o600))
	for _, name := range namespaces {
		check(t, admin.Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}))
	}
	check(t, admin.Create(t.Context(), &rbacv1.ClusterRole{
		ObjectMeta: metav1.ObjectMeta{Name: writers},
		Rules: []rbacv1.PolicyRule{{
			APIGroups: []string{"aadpodidentity.k8s.io"}, Resources: []string{"*"},
			Verbs: []string{"get", "list", "watch", "create", "update", "patch", "delete", "deletecollection"},
		}},
	}))
	check(t, admin.Create(t.Context(), &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: writers},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: writers},
		Subjects:   []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.GroupKind, Name: writers}},
	}))
	s.waitAllowed(t, attacker, authorizationv1.ResourceAttributes{Group: "aadpodidentity.k8s.io", Resource: "azureidentities", Verb: "create", Namespace: "team-a"})
	return s
}

// crds returns the chart's CRDs without their rules.
func crds(t *testing.T) []*apiextensionsv1.CustomResourceDefinition {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(chartDir, "crds", "*.yaml"))
	check(t, err)
	var all []*apiextensionsv1.CustomResourceDefinition
	for _, file := range files {
		raw, err := os.ReadFile(file)
		check(t, err)
		crd := &apiextensionsv1.CustomResourceDefinition{}
		check(t, yaml.UnmarshalStrict(raw, crd))
		for i := range crd.Spec.Versions {
			spec := crd.Spec.Versions[i].Schema.OpenAPIV3Schema.Properties["spec"]
			withoutRules(&spec)
			crd.Spec.Versions[i].Schema.OpenAPIV3Schema.XValidations = nil
			crd.Spec.Versions[i].Schema.OpenAPIV3Schema.Required = nil
			crd.Spec.Versions[i].Schema.OpenAPIV3Schema.Properties["spec"] = spec
		}
		all = append(all, crd)
	}
	return all
}

func withoutRules(s *apiextensionsv1.JSONSchemaProps) {
	s.XValidations, s.Required, s.Enum, s.Pattern, s.Format = nil, nil, nil, "", ""
	s.MinLength, s.MaxLength, s.Minimum, s.Maximum, s.MinProperties, s.MinItems = nil, nil, nil, nil, nil, nil
	s.AllOf, s.AnyOf, s.OneOf, s.Not = nil, nil, nil, nil
	for name, p := range s.Properties {
		withoutRules(&p)
		s.Properties[name] = p
	}
	if s.AdditionalProperties != nil && s.AdditionalProperties.Schema != nil {
		withoutRules(s.AdditionalProperties.Schema)
	}
	if s.Items != nil && s.Items.Schema != nil && len(s.XListMapKeys) == 0 { // whose keys must be required
		withoutRules(s.Items.Schema)
	}
}

// render returns the objects of a kind that the chart makes.
func render(t *testing.T, kind string, args ...string) []*unstructured.Unstructured {
	t.Helper()
	out, err := helmtest.Run(t, append([]string{
		"template", "aad-pod-identity", chartDir, "--namespace", releaseNamespace, "--kube-version", kubeVersion}, args...)...)
	check(t, err)
	return slices.DeleteFunc(helmtest.Objects(t, out), func(o *unstructured.Unstructured) bool { return o.GetKind() != kind })
}

// Names of the policies, as refusals show them.
const (
	policyAssigned   = "aad-pod-identity-assigned-identities"
	policyReferences = "aad-pod-identity-references"
	policyExceptions = "aad-pod-identity-exceptions"
	policyUse        = "aad-pod-identity-use"
)

// install puts policies of the chart into force, and no others.
func (s *server) install(t *testing.T, args []string, names ...string) {
	t.Helper()
	installed := 0
	for _, kind := range []string{"ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding"} {
		for _, o := range render(t, kind, args...) {
			for _, name := range names {
				if o.GetName() == name {
					check(t, s.admin.Create(t.Context(), o))
					installed++
				}
			}
		}
	}
	if installed != 2*len(names) {
		t.Fatalf("the chart renders %d objects of the policies %q, want %d", installed, names, 2*len(names))
	}
	s.policies = append(s.policies, names...)
	// A policy takes a moment to be obeyed.
	for _, name := range names {
		s.eventually(t, "policy "+name, func() error {
			err := s.tryCanary(t.Context(), t, name)
			if err == nil || !strings.Contains(err.Error(), name) {
				return fmt.Errorf("not obeyed: %w", err)
			}
			return nil
		})
	}
}

// tryCanary tries what a policy refuses.
func (s *server) tryCanary(ctx context.Context, t *testing.T, policy string) error {
	t.Helper()
	o := map[string]*unstructured.Unstructured{
		policyAssigned:   object("AzureAssignedIdentity", "team-a", "canary", nil),
		policyReferences: object("AzureIdentity", "team-a", "canary", map[string]any{"adEndpoint": "https://canary.example"}),
		policyExceptions: object("AzurePodIdentityException", "team-a", "canary", map[string]any{"podLabels": map[string]any{"a": "b"}}),
		policyUse:        object("AzureIdentityBinding", "team-a", "canary", map[string]any{"azureIdentity": "canary"}),
	}[policy]
	return s.user(t, "canary").Create(ctx, o, client.DryRunAll)
}

// eventually waits until done returns nil.
func (s *server) eventually(t *testing.T, what string, done func() error) {
	t.Helper()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(patience)
	for {
		err := done()
		if err == nil {
			return
		}
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("%s: %v", what, err)
		}
	}
}

// grant gives a user a right in a namespace, and waits until it is known.
func (s *server) grant(t *testing.T, user, namespace, group, resource, verb string, names ...string) {
	t.Helper()
	meta := metav1.ObjectMeta{Namespace: namespace, GenerateName: strings.NewReplacer(":", "-").Replace(user) + "-"}
	role := &rbacv1.Role{ObjectMeta: meta, Rules: []rbacv1.PolicyRule{{APIGroups: []string{group}, Resources: []string{resource}, Verbs: []string{verb}, ResourceNames: names}}}
	check(t, s.admin.Create(t.Context(), role))
	check(t, s.admin.Create(t.Context(), &rbacv1.RoleBinding{
		ObjectMeta: meta,
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: role.Name},
		Subjects:   []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.UserKind, Name: user}},
	}))
	attributes := authorizationv1.ResourceAttributes{Group: group, Resource: resource, Verb: verb, Namespace: namespace}
	if len(names) > 0 {
		attributes.Name = names[0]
	}
	s.granted = append(s.granted, authorizationv1.SubjectAccessReviewSpec{User: user, Groups: []string{"system:authenticated"}, ResourceAttributes: &attributes})
	s.waitAllowed(t, user, attributes)
}

func (s *server) waitAllowed(t *testing.T, user string, attributes authorizationv1.ResourceAttributes) {
	t.Helper()
	right := authorizationv1.SubjectAccessReviewSpec{User: user, Groups: []string{writers, "system:authenticated"}, ResourceAttributes: &attributes}
	s.eventually(t, fmt.Sprintf("right of %s to %s %s", user, attributes.Verb, attributes.Resource), func() error {
		allowed, err := s.allowed(t.Context(), right)
		if err == nil && !allowed {
			err = errors.New("it is not there")
		}
		return err
	})
}

func (s *server) allowed(ctx context.Context, right authorizationv1.SubjectAccessReviewSpec) (bool, error) {
	allowed, _, err := s.review(ctx, right)
	return allowed, err
}

// review says whether somebody has a right, and by what.
func (s *server) review(ctx context.Context, right authorizationv1.SubjectAccessReviewSpec) (allowed bool, reason string, err error) {
	review := &authorizationv1.SubjectAccessReview{Spec: right}
	err = s.admin.Create(ctx, review)
	return err == nil && review.Status.Allowed, review.Status.Reason, err
}

// user is somebody who talks to the API server.
type user struct {
	client.Client
	name string
	s    *server
}

func (s *server) user(t *testing.T, name string) *user {
	t.Helper()
	if s.users[name] == nil {
		config := rest.CopyConfig(s.config)
		config.Impersonate = rest.ImpersonationConfig{UserName: name, Groups: []string{writers}}
		c, err := client.New(config, client.Options{Mapper: s.admin.RESTMapper()})
		check(t, err)
		s.users[name] = &user{Client: c, name: name, s: s}
	}
	return s.users[name]
}

// run runs kubectl as the user.
func (u *user) run(ctx context.Context, stdin string, args ...string) error {
	cmd := exec.CommandContext(ctx, u.s.kubectl, append([]string{"--kubeconfig", u.s.kubeconfig, "--as", u.name, "--as-group", writers}, args...)...)
	cmd.Stdin = strings.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("kubectl %s: %w: %s", strings.Join(args, " "), err, out)
	}
	return nil
}

// object is one of ours.
func object(kind, namespace, name string, spec map[string]any) *unstructured.Unstructured {
	o := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "aadpodidentity.k8s.io/v1", "kind": kind,
		"metadata": map[string]any{"namespace": namespace, "name": name},
	}}
	if spec != nil {
		o.Object["spec"] = spec
	}
	return o
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
