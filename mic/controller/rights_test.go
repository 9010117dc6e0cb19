package controller

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	v1 "github.com/aad-pod-identity/aad-pod-identity/api/v1"
)

// validIdentity is an identity and a binding that gives it to pods labelled web.
func validIdentity(namespace, name string) []client.Object {
	return []client.Object{
		&v1.AzureIdentity{
			ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, UID: types.UID(namespace + name)},
			Spec:       v1.AzureIdentitySpec{ResourceID: verdictID, ClientID: "11111111-2222-3333-4444-555555555555"},
		},
		&v1.AzureIdentityBinding{
			ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name},
			Spec:       v1.AzureIdentityBindingSpec{AzureIdentity: name, Selector: "web"},
		},
	}
}

func TestAnUnknownRightIsAskedAboutSoonAndKeepsNoOtherWaiting(t *testing.T) {
	p := gatePod("web")
	r, _ := fakePods(t, interceptor.Funcs{}, append(append(validIdentity("team-a", "one"), validIdentity("team-c", "two")...), p)...)
	down := true
	r.world.mayUse = func(_ context.Context, _, id types.NamespacedName) (bool, error) {
		if down && id.Name == "one" {
			return false, errors.New("down")
		}
		return true, nil
	}
	next := func() time.Duration {
		t.Helper()
		// The node does not exist, so that nothing is created.
		result, err := r.Reconcile(t.Context(), reconcile.Request{NamespacedName: client.ObjectKeyFromObject(p)})
		if err != nil {
			t.Fatalf("an unknown right is an error, which makes the pod wait: %v", err)
		}
		return result.RequeueAfter
	}
	if after := next(); after != 5*time.Second {
		t.Errorf("asked again after %v at first", after)
	}
	for range 20 {
		if after := next(); after <= 5*time.Second || after >= r.reviewInterval {
			t.Errorf("asked again after %v", after)
		}
	}
	down = false
	if after := next(); after < r.reviewInterval*3/4 || after >= r.reviewInterval {
		t.Errorf("all is known, and asked again after %v", after)
	}
	down = true
	if after := next(); after != 5*time.Second {
		t.Errorf("asked again after %v in the next outage", after)
	}
}

func TestAnOutageOfReviewsGivesNoSecondIdentityOfAName(t *testing.T) {
	for name, test := range map[string]struct {
		uid  string
		want []string
	}{
		"what the pod has holds its name":            {uid: "uid"},
		"what an earlier pod of the name had is not": {uid: "earlier", want: []string{"default/demo"}},
	} {
		t.Run(name, func(t *testing.T) {
			p, a := unlabelledPod()
			p.Labels[v1.BindingLabelKey] = "web"
			a.Spec.AzureIdentityRef.Namespace = "a-team"
			a.Annotations = map[string]string{v1.PodUIDAnnotationKey: test.uid}
			r, _ := fakePods(t, interceptor.Funcs{}, append(append(validIdentity("a-team", "demo"), validIdentity("default", "demo")...), p, a)...)
			r.world.mayUse = func(context.Context, types.NamespacedName, types.NamespacedName) (bool, error) {
				return false, errors.New("down")
			}
			result, err := r.world.matches(t.Context(), p)
			check(t, err)
			var got []string
			for _, m := range result.Matches {
				got = append(got, m.Identity.Namespace+"/"+m.Identity.Name)
			}
			if !slices.Equal(got, test.want) || len(result.Undecided) != 1 {
				t.Errorf("gets %q with %d undecided, want %q with 1", got, len(result.Undecided), test.want)
			}
		})
	}
}
