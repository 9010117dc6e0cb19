package uninstall

import (
	"context"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	v1 "github.com/aad-pod-identity/aad-pod-identity/api/v1"
	marker "github.com/aad-pod-identity/aad-pod-identity/internal/uninstall"
	"github.com/aad-pod-identity/aad-pod-identity/webhook/hookjob"
)

const ns = "pod-identity"

func testOptions() options {
	return options{
		Flags:         hookjob.Flags{Namespace: ns, Timeout: 4 * time.Minute},
		release:       "rel",
		micDeployment: "aad-pod-identity-mic", nmiDaemonSet: "aad-pod-identity-nmi",
		webhookConfigurations: []string{"hooks"},
		pause:                 hookjob.Pause,
	}
}

// inBubble runs a subtest whose time passes only while it waits, so that time
// limits are as in production and take no time.
func inBubble(t *testing.T, name string, test func(*testing.T)) {
	t.Helper()
	t.Run(name, func(t *testing.T) { synctest.Test(t, test) })
}

func testScheme(t *testing.T) *runtime.Scheme {
	t.Helper()
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{corev1.AddToScheme, appsv1.AddToScheme, admissionv1.AddToScheme, coordinationv1.AddToScheme, v1.AddToScheme} {
		if err := add(scheme); err != nil {
			t.Fatal(err)
		}
	}
	return scheme
}

// release is an installed release with one NMI on each of the nodes.
func release(nodes ...string) []client.Object {
	labels := map[string]string{"app.kubernetes.io/instance": "rel", "app.kubernetes.io/component": "nmi"}
	objects := []client.Object{
		&appsv1.Deployment{
			ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "aad-pod-identity-mic"},
			Status:     appsv1.DeploymentStatus{ReadyReplicas: 2},
		},
		&appsv1.DaemonSet{
			ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "aad-pod-identity-nmi", Generation: 2},
			Spec:       appsv1.DaemonSetSpec{Selector: &metav1.LabelSelector{MatchLabels: labels}},
			Status:     appsv1.DaemonSetStatus{DesiredNumberScheduled: int32(len(nodes))},
		},
		&admissionv1.MutatingWebhookConfiguration{ObjectMeta: metav1.ObjectMeta{Name: "hooks"}},
		&admissionv1.ValidatingWebhookConfiguration{ObjectMeta: metav1.ObjectMeta{Name: "hooks"}},
		&v1.AzureAssignedIdentity{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "a"}},
	}
	for _, n := range nodes {
		objects = append(objects,
			&corev1.Node{
				ObjectMeta: metav1.ObjectMeta{Name: n},
				Status:     corev1.NodeStatus{Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}}},
			},
			&corev1.Pod{
				ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "nmi-" + n, Labels: labels},
				Spec:       corev1.PodSpec{NodeName: n},
				Status: corev1.PodStatus{Phase: corev1.PodRunning, ContainerStatuses: []corev1.ContainerStatus{
					{State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}}}},
			})
	}
	return objects
}

// component answers a phase as MIC and NMI do: after the phase is written, it
// changes the marker.
func component(t *testing.T, answer func(phase string, data map[string]string)) interceptor.Funcs {
	t.Helper()
	return interceptor.Funcs{Apply: func(ctx context.Context, c client.WithWatch, obj runtime.ApplyConfiguration, opts ...client.ApplyOption) error {
		if err := c.Apply(ctx, obj, opts...); err != nil {
			return err
		}
		cm := &corev1.ConfigMap{}
		if err := c.Get(ctx, client.ObjectKey{Namespace: ns, Name: marker.Name}, cm); err != nil {
			return err
		}
		before := cm.DeepCopy()
		answer(cm.Data[marker.PhaseKey], cm.Data)
		return c.Patch(ctx, cm, client.MergeFrom(before))
	}}
}

func TestUninstallLeadsTheHandshake(t *testing.T) {
	synctest.Test(t, testHandshake)
}

