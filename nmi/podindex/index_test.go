package podindex

import (
	"context"
	"errors"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	v1 "github.com/aad-pod-identity/aad-pod-identity/api/v1"
)

const node = "node-1"

var ip = netip.MustParseAddr("10.1.0.5")

// podObject is a running pod with an address; opts change it.
func podObject(name string, opts ...func(*corev1.Pod)) *corev1.Pod {
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, UID: types.UID("uid-" + name)},
		Spec:       corev1.PodSpec{NodeName: node, ServiceAccountName: "sa"},
		Status: corev1.PodStatus{
			Phase: corev1.PodRunning, HostIP: "10.240.0.34", PodIP: ip.String(), PodIPs: []corev1.PodIP{{IP: ip.String()}},
		},
	}
	for _, o := range opts {
		o(p)
	}
	return p
}

func phase(ph corev1.PodPhase) func(*corev1.Pod) { return func(p *corev1.Pod) { p.Status.Phase = ph } }

func noAddress(p *corev1.Pod) { p.Status.PodIP, p.Status.PodIPs = "", nil }

func terminating(in time.Duration) func(*corev1.Pod) {
	return func(p *corev1.Pod) { p.DeletionTimestamp = &metav1.Time{Time: time.Now().Add(in)} }
}

// sidecar is an init container that runs beside others.
func sidecar(p *corev1.Pod) {
	p.Status.InitContainerStatuses = []corev1.ContainerStatus{
		{State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{}}}, {State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}},
	}
}

func ended(p *corev1.Pod) {
	p.Status.ContainerStatuses = []corev1.ContainerStatus{{State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{}}}}
}

func hostNetwork(p *corev1.Pod) { p.Spec.HostNetwork = true; p.Status.HostIP = "10.9.9.9" }

