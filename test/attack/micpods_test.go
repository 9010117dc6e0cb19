package attack

import (
	"errors"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

const policyMICPods = "aad-pod-identity-mic-pods"

// Who has MIC's token may patch every pod by RBAC; the policy leaves the tags of
// that.
func (s *server) testMICAndPods(t *testing.T) {
	for _, kind := range []string{"ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding"} {
		for _, o := range render(t, kind) {
			if o.GetName() == policyMICPods {
				check(t, s.admin.Create(t.Context(), o))
			}
		}
	}
	for _, name := range []string{micUser, attacker} {
		s.grant(t, name, "team-a", "", "pods", "patch")
	}
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: "team-a", Name: "web",
			Labels:      map[string]string{"app": "web", "aadpodidbinding": "web", "aadpodidentity.k8s.io/binding": "old"},
			Annotations: map[string]string{"a": "b"},
			Finalizers:  []string{"example.com/hold"},
		},
		Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "web", Image: "web:v1"}}, ServiceAccountName: "default", AutomountServiceAccountToken: new(bool)},
	}
	check(t, s.admin.Create(t.Context(), &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "team-a", Name: "default"}}))
	check(t, s.admin.Create(t.Context(), pod))
	mic := s.user(t, micUser)
	patch := func(u *user, body string) error {
		return u.Patch(t.Context(), pod.DeepCopy(), client.RawPatch(types.MergePatchType, []byte(body)), client.DryRunAll)
	}
	const image = `{"spec":{"containers":[{"name":"web","image":"evil:v1"}]}}`
	s.eventually(t, "policy "+policyMICPods, func() error {
		if err := patch(mic, image); err == nil || !strings.Contains(err.Error(), policyMICPods) {
			return errors.Join(errors.New("not obeyed"), err)
		}
		return nil
	})
	refused := map[string]struct{ patch, refusal string }{
		"another image":                 {image, "this changes the spec"},
		"the label that gives identity": {`{"metadata":{"labels":{"aadpodidbinding":"evil"}}}`, "this changes other labels"},
		"a label more":                  {`{"metadata":{"labels":{"x":"y"}}}`, "this changes other labels"},
		"a label less":                  {`{"metadata":{"labels":{"app":null}}}`, "this changes other labels"},
		"another annotation":            {`{"metadata":{"annotations":{"a":"c"}}}`, "this changes other annotations"},
		"no annotations":                {`{"metadata":{"annotations":null}}`, "this changes other annotations"},
		"no finalizers":                 {`{"metadata":{"finalizers":null}}`, "this changes finalizers or owners"},
		"an owner":                      {`{"metadata":{"ownerReferences":[{"apiVersion":"v1","kind":"Pod","name":"x","uid":"u"}]}}`, "this changes finalizers or owners"},
		"a tag and an image":            {`{"metadata":{"labels":{"aadpodidentity.k8s.io/binding":"b"}},` + image[1:], "this changes the spec"},
	}
	for name, tt := range refused {
		t.Run(name, func(t *testing.T) {
			if err := patch(mic, tt.patch); err == nil || !strings.Contains(err.Error(), policyMICPods) || !strings.Contains(err.Error(), tt.refusal) {
				t.Errorf("error %v, want a refusal of policy %s that says %q", err, policyMICPods, tt.refusal)
			}
			if err := patch(s.user(t, attacker), tt.patch); err != nil {
				t.Errorf("it holds for others than MIC: %v", err)
			}
		})
	}
	for name, body := range map[string]string{
		"tags written": `{"metadata":{"labels":{"aadpodidentity.k8s.io/binding":"b","aadpodidentity.k8s.io/identity":"i"},"annotations":{"aadpodidentity.k8s.io/bindings":"team-a/b"}}}`,
		"tags removed": `{"metadata":{"labels":{"aadpodidentity.k8s.io/binding":null}}}`,
		"nothing":      `{}`,
	} {
		t.Run(name, func(t *testing.T) {
			if err := patch(mic, body); err != nil {
				t.Errorf("MIC cannot keep the tags: %v", err)
			}
		})
	}
}