func testHandshake(t *testing.T) {
	var phases []string
	c := fake.NewClientBuilder().WithScheme(testScheme(t)).WithObjects(release("n1", "n2")...).
		WithInterceptorFuncs(component(t, func(phase string, data map[string]string) {
			phases = append(phases, phase)
			switch phase {
			case marker.PhaseUnassign:
				data[marker.MICKey] = marker.Done
			case marker.PhaseRedirect:
				data[marker.NMIKey("n1")], data[marker.NMIKey("n2")] = marker.Removed, marker.Removed
			}
		})).Build()
	var out strings.Builder
	if err := uninstall(t.Context(), c, testOptions(), &out); err != nil {
		t.Fatalf("uninstall: %v\n%s", err, out.String())
	}
	if got := strings.Join(phases, " "); got != "unassign redirect" {
		t.Errorf("phases written: %q, want %q", got, "unassign redirect")
	}
	for _, o := range testOptions().admissionObjects() {
		if err := c.Get(t.Context(), client.ObjectKeyFromObject(o), o); !apierrors.IsNotFound(err) {
			t.Errorf("%T is still there (%v)", o, err)
		}
	}
	// Else an NMI that still runs would put its redirect back.
	if err := c.Get(t.Context(), client.ObjectKey{Namespace: ns, Name: marker.Name}, &corev1.ConfigMap{}); err != nil {
		t.Errorf("the marker must stay until the pods are gone: %v", err)
	}
	if !strings.Contains(out.String(), "deleted MutatingWebhookConfiguration hooks\n") {
		t.Errorf("the log does not name what was deleted:\n%s", out.String())
	}

	// A second run finds everything done.
	out.Reset()
	if err := uninstall(t.Context(), c, testOptions(), &out); err != nil {
		t.Fatalf("second run: %v\n%s", err, out.String())
	}
}

func TestUninstallSaysWhatIsLeft(t *testing.T) {
	tests := map[string]struct {
		answer    func(phase string, data map[string]string)
		failed    string // a node whose NMI pod has failed
		want      string
		wantPhase string
	}{
		"MIC cannot take an identity off": {
			answer: func(_ string, data map[string]string) {
				data[marker.MICKey] = "1 left: vmss pool1: AuthorizationFailed"
			},
			want:      "MIC says: 1 left: vmss pool1: AuthorizationFailed",
			wantPhase: marker.PhaseUnassign,
		},
		"an NMI does not answer": {
			answer: func(_ string, data map[string]string) {
				data[marker.MICKey] = marker.Done
				data[marker.NMIKey("n1")] = marker.Removed
			},
			want:      "NMI on node n2 has not removed its redirect yet",
			wantPhase: marker.PhaseRedirect,
		},
		"an NMI was evicted": {
			answer: func(_ string, data map[string]string) {
				data[marker.MICKey] = marker.Done
				data[marker.NMIKey("n1")] = marker.Removed
			},
			failed:    "n2",
			want:      "NMI's DaemonSet has no pod on 1 of its nodes",
			wantPhase: marker.PhaseRedirect,
		},
	}
	for name, tc := range tests {
		inBubble(t, name, func(t *testing.T) {
			objects := release("n1", "n2")
			for _, o := range objects {
				if p, ok := o.(*corev1.Pod); ok && p.Spec.NodeName == tc.failed {
					p.Status.Phase = corev1.PodFailed
				}
			}
			c := fake.NewClientBuilder().WithScheme(testScheme(t)).WithObjects(objects...).
				WithInterceptorFuncs(component(t, tc.answer)).Build()
			o := testOptions()
			var out strings.Builder
			err := uninstall(t.Context(), c, o, &out)
			if err == nil || !strings.Contains(err.Error(), tc.want) || !strings.Contains(err.Error(), "--no-hooks rel") {
				t.Errorf("error %v, want one that says %q and what to do", err, tc.want)
			}
			if !strings.Contains(out.String(), tc.want) {
				t.Errorf("progress does not say %q:\n%s", tc.want, out.String())
			}
			cm := &corev1.ConfigMap{}
			if err := c.Get(t.Context(), client.ObjectKey{Namespace: ns, Name: marker.Name}, cm); err != nil || cm.Data[marker.PhaseKey] != tc.wantPhase {
				t.Errorf("marker %v (%v), want phase %s to go on from", cm.Data, err, tc.wantPhase)
			}
			// The release works on, so its guards do, too.
			for _, o := range o.admissionObjects() {
				if err := c.Get(t.Context(), client.ObjectKeyFromObject(o), o); err != nil {
					t.Errorf("%T: %v, want it kept", o, err)
				}
			}
		})
	}
}