func TestByIP(t *testing.T) {
	tests := map[string]struct {
		pods []*corev1.Pod
		want string
		err  error
	}{
		"a running pod":                         {pods: []*corev1.Pod{podObject("a")}, want: "a"},
		"a pending pod with an address":         {pods: []*corev1.Pod{podObject("a", phase(corev1.PodPending))}, want: "a"},
		"nobody":                                {err: ErrUnknown},
		"a succeeded pod":                       {pods: []*corev1.Pod{podObject("a", phase(corev1.PodSucceeded))}, err: ErrUnknown},
		"a failed pod":                          {pods: []*corev1.Pod{podObject("a", phase(corev1.PodFailed))}, err: ErrUnknown},
		"a pod on the host's network":           {pods: []*corev1.Pod{podObject("a", hostNetwork)}, err: ErrUnknown},
		"a pod that reports the node's address": {pods: []*corev1.Pod{podObject("a", func(p *corev1.Pod) { p.Status.HostIP = ip.String() })}, err: ErrUnknown},
		"an address only in podIPs": {
			pods: []*corev1.Pod{podObject("a", func(p *corev1.Pod) {
				p.Status.PodIP, p.Status.PodIPs = "fd00::5", []corev1.PodIP{{IP: "fd00::5"}, {IP: ip.String()}}
			})}, want: "a",
		},
		"two live pods with one address": {pods: []*corev1.Pod{podObject("a"), podObject("b")}, err: ErrAmbiguous},
		"an address reused after its pod ended": {
			pods: []*corev1.Pod{podObject("a", phase(corev1.PodSucceeded)), podObject("b")}, want: "b",
		},
		"an address reused while its pod is still listed as terminating": {
			pods: []*corev1.Pod{podObject("a", terminating(time.Minute)), podObject("b")}, want: "b",
		},
		"the same in the other order": {
			pods: []*corev1.Pod{podObject("b"), podObject("a", terminating(time.Minute))}, want: "b",
		},
		"a terminating pod keeps its address": {pods: []*corev1.Pod{podObject("a", terminating(time.Minute))}, want: "a"},
		"a terminating pod past its grace period": {
			pods: []*corev1.Pod{podObject("a", terminating(-time.Second))}, err: ErrUnknown,
		},
		"a terminating pod whose containers have ended": {
			pods: []*corev1.Pod{podObject("a", terminating(time.Minute), ended)}, err: ErrUnknown,
		},
		"a terminating pod whose sidecar runs on": {
			pods: []*corev1.Pod{podObject("a", terminating(time.Minute), ended, sidecar)}, want: "a",
		},
		"a live pod between restarts of its container": {pods: []*corev1.Pod{podObject("a", ended)}, want: "a"},
		"a terminating pod while another one waits for its address": {
			pods: []*corev1.Pod{podObject("a", terminating(time.Minute)), podObject("b", phase(corev1.PodPending), noAddress)}, err: ErrUncertain,
		},
		"a terminating pod while another one, that is deleted already, waits for its address": {
			pods: []*corev1.Pod{podObject("a", terminating(time.Minute)), podObject("b", phase(corev1.PodPending), noAddress, terminating(time.Minute))}, err: ErrUncertain,
		},
		"a live pod while another one waits for its address": {
			pods: []*corev1.Pod{podObject("a"), podObject("b", phase(corev1.PodPending), noAddress)}, want: "a",
		},
		"a terminating pod while one on the host's network starts": {
			pods: []*corev1.Pod{podObject("a", terminating(time.Minute)), podObject("b", phase(corev1.PodPending), noAddress, hostNetwork)}, want: "a",
		},
		"an address that was reused twice, its former pods still listed as terminating": {
			pods: []*corev1.Pod{podObject("a", terminating(time.Minute)), podObject("b", terminating(time.Minute)), podObject("c")}, want: "c",
		},
		"two terminating pods with one address": {
			pods: []*corev1.Pod{podObject("a", terminating(time.Minute)), podObject("b", terminating(time.Minute))}, err: ErrAmbiguous,
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			x := New(node)
			x.MarkSynced()
			for _, p := range tc.pods {
				x.SetPod(NewPod(reducePod(p)))
			}
			v, err := x.ByIP(ip)
			if !errors.Is(err, tc.err) {
				t.Fatalf("error %v, want %v", err, tc.err)
			}
			if err == nil && v.Pod.Name != tc.want {
				t.Errorf("pod %s, want %s", v.Pod.Name, tc.want)
			}
			if v, err := x.ByConnection(ip, "somebody else's"); !errors.Is(err, tc.err) || err == nil && v.Pod.Name != tc.want {
				t.Errorf("by a connection of another pod: %v, error %v", v.Pod, err)
			}
			// What a pod had opened before is its own still, if no other has the address.
			want, wantErr := tc.want, tc.err
			if errors.Is(tc.err, ErrUncertain) {
				want, wantErr = "a", nil
			}
			if v, err := x.ByConnection(ip, "uid-a"); !errors.Is(err, wantErr) || err == nil && v.Pod.Name != want {
				t.Errorf("by a connection of pod a: %v, error %v", v.Pod, err)
			}
			mapped := netip.AddrFrom16(ip.As16())
			if _, err := x.ByIP(mapped); !errors.Is(err, tc.err) {
				t.Errorf("as an IPv4-mapped IPv6 address: error %v, want %v", err, tc.err)
			}
		})
	}
}

// TestPodsComeAndGo follows one address through changes of its pods.
func TestPodsComeAndGo(t *testing.T) {
	x := New(node)
	set := func(p *corev1.Pod) { x.SetPod(NewPod(p)) }
	expect := func(when, want string, wantErr error) {
		t.Helper()
		v, err := x.ByIP(ip)
		if !errors.Is(err, wantErr) || (err == nil && string(v.Pod.UID) != want) {
			t.Errorf("%s: got %+v, %v, want %s, %v", when, v.Pod, err, want, wantErr)
		}
	}
	set(podObject("web-0"))
	expect("before the lists are in", "", ErrNotSynced)
	x.MarkSynced()
	expect("then", "uid-web-0", nil)
	set(podObject("web-0", func(p *corev1.Pod) { p.UID = "uid-2" }))
	expect("a StatefulSet's pod was replaced", "uid-2", nil)
	set(podObject("web-0", func(p *corev1.Pod) { p.Status.PodIP, p.Status.PodIPs = "10.1.0.6", nil }))
	expect("its sandbox got another address", "", ErrUnknown)
	set(podObject("web-0"))
	set(podObject("web-1"))
	expect("a second pod reports the address", "", ErrAmbiguous)
	x.DeletePod(types.NamespacedName{Namespace: "default", Name: "web-0"})
	expect("the first one is gone", "uid-web-1", nil)
	x.DeletePod(types.NamespacedName{Namespace: "default", Name: "web-1"})
	x.DeletePod(types.NamespacedName{Namespace: "default", Name: "never-was"})
	expect("all are gone", "", ErrUnknown)
	if len(x.byIP) != 0 || len(x.pods) != 0 {
		t.Errorf("left: %v %v", x.byIP, x.pods)
	}
}

