package controller

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/record"
	"k8s.io/client-go/util/workqueue"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	v1 "github.com/aad-pod-identity/aad-pod-identity/api/v1"
	"github.com/aad-pod-identity/aad-pod-identity/internal/binding"
	"github.com/aad-pod-identity/aad-pod-identity/internal/metric"
	"github.com/aad-pod-identity/aad-pod-identity/mic/compute"
)

// fakePods returns a reconciler of pods over a fake API server, whose calls funcs
// may intercept, and that server.
func fakePods(t *testing.T, funcs interceptor.Funcs, objects ...client.Object) (*podReconciler, client.Client) {
	t.Helper()
	server := indexed(t, objects...)
	// The cache holds labelled pods alone.
	cached := interceptor.NewClient(server, interceptor.Funcs{
		Get: func(ctx context.Context, c client.WithWatch, key client.ObjectKey, o client.Object, opts ...client.GetOption) error {
			err := c.Get(ctx, key, o, opts...)
			if p, ok := o.(*corev1.Pod); ok && err == nil && p.Labels[v1.BindingLabelKey] == "" {
				return apierrors.NewNotFound(corev1.Resource("pods"), key.Name)
			}
			return err
		},
	})
	live := interceptor.NewClient(server, funcs)
	started := working()
	return &podReconciler{
		world: &world{cached: cached, live: live, namespace: "mic"}, writer: live,
		engine: compute.NewEngine(compute.LedgerStore{}, nil, compute.Options{}), departures: &departures{},
		events: newEvents(record.NewFakeRecorder(100)), metrics: metric.NewMIC(prometheus.NewRegistry()), start: started, gates: true,
		reviewInterval: 4 * time.Minute, unknown: unknownRights(),
	}, server
}

// working is the start of a leader that is ready.
func working() *start {
	s := &start{done: make(chan struct{})}
	close(s.done)
	return s
}

// unlabelledPod is a pod whose label was taken off, and what it had.
func unlabelledPod() (*corev1.Pod, *v1.AzureAssignedIdentity) {
	p := gatePod("", corev1.PodCondition{Type: v1.PodConditionIdentityAssigned, Status: corev1.ConditionTrue, Reason: v1.ReasonAssigned})
	p.Labels = map[string]string{v1.PodBindingLabelKey: "demo", v1.PodIdentityLabelKey: "demo"}
	p.Annotations = map[string]string{v1.PodBindingsAnnotationKey: "default/demo"}
	return p, &v1.AzureAssignedIdentity{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "app-default-demo", UID: "a", Finalizers: []string{v1.AssignedIdentityFinalizer}},
		Spec: v1.AzureAssignedIdentitySpec{
			Pod: p.Name, PodNamespace: p.Namespace, NodeName: p.Spec.NodeName,
			AzureIdentityRef: &v1.AzureIdentity{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "demo"}},
		},
		Status: v1.AzureAssignedIdentityStatus{Status: v1.AssignedIDAssigned},
	}
}

func TestAPodWithoutItsLabelIsDealtWithUntilItWorks(t *testing.T) {
	down := errors.New("the API server is down")
	for name, failing := range map[string]func(*bool) interceptor.Funcs{
		"the pod cannot be read": func(broken *bool) interceptor.Funcs {
			return interceptor.Funcs{Get: func(ctx context.Context, c client.WithWatch, key client.ObjectKey, o client.Object, opts ...client.GetOption) error {
				if *broken {
					return down
				}
				return c.Get(ctx, key, o, opts...)
			}}
		},
		"its tags cannot be written": func(broken *bool) interceptor.Funcs {
			return interceptor.Funcs{Patch: func(ctx context.Context, c client.WithWatch, o client.Object, p client.Patch, opts ...client.PatchOption) error {
				if *broken {
					return down
				}
				return c.Patch(ctx, o, p, opts...)
			}}
		},
		"its condition cannot be written": func(broken *bool) interceptor.Funcs {
			return interceptor.Funcs{SubResourcePatch: func(ctx context.Context, c client.Client, sub string, o client.Object, p client.Patch, opts ...client.SubResourcePatchOption) error {
				if *broken {
					return down
				}
				return c.SubResource(sub).Patch(ctx, o, p, opts...)
			}}
		},
	} {
		t.Run(name, func(t *testing.T) {
			broken := true
			p, a := unlabelledPod()
			r, server := fakePods(t, failing(&broken), p, a)
			request := reconcile.Request{NamespacedName: client.ObjectKeyFromObject(p)}
			if _, err := r.Reconcile(t.Context(), request); !errors.Is(err, down) {
				t.Fatalf("error %v, want one that has the pod tried again", err)
			}
			check(t, server.Get(t.Context(), request.NamespacedName, p))
			if name == "its tags cannot be written" && gateStateOf(p).status != corev1.ConditionFalse {
				t.Error("without the tags the gate is not set either")
			}
			// Meanwhile its identity is taken off the VM, and the object goes.
			check(t, server.Get(t.Context(), client.ObjectKeyFromObject(a), a))
			if a.DeletionTimestamp.IsZero() {
				t.Fatal("its assigned identity is not deleted")
			}
			check(t, server.Patch(t.Context(), a, client.RawPatch(types.MergePatchType, []byte(`{"metadata":{"finalizers":null}}`))))
			if _, err := r.Reconcile(t.Context(), request); !errors.Is(err, down) {
				t.Fatalf("error %v after the assigned identity is gone", err)
			}
			broken = false
			_, err := r.Reconcile(t.Context(), request)
			check(t, err)
			wantUnlabelled(t, server, p)
			if n := len(r.unlabelled.done); n > 0 {
				t.Errorf("%d pods are still remembered", n)
			}
		})
	}
}

