package podindex

import (
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// reportedSince says whether the kubelet has reported the pod's address since the node
// was booted. A reboot ends all sandboxes; the API server goes on telling the addresses
// that they had until the kubelet reports the new ones, and meanwhile the network gives
// the old ones to whichever pod comes first. It is pure.
//
// The kubelet writes a pod's status as a whole, so an address is as new as anything else
// in it: a start of a container, the sandbox's being ready, or that the kubelet has first
// heard of the pod. All of these are times of the node's own clock, as the boot's is. What
// is not written by a kubelet has only the time of its creation.
func reportedSince(boot time.Time, p *corev1.Pod) bool {
	since := func(t metav1.Time) bool { return !t.IsZero() && !t.Time.Before(boot) }
	if p.Status.StartTime == nil && since(p.CreationTimestamp) || p.Status.StartTime != nil && since(*p.Status.StartTime) {
		return true
	}
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodReadyToStartContainers && c.Status == corev1.ConditionTrue && since(c.LastTransitionTime) {
			return true
		}
	}
	for _, list := range [][]corev1.ContainerStatus{p.Status.InitContainerStatuses, p.Status.ContainerStatuses, p.Status.EphemeralContainerStatuses} {
		for _, c := range list {
			for _, s := range []corev1.ContainerState{c.State, c.LastTerminationState} {
				if s.Running != nil && since(s.Running.StartedAt) || s.Terminated != nil && since(s.Terminated.StartedAt) {
					return true
				}
			}
		}
	}
	return false
}

// doubtTime is how long the addresses from before a boot are doubted at most. The kubelet,
// which starts NMI too, reports within a minute; should the clock be set meanwhile, by
// which the times of a status are, new pods must not be refused for as long as that was.
const doubtTime = 10 * time.Minute

// doubts says whether addresses from before the boot of a node may still be told: for the
// time from when NMI began, but only if it began soon after the boot. Durations of this
// process do not change with the clock.
func doubts(boot, began time.Time, passed time.Duration) bool {
	return !boot.IsZero() && began.Sub(boot) < doubtTime && passed < doubtTime
}

// reducePodSince is reducePod that leaves out the addresses which were reported before
// the node was booted, while that is to be doubted: such a pod is one whose address is not
// known yet.
func reducePodSince(boot time.Time, doubt func() bool) func(o any) (any, error) {
	return func(o any) (any, error) {
		p, ok := o.(*corev1.Pod)
		if !ok {
			return o, nil
		}
		reduced := reducePod(p)
		switch {
		case !doubt():
		case reportedSince(boot, p):
			// It is found again where an object comes here a second time, as client-go
			// wants to be free to do.
			reduced.Status.StartTime = &metav1.Time{Time: boot}
		default:
			reduced.Status.PodIP, reduced.Status.PodIPs = "", nil
		}
		return reduced, nil
	}
}