// TestDeletedByForce: a pod that was deleted by force runs on for a moment, and may
// have the address of one that is terminating.
func TestDeletedByForce(t *testing.T) {
	remove := func(x *Index) { x.DeletePod(types.NamespacedName{Namespace: "default", Name: "b"}) }
	elsewhere := func(p *corev1.Pod) { p.UID, p.Status.PodIP, p.Status.PodIPs = "uid-2", "10.1.0.6", nil }
	for name, tc := range map[string]struct {
		pod    func(*corev1.Pod)
		vanish func(*Index)
		err    error
	}{
		"before its address is reported":  {noAddress, remove, ErrUncertain},
		"and replaced":                    {noAddress, func(x *Index) { x.SetPod(NewPod(podObject("b", elsewhere))) }, ErrUncertain},
		"after it has reported the same":  {func(*corev1.Pod) {}, remove, ErrUncertain},
		"while terminating with the same": {terminating(time.Minute), remove, ErrUncertain},
		"with another address":            {elsewhere, remove, nil},
		"on the host's network":           {hostNetwork, remove, nil},
	} {
		t.Run(name, func(t *testing.T) {
			x := New(node)
			x.MarkSynced()
			x.SetPod(NewPod(podObject("a", terminating(time.Minute))))
			x.SetPod(NewPod(podObject("b", tc.pod)))
			tc.vanish(x)
			x.SetPod(NewPod(podObject("a", terminating(time.Minute)))) // told again
			if _, err := x.ByIP(ip); !errors.Is(err, tc.err) {
				t.Errorf("error %v, want %v", err, tc.err)
			}
			x.SetPod(NewPod(podObject("c")))
			if v, err := x.ByIP(ip); err != nil || v.Pod.Name != "c" {
				t.Errorf("the pod that reports the address now: %+v, %v", v.Pod, err)
			}
			x.DeletePod(types.NamespacedName{Namespace: "default", Name: "a"})
			if len(x.doubted) != 0 {
				t.Errorf("left: %v", x.doubted)
			}
		})
	}
}

func assigned(name, pod, bindingNS, bindingName string) *v1.AzureAssignedIdentity {
	return &v1.AzureAssignedIdentity{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name},
		Spec: v1.AzureAssignedIdentitySpec{
			Pod: pod, PodNamespace: "default", NodeName: node,
			AzureBindingRef: &v1.AzureIdentityBinding{ObjectMeta: metav1.ObjectMeta{Namespace: bindingNS, Name: bindingName}},
		},
	}
}

func TestAssigned(t *testing.T) {
	x := New(node)
	x.MarkSynced()
	x.SetPod(NewPod(podObject("a")))
	names := func() (out []string) {
		v, err := x.ByIP(ip)
		if err != nil {
			t.Fatal(err)
		}
		for _, a := range v.Assigned {
			out = append(out, a.Name)
		}
		return out
	}
	expect := func(when string, want ...string) {
		t.Helper()
		if diff := cmp.Diff(want, names()); diff != "" {
			t.Errorf("%s (-want +got):\n%s", when, diff)
		}
	}
	expect("none yet")
	x.SetAssigned(assigned("1", "a", "z", "a"))
	x.SetAssigned(assigned("2", "a", "b", "b"))
	x.SetAssigned(assigned("3", "a", "b", "a"))
	x.SetAssigned(assigned("4", "other", "a", "a"))
	expect("in the order of the bindings' namespace and name, not of their own", "3", "2", "1")
	elsewhere := assigned("2", "a", "b", "b")
	elsewhere.Spec.NodeName = "node-2"
	x.SetAssigned(elsewhere)
	expect("one that moved to another node is none of ours", "3", "1")
	x.SetAssigned(assigned("1", "other", "z", "a"))
	expect("one that was rewritten for another pod", "3")
	x.DeleteAssigned(types.NamespacedName{Namespace: "default", Name: "3"})
	x.DeleteAssigned(types.NamespacedName{Namespace: "default", Name: "3"})
	expect("after a delete")
	x.DeleteAssigned(types.NamespacedName{Namespace: "default", Name: "4"})
	x.DeleteAssigned(types.NamespacedName{Namespace: "default", Name: "1"})
	if len(x.assigned) != 0 || len(x.owner) != 0 {
		t.Errorf("left: %v %v", x.assigned, x.owner)
	}
}

