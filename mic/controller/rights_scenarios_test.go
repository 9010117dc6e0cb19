package controller

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"

	"github.com/aad-pod-identity/aad-pod-identity/internal/access"
)

// TestRightToUse runs MIC with --require-use: a pod gets an identity of another
// namespace by the right of its service account, which the API server knows.
func TestRightToUse(t *testing.T) {
	c := startCluster(t)
	for name, run := range map[string]func(*scenario){
		"a service account without the right gets nothing, with it all, and nothing again": rightGivenAndTaken,
		"a right may come by a group of the service account":                               rightByGroup,
		"what others have is no right":                                                     rightsOfOthers,
		"a review that cannot be had changes none":                                         reviewUnreachable,
	} {
		t.Run(name, func(t *testing.T) {
			s := c.scenario(t)
			clientset, err := kubernetes.NewForConfig(c.config)
			check(t, err)
			s.mayUse = access.New(clientset.AuthorizationV1().SubjectAccessReviews(), 100*time.Millisecond).MayUse
			s.stop()
			s.startMIC()
			run(s)
		})
	}
}

// podAs is a pod of namespace other on node0 that runs as a service account.
func (s *scenario) podAs(name, account string) *corev1.Pod {
	s.t.Helper()
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "other", Name: name, Labels: map[string]string{"aadpodidbinding": "demo"}},
		Spec:       corev1.PodSpec{NodeName: "node0", ServiceAccountName: account, Containers: []corev1.Container{{Name: "c", Image: "none"}}},
	}
	s.create(s.t, p)
	return p
}

// allow gives somebody the verb on AzureIdentities of a namespace; take takes it
// back.
func (s *scenario) allow(namespace string, subject rbacv1.Subject, names ...string) (take func()) {
	s.t.Helper()
	meta := metav1.ObjectMeta{Namespace: namespace, GenerateName: "use-"}
	role := &rbacv1.Role{ObjectMeta: meta, Rules: []rbacv1.PolicyRule{{
		APIGroups: []string{"aadpodidentity.k8s.io"}, Resources: []string{"azureidentities"}, ResourceNames: names, Verbs: []string{"use"},
	}}}
	s.create(s.t, role)
	bound := &rbacv1.RoleBinding{ObjectMeta: meta, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: role.Name}, Subjects: []rbacv1.Subject{subject}}
	s.create(s.t, bound)
	taken := false
	take = func() {
		if !taken {
			taken = true
			check(s.t, s.client.Delete(context.WithoutCancel(s.t.Context()), bound))
		}
	}
	s.t.Cleanup(take)
	return take
}

func account(namespace, name string) rbacv1.Subject {
	return rbacv1.Subject{Kind: rbacv1.ServiceAccountKind, Namespace: namespace, Name: name}
}

func rightGivenAndTaken(s *scenario) {
	s.identity("default", "demo")
	s.bind("default", "demo", "demo", "demo")
	s.pod("default", "own", "node1", "demo") // needs no right
	p := s.podAs("app", "web")
	const refusal = "service account other/web of pod other/app may not use AzureIdentity default/demo of another namespace; a Role of namespace default would have to say"
	s.event("Pod", "app", "binding apply error", refusal)
	s.event("AzureIdentityBinding", "demo", "binding apply error", refusal)
	s.assigned("default/own-default-demo=Assigned")

	take := s.allow("default", account("other", "web"), "demo")
	s.assigned("default/own-default-demo=Assigned", "default/app-other-demo=Assigned")
	s.tags(p, "demo", "demo", "default/demo")

	take()
	s.assigned("default/own-default-demo=Assigned")
	s.tags(p, "", "", "")
	s.onPool("demo") // of the other pod
}

func rightByGroup(s *scenario) {
	s.identity("default", "demo")
	s.bind("default", "demo", "demo", "demo")
	s.allow("default", rbacv1.Subject{APIGroup: rbacv1.GroupName, Kind: rbacv1.GroupKind, Name: "system:serviceaccounts:other"})
	s.podAs("app", "") // which is default
	s.assigned("default/app-other-demo=Assigned")
}

func rightsOfOthers(s *scenario) {
	s.identity("default", "demo")
	s.bind("default", "demo", "demo", "demo")
	s.allow("default", account("other", "api"), "demo")
	s.allow("default", account("default", "web"), "demo")
	s.allow("default", account("other", "web"), "another")
	s.allow("other", account("other", "web"))
	s.allow("default", rbacv1.Subject{APIGroup: rbacv1.GroupName, Kind: rbacv1.GroupKind, Name: "system:serviceaccounts:default"})
	s.podAs("app", "web")
	s.podAs("right", "api")
	s.event("Pod", "app", "binding apply error", "may not use AzureIdentity default/demo")
	s.assigned("default/right-other-demo=Assigned")
}

func reviewUnreachable(s *scenario) {
	var down atomic.Bool
	s.mayUse = func(_ context.Context, _, identity types.NamespacedName) (bool, error) {
		if down.Load() {
			return false, errors.New("the API server is tired")
		}
		return identity.Name == "demo", nil
	}
	s.stop()
	s.startMIC()
	s.identity("default", "demo")
	s.identity("other", "own")
	s.bind("default", "demo", "demo", "demo")
	s.bind("other", "own", "own", "demo")
	before := s.podAs("before", "web")
	s.assigned("default/before-other-demo=Assigned", "default/before-other-own=Assigned")

	down.Store(true)
	// A stranger's identity of the same name, which comes first, takes nothing away.
	s.identity("default", "own")
	s.bind("default", "own", "own", "demo")
	s.podAs("after", "web")
	s.event("Pod", "after", "binding apply error", "is not known, so pod other/after gets nothing new by it: the API server is tired")
	s.event("Pod", "before", "binding apply error", "is not known, so pod other/before gets nothing new by it") // asked again, in vain
	// Nothing is taken away, and what needs no review is given.
	s.assigned("default/before-other-demo=Assigned", "default/before-other-own=Assigned", "default/after-other-own=Assigned")
	s.tags(before, "demo", "demo", "default/demo,other/own")
	s.onPool("demo", "own")

	down.Store(false)
	s.assigned("default/before-other-demo=Assigned", "default/before-other-own=Assigned", "default/after-other-own=Assigned", "default/after-other-demo=Assigned")
}