func TestCleanup(t *testing.T) {
	label := func(component string) map[string]string {
		return map[string]string{"app.kubernetes.io/instance": "rel", "app.kubernetes.io/component": component}
	}
	configMap := func(name string, labels map[string]string) client.Object {
		return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name, Labels: labels}}
	}
	o := cleanupOptions{
		Flags: hookjob.Flags{Namespace: ns, Timeout: 4 * time.Minute}, release: "rel", configMap: "aad-pod-identity-config",
		secrets: []string{"tls"}, leaderElectionNamespace: "default", leaderElectionName: "lock", pause: hookjob.Pause,
	}
	objects := []client.Object{
		configMap("ledger", map[string]string{v1.LedgerLabelKey: "true"}),
		configMap("aad-pod-identity-config", nil), configMap(marker.Name, nil), configMap("users", nil),
		&corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "tls"}},
		&corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "users"}},
		&coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "lock"}},
		&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "job", Labels: label("cleanup")}},
		&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "other", Labels: map[string]string{"app.kubernetes.io/instance": "other", "app.kubernetes.io/component": "mic"}}},
	}

	inBubble(t, "deletes what is left once the pods are gone, the marker last", func(t *testing.T) {
		var deleted []string
		looks := 0
		pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "nmi", Labels: label("nmi")}}
		c := fake.NewClientBuilder().WithScheme(testScheme(t)).WithObjects(append(objects, pod)...).WithInterceptorFuncs(interceptor.Funcs{
			List: func(ctx context.Context, c client.WithWatch, list client.ObjectList, opts ...client.ListOption) error {
				if _, ok := list.(*corev1.PodList); ok {
					if looks++; looks == 3 {
						if err := c.Delete(ctx, pod.DeepCopy(), &client.DeleteOptions{}); err != nil {
							return err
						}
					}
				}
				return c.List(ctx, list, opts...)
			},
			Delete: func(ctx context.Context, c client.WithWatch, obj client.Object, opts ...client.DeleteOption) error {
				err := c.Delete(ctx, obj, opts...)
				if err == nil {
					deleted = append(deleted, obj.GetObjectKind().GroupVersionKind().Kind+" "+obj.GetName())
				}
				return err
			},
		}).Build()
		var out strings.Builder
		if err := cleanup(t.Context(), c, o, &out); err != nil {
			t.Fatalf("cleanup: %v\n%s", err, out.String())
		}
		want := "ConfigMap ledger,ConfigMap aad-pod-identity-config,Lease lock,Secret tls,ConfigMap " + marker.Name
		if got := strings.Join(deleted, ","); got != want {
			t.Errorf("deleted %s\nwant    %s", got, want)
		}
		if looks < 3 {
			t.Errorf("looked at the pods %d times and did not wait for NMI to end", looks)
		}
		for _, kept := range []client.Object{configMap("users", nil), &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "users"}}} {
			if err := c.Get(t.Context(), client.ObjectKeyFromObject(kept), kept); err != nil {
				t.Errorf("%T users: %v, want it kept", kept, err)
			}
		}
		if err := cleanup(t.Context(), c, o, &out); err != nil {
			t.Errorf("second run: %v", err)
		}
	})

	for name, test := range map[string]struct {
		annotations map[string]string
		gone        bool
	}{
		"the authority that the release's own issuer signed goes, also if the release has none any more": {map[string]string{issuerAnnotation: "ours"}, true},
		"a Secret of that name that another issuer signed stays":                                         {map[string]string{issuerAnnotation: "theirs"}, false},
		"a Secret of that name that nobody signed stays":                                                 {nil, false},
	} {
		inBubble(t, name, func(t *testing.T) {
			ca := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "ca", Annotations: test.annotations}}
			c := fake.NewClientBuilder().WithScheme(testScheme(t)).WithObjects(ca).Build()
			o := o
			o.caSecret, o.caIssuer = "ca", "ours"
			if err := cleanup(t.Context(), c, o, io.Discard); err != nil {
				t.Fatal(err)
			}
			if err := c.Get(t.Context(), client.ObjectKeyFromObject(ca), ca); apierrors.IsNotFound(err) != test.gone {
				t.Errorf("error %v, gone should be %v", err, test.gone)
			}
		})
	}

	inBubble(t, "a pod that goes on running keeps the marker", func(t *testing.T) {
		pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "nmi-x", Labels: label("nmi")}}
		c := fake.NewClientBuilder().WithScheme(testScheme(t)).WithObjects(append(objects, pod)...).Build()
		var out strings.Builder
		err := cleanup(t.Context(), c, o, &out)
		if err == nil || !strings.Contains(err.Error(), "running pods nmi-x") {
			t.Errorf("error %v, want one that names pod nmi-x", err)
		}
		if err := c.Get(t.Context(), client.ObjectKey{Namespace: ns, Name: marker.Name}, &corev1.ConfigMap{}); err != nil {
			t.Errorf("marker: %v, want it kept", err)
		}
	})

	inBubble(t, "a pod that cannot end, its node being gone, holds nothing up for ever", func(t *testing.T) {
		now := metav1.Now()
		pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{
			Namespace: ns, Name: "nmi-x", Labels: label("nmi"), DeletionTimestamp: &now, Finalizers: []string{"test/kubelet"}}}
		c := fake.NewClientBuilder().WithScheme(testScheme(t)).WithObjects(append(objects, pod)...).Build()
		var out strings.Builder
		if err := cleanup(t.Context(), c, o, &out); err != nil {
			t.Errorf("cleanup: %v", err)
		}
		if !strings.Contains(out.String(), "note: ending pods nmi-x") {
			t.Errorf("the log does not name the pod:\n%s", out.String())
		}
	})
}