func TestExceptions(t *testing.T) {
	x := New(node)
	x.MarkSynced()
	x.SetPod(NewPod(podObject("a", func(p *corev1.Pod) { p.Labels = map[string]string{"app": "MIC"} })))
	excepted := func() bool {
		v, err := x.ByIP(ip)
		if err != nil {
			t.Fatal(err)
		}
		return v.Exception != nil
	}
	e := &v1.AzurePodIdentityException{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "mic"},
		Spec:       v1.AzurePodIdentityExceptionSpec{PodLabels: map[string]string{"app": "mic", "other": "x"}},
	}
	foreign := e.DeepCopy()
	foreign.Namespace = "kube-system"
	x.SetException(foreign)
	if excepted() {
		t.Error("an exception of another namespace holds")
	}
	x.SetException(e)
	if !excepted() {
		t.Error("one matching pair, in another case, is not enough")
	}
	changed := e.DeepCopy()
	changed.Spec.PodLabels = map[string]string{"app": "other"}
	x.SetException(changed)
	if excepted() {
		t.Error("the exception's former labels hold")
	}
	x.SetException(e)
	x.DeleteException(types.NamespacedName{Namespace: "default", Name: "mic"})
	if excepted() {
		t.Error("a deleted exception holds")
	}
}

func TestWaiting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := New(node)
		type answer struct {
			pod string
			err error
		}
		got := make(chan answer, 1)
		wait := func(timeout time.Duration) {
			go func() {
				ctx, cancel := context.WithTimeout(t.Context(), timeout)
				defer cancel()
				v, err := x.Wait(ctx, func() (View, error) { return x.ByIP(ip) })
				a := answer{err: err}
				if err == nil {
					a.pod = v.Pod.Name
				}
				got <- a
			}()
			synctest.Wait()
		}

		wait(time.Hour)
		x.MarkSynced()
		x.SetPod(NewPod(podObject("other", noAddress)))
		x.SetPod(NewPod(podObject("a")))
		if a := <-got; a.pod != "a" {
			t.Errorf("got %+v", a)
		}
		x.DeletePod(types.NamespacedName{Namespace: "default", Name: "a"})
		wait(time.Second)
		if a := <-got; !errors.Is(a.err, ErrUnknown) {
			t.Errorf("after the wait: got %+v", a)
		}

		key := types.NamespacedName{Namespace: "default", Name: "a"}
		x.SetPod(NewPod(podObject("a")))
		closed := func(c <-chan struct{}) bool {
			select {
			case <-c:
				return true
			default:
				return false
			}
		}
		c := x.Changed(key)
		x.SetAssigned(assigned("1", "other", "a", "a"))
		if closed(c) {
			t.Error("woken by another pod's change")
		}
		x.SetAssigned(assigned("2", "a", "a", "a"))
		if !closed(c) {
			t.Error("not woken when an identity was assigned")
		}
		c = x.Changed(key)
		x.DeletePod(key)
		if !closed(c) {
			t.Error("not woken when the pod went")
		}
		if !closed(x.Changed(key)) {
			t.Error("a pod that does not exist would be waited for for ever")
		}
		if len(x.changed) != 0 {
			t.Errorf("left: %v", x.changed)
		}
	})
}