func wantUnlabelled(t *testing.T, server client.Client, p *corev1.Pod) {
	t.Helper()
	check(t, server.Get(t.Context(), client.ObjectKeyFromObject(p), p))
	if got := gateStateOf(p); got.status != corev1.ConditionFalse || got.reason != v1.ReasonNoIdentityMatched {
		t.Errorf("the gate is %+v", got)
	}
	if tags := tagsOf(p); tags.Binding != "" || tags.Identity != "" || tags.Bindings != "" {
		t.Errorf("the tags are %+v", tags)
	}
}

func TestAPodWithoutItsLabelIsDealtWithAfterACrash(t *testing.T) {
	p, a := unlabelledPod()
	a.DeletionTimestamp = &metav1.Time{Time: metav1.Now().Time}
	reads := 0
	r, server := fakePods(t, interceptor.Funcs{Get: func(ctx context.Context, c client.WithWatch, key client.ObjectKey, o client.Object, opts ...client.GetOption) error {
		reads++
		return c.Get(ctx, key, o, opts...)
	}}, p, a)
	for range 3 {
		_, err := r.Reconcile(t.Context(), reconcile.Request{NamespacedName: client.ObjectKeyFromObject(p)})
		check(t, err)
	}
	wantUnlabelled(t, server, p)
	if reads != 1 {
		t.Errorf("the pod was read %d times", reads)
	}
}

// TestAPodThatTheCacheLacksKeepsWhatItHas: the API server says that it is labelled.
func TestAPodThatTheCacheLacksKeepsWhatItHas(t *testing.T) {
	p, a := unlabelledPod()
	r, server := fakePods(t, interceptor.Funcs{Get: func(ctx context.Context, c client.WithWatch, key client.ObjectKey, o client.Object, opts ...client.GetOption) error {
		err := c.Get(ctx, key, o, opts...)
		if p, ok := o.(*corev1.Pod); ok {
			p.Labels[v1.BindingLabelKey] = "demo"
		}
		return err
	}}, p, a)
	_, err := r.Reconcile(t.Context(), reconcile.Request{NamespacedName: client.ObjectKeyFromObject(p)})
	check(t, err)
	check(t, server.Get(t.Context(), client.ObjectKeyFromObject(a), a))
	if !a.DeletionTimestamp.IsZero() {
		t.Error("its assigned identity is deleted")
	}
	check(t, server.Get(t.Context(), client.ObjectKeyFromObject(p), p))
	if tagsOf(p) == (binding.Tags{}) {
		t.Error("its tags are gone")
	}
	if n := len(r.unlabelled.done); n > 0 {
		t.Errorf("%d pods are remembered", n)
	}
}

