package podindex

import (
	"net/netip"
	"slices"
	"strings"
	"time"
	"unicode"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	v1 "github.com/aad-pod-identity/aad-pod-identity/api/v1"
)

// Pod is what NMI needs to know about a pod. It is immutable.
type Pod struct {
	Namespace, Name string
	UID             types.UID
	ServiceAccount  string
	Labels          map[string]string
	// Resources are what the pod says it will want tokens for.
	Resources []string
	// HostNetwork pods share the node's address and never match by it.
	HostNetwork bool
	// Live is false once all containers have ended for good.
	Live bool
	// IPs of the pod, of both families; none before its sandbox is reported.
	IPs []netip.Addr
	// Deadline is when a terminating pod is killed at the latest; zero while the
	// pod is not terminating.
	Deadline time.Time
}

// Key is the namespaced name.
func (p *Pod) Key() types.NamespacedName {
	return types.NamespacedName{Namespace: p.Namespace, Name: p.Name}
}

// String is namespace/name.
func (p *Pod) String() string { return p.Namespace + "/" + p.Name }

// NewPod takes from a Pod object what NMI needs.
func NewPod(o *corev1.Pod) *Pod {
	p := &Pod{
		Namespace:      o.Namespace,
		Name:           o.Name,
		UID:            o.UID,
		ServiceAccount: o.Spec.ServiceAccountName,
		Labels:         o.Labels,
		Resources:      resources(o.Annotations[v1.ResourcesAnnotationKey]),
		HostNetwork:    o.Spec.HostNetwork,
		Live:           live(o),
	}
	if o.DeletionTimestamp != nil {
		// The API server sets it to the end of the grace period.
		p.Deadline = o.DeletionTimestamp.Time
	}
	for _, s := range append([]corev1.PodIP{{IP: o.Status.PodIP}}, o.Status.PodIPs...) {
		ip, err := netip.ParseAddr(s.IP)
		if err != nil || s.IP == o.Status.HostIP || contains(p.IPs, ip.Unmap()) {
			continue // not reported yet, the node's own, or listed twice
		}
		p.IPs = append(p.IPs, ip.Unmap())
	}
	return p
}

// maxResources bounds what a pod can have prefetched.
const maxResources = 8

// resources reads the list in a pod's annotation.
func resources(list string) []string {
	var found []string
	for _, r := range strings.FieldsFunc(list, func(r rune) bool { return r == ',' || unicode.IsSpace(r) }) {
		if len(found) == maxResources {
			break
		}
		if !slices.Contains(found, r) {
			found = append(found, r)
		}
	}
	return found
}

// live says whether the pod may still have a running process.
func live(o *corev1.Pod) bool {
	switch o.Status.Phase {
	case corev1.PodPending, corev1.PodRunning:
	default:
		return false
	}
	if o.DeletionTimestamp == nil || len(o.Status.ContainerStatuses) == 0 {
		return true
	}
	// The phase of a terminating pod lags behind its containers. Init containers have
	// ended or run on as sidecars.
	for _, c := range slices.Concat(o.Status.ContainerStatuses, o.Status.InitContainerStatuses) {
		if c.State.Terminated == nil {
			return true
		}
	}
	return false
}

// starting says whether the pod may have an address, or be going to get one, that is
// not reported yet. One that is deleted already may, too: it runs until it is killed.
func (p *Pod) starting() bool {
	return p.Live && !p.HostNetwork && len(p.IPs) == 0
}

// shares says whether two pods report one address.
func (p *Pod) shares(o *Pod) bool {
	return !p.HostNetwork && !o.HostNetwork && slices.ContainsFunc(p.IPs, func(ip netip.Addr) bool { return contains(o.IPs, ip) })
}

func contains(ips []netip.Addr, ip netip.Addr) bool {
	for _, i := range ips {
		if i == ip {
			return true
		}
	}
	return false
}
