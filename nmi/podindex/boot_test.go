package podindex

import (
	"errors"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

var (
	boot       = time.Date(2026, 11, 28, 4, 0, 0, 0, time.UTC)
	beforeBoot = metav1.NewTime(boot.Add(-time.Second))
	afterBoot  = metav1.NewTime(boot.Add(time.Second))
)

// started is a pod that the kubelet has first heard of at a time.
func started(at metav1.Time, opts ...func(*corev1.Pod)) *corev1.Pod {
	return podObject("a", append([]func(*corev1.Pod){func(p *corev1.Pod) { p.Status.StartTime = &at }}, opts...)...)
}

func running(at metav1.Time) []corev1.ContainerStatus {
	return []corev1.ContainerStatus{{}, {State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: at}}}}
}

func TestReportedSince(t *testing.T) {
	exited := func(at metav1.Time) *corev1.ContainerStateTerminated {
		return &corev1.ContainerStateTerminated{StartedAt: at, FinishedAt: afterBoot}
	}
	sandbox := func(status corev1.ConditionStatus, at metav1.Time) func(*corev1.Pod) {
		return func(p *corev1.Pod) {
			p.Status.Conditions = []corev1.PodCondition{
				{Type: corev1.PodScheduled, Status: corev1.ConditionTrue, LastTransitionTime: afterBoot},
				{Type: corev1.PodReadyToStartContainers, Status: status, LastTransitionTime: at},
			}
		}
	}
	containers := func(list []corev1.ContainerStatus) func(*corev1.Pod) {
		return func(p *corev1.Pod) { p.Status.ContainerStatuses = list }
	}
	tests := map[string]struct {
		pod  *corev1.Pod
		want bool
	}{
		"new since the boot":                              {started(afterBoot), true},
		"in the second of the boot":                       {started(metav1.NewTime(boot)), true},
		"from before the boot":                            {started(beforeBoot), false},
		"its containers, too":                             {started(beforeBoot, containers(running(beforeBoot))), false},
		"a container runs since after it":                 {started(beforeBoot, containers(running(afterBoot))), true},
		"an init container":                               {started(beforeBoot, func(p *corev1.Pod) { p.Status.InitContainerStatuses = running(afterBoot) }), true},
		"an ephemeral container":                          {started(beforeBoot, func(p *corev1.Pod) { p.Status.EphemeralContainerStatuses = running(afterBoot) }), true},
		"one has run since, and has ended":                {started(beforeBoot, containers([]corev1.ContainerStatus{{State: corev1.ContainerState{Terminated: exited(afterBoot)}}})), true},
		"one has run since, and will again":               {started(beforeBoot, containers([]corev1.ContainerStatus{{LastTerminationState: corev1.ContainerState{Terminated: exited(afterBoot)}}})), true},
		"the boot has ended one, which the kubelet tells": {started(beforeBoot, containers([]corev1.ContainerStatus{{State: corev1.ContainerState{Terminated: exited(beforeBoot)}}})), false},
		"its sandbox is ready since":                      {started(beforeBoot, sandbox(corev1.ConditionTrue, afterBoot)), true},
		"its sandbox was ready":                           {started(beforeBoot, sandbox(corev1.ConditionTrue, beforeBoot)), false},
		"its sandbox is not ready since":                  {started(beforeBoot, sandbox(corev1.ConditionFalse, afterBoot)), false},
		"created since, by no kubelet":                    {podObject("a", func(p *corev1.Pod) { p.CreationTimestamp = afterBoot }), true},
		"created before":                                  {podObject("a", func(p *corev1.Pod) { p.CreationTimestamp = beforeBoot }), false},
		"created since, by the API server's clock":        {started(beforeBoot, func(p *corev1.Pod) { p.CreationTimestamp = afterBoot }), false},
		"no times at all":                                 {podObject("a"), false},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			if got := reportedSince(boot, tc.pod); got != tc.want {
				t.Errorf("got %v", got)
			}
		})
	}
}

// TestAddressesAfterAReboot: a pod that ran before has the address by the API server, and
// another pod may have it. Nobody is believed before the kubelet has reported.
func TestAddressesAfterAReboot(t *testing.T) {
	x := New(node)
	x.MarkSynced()
	set := func(p *corev1.Pod) {
		t.Helper()
		reduce := reducePodSince(boot, func() bool { return true })
		reduced, err := reduce(p)
		if err == nil {
			reduced, err = reduce(reduced)
		}
		if err != nil {
			t.Fatal(err)
		}
		x.SetPod(NewPod(reduced.(*corev1.Pod)))
	}
	holds := func(when, name string, want error) {
		t.Helper()
		v, err := x.ByIP(ip)
		if !errors.Is(err, want) || err == nil && v.Pod.Name != name {
			t.Errorf("%s: %v has the address, error %v; want %s, %v", when, v.Pod, err, name, want)
		}
	}
	set(started(beforeBoot, func(p *corev1.Pod) { p.Status.ContainerStatuses = running(beforeBoot) }))
	holds("booted", "", ErrUnknown)
	set(podObject("b", func(p *corev1.Pod) { p.Status.StartTime = &beforeBoot; p.Status.ContainerStatuses = running(afterBoot) }))
	holds("another pod has got the address", "b", nil)
	set(started(beforeBoot, func(p *corev1.Pod) {
		p.Status.ContainerStatuses = running(afterBoot)
		p.Status.PodIP, p.Status.PodIPs = "10.1.0.6", []corev1.PodIP{{IP: "10.1.0.6"}}
	}))
	holds("the first has another one", "b", nil)

	reduced, err := reducePodSince(boot, func() bool { return false })(started(beforeBoot))
	if err != nil || reduced.(*corev1.Pod).Status.PodIP == "" {
		t.Errorf("without a doubt: %v, error %v", reduced, err)
	}
}

func TestDoubts(t *testing.T) {
	for name, tc := range map[string]struct {
		boot, began time.Time
		passed      time.Duration
		want        bool
	}{
		"NMI starts with the node":            {boot, boot.Add(time.Minute), time.Second, true},
		"it starts much later":                {boot, boot.Add(time.Hour), time.Second, false},
		"it runs for a while":                 {boot, boot.Add(time.Minute), doubtTime, false},
		"when the node was booted is unknown": {time.Time{}, boot, time.Second, false},
	} {
		if got := doubts(tc.boot, tc.began, tc.passed); got != tc.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}