func TestWhichUnlabelledPodsAreDue(t *testing.T) {
	key := types.NamespacedName{Namespace: "default", Name: "app"}
	failed := errors.New("down")
	for name, test := range map[string]struct {
		before      func(*unlabelled)
		key         types.NamespacedName
		hasAssigned bool
		want        bool
		remembered  int
	}{
		"one that has assigned identities":              {key: key, hasAssigned: true, want: true},
		"not one that never had any":                    {key: key},
		"not one that a damaged object does not name":   {hasAssigned: true},
		"one with which it failed":                      {before: func(u *unlabelled) { u.record(key, true, failed) }, key: key, want: true, remembered: 1},
		"not one with which it worked":                  {before: func(u *unlabelled) { u.record(key, true, nil) }, key: key, hasAssigned: true, remembered: 1},
		"nor when its last assigned identity has gone":  {before: func(u *unlabelled) { u.record(key, true, nil) }, key: key},
		"one that had no assigned identity but tags":    {before: func(u *unlabelled) { u.left(key) }, key: key, want: true, remembered: 1},
		"also if it was seen with its label once more":  {before: func(u *unlabelled) { u.left(key); u.forget(key) }, key: key, want: true, remembered: 1},
		"not one that was ending":                       {before: func(u *unlabelled) { u.ended(key) }, key: key, hasAssigned: true, remembered: 1},
		"nor when what it had is gone":                  {before: func(u *unlabelled) { u.ended(key) }, key: key},
		"one of its name that came since":               {before: func(u *unlabelled) { u.ended(key); u.forget(key) }, key: key, hasAssigned: true, want: true},
		"one that was labelled since":                   {before: func(u *unlabelled) { u.record(key, true, nil); u.forget(key) }, key: key, hasAssigned: true, want: true},
		"not one with which it worked at the last time": {before: func(u *unlabelled) { u.record(key, true, failed); u.record(key, false, nil) }, key: key},
	} {
		t.Run(name, func(t *testing.T) {
			var u unlabelled
			if test.before != nil {
				test.before(&u)
			}
			if got := u.due(test.key, test.hasAssigned); got != test.want || len(u.done) != test.remembered {
				t.Errorf("due %v, %d remembered; want %v, %d", got, len(u.done), test.want, test.remembered)
			}
		})
	}
}

func TestAPodLosesItsTagsWithItsLabelAlone(t *testing.T) {
	deletion := func(p *corev1.Pod) event.TypedDeleteEvent[*corev1.Pod] {
		return event.TypedDeleteEvent[*corev1.Pod]{Object: p}
	}
	deleted := func(p *corev1.Pod) { p.DeletionTimestamp = &metav1.Time{Time: metav1.Now().Time} }
	for name, test := range map[string]struct {
		change   func(*corev1.Pod)
		assigned bool
		reads    int
	}{
		"its label was taken off":                   {func(*corev1.Pod) {}, false, 1},
		"it had no tags":                            {func(p *corev1.Pod) { p.Labels, p.Annotations, p.Status.Conditions = nil, nil, nil }, false, 0},
		"it was deleted":                            {deleted, false, 0},
		"it was deleted and has its identity":       {deleted, true, 0},
		"it has finished":                           {func(p *corev1.Pod) { p.Status.Phase = corev1.PodFailed }, false, 0},
		"its label was taken off, it was on a node": {func(*corev1.Pod) {}, true, 1},
	} {
		t.Run(name, func(t *testing.T) {
			p, a := unlabelledPod()
			objects := []client.Object{p.DeepCopy()}
			if test.assigned {
				objects = append(objects, a)
			}
			reads := 0
			r, server := fakePods(t, interceptor.Funcs{Get: func(ctx context.Context, c client.WithWatch, key client.ObjectKey, o client.Object, opts ...client.GetOption) error {
				reads++
				return c.Get(ctx, key, o, opts...)
			}}, objects...)
			test.change(p)
			queue := workqueue.NewTypedRateLimitingQueue(limiter[reconcile.Request]())
			defer queue.ShutDown()
			r.podEvents().Delete(t.Context(), deletion(p), queue)
			request, _ := queue.Get()
			for range 2 {
				_, err := r.Reconcile(t.Context(), request)
				check(t, err)
			}
			if reads != test.reads {
				t.Errorf("the pod was read %d times, want %d", reads, test.reads)
			}
			if test.reads > 0 {
				wantUnlabelled(t, server, p)
			}
		})
	}
}

func TestAPodThatLosesItsLabelWhileItIsTaggedLosesTheTags(t *testing.T) {
	p, _ := unlabelledPod()
	stored := p.DeepCopy()
	stored.Labels, stored.Annotations = nil, nil
	r, server := fakePods(t, interceptor.Funcs{}, stored)
	check(t, server.Get(t.Context(), client.ObjectKeyFromObject(p), stored))
	p.UID, p.Labels = stored.UID, map[string]string{v1.BindingLabelKey: "demo"} // as the cache still knows it
	match := binding.Match{Binding: &v1.AzureIdentityBinding{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "demo"}}, Identity: &v1.AzureIdentity{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "demo"}}}
	if err := r.tag(t.Context(), p, binding.Result{Matches: []binding.Match{match}}); err == nil {
		t.Fatal("no error, so it is not looked at again")
	}
	_, err := r.Reconcile(t.Context(), reconcile.Request{NamespacedName: client.ObjectKeyFromObject(p)})
	check(t, err)
	wantUnlabelled(t, server, p)
}
