package controller

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/record"

	v1 "github.com/aad-pod-identity/aad-pod-identity/api/v1"
)

// EventComponent is the source of MIC's events, as in the 1.8 releases.
const EventComponent = "aadpodidentity.k8s.io"

// Reasons of events. They are those of the 1.8 releases, which scripts look for.
const (
	eventApplied     = "binding applied"
	eventApplyError  = "binding apply error"
	eventRemoveError = "binding remove error"
	eventRemoved     = "binding removed"
	eventStatusError = "status update error"
	eventIgnored     = "identity ignored"
)

// events writes events about an assigned identity to those whom it concerns.
type events struct{ recorder record.EventRecorder }

// applied says that the identity is on the node.
func (e events) applied(a *v1.AzureAssignedIdentity) {
	id := a.Spec.AzureIdentityRef
	e.both(a, corev1.EventTypeNormal, eventApplied,
		fmt.Sprintf("AzureIdentity %s/%s assigned to node %s for pod %s/%s", id.Namespace, id.Name, a.Spec.NodeName, a.Spec.PodNamespace, a.Spec.Pod))
}

// applyError says why the identity is not on the node.
func (e events) applyError(a *v1.AzureAssignedIdentity, why string) {
	id := a.Spec.AzureIdentityRef
	e.both(a, corev1.EventTypeWarning, eventApplyError,
		fmt.Sprintf("AzureIdentity %s/%s not assigned to node %s for pod %s/%s: %s", id.Namespace, id.Name, a.Spec.NodeName, a.Spec.PodNamespace, a.Spec.Pod, why))
}

// removeError says why the identity is still on the node.
func (e events) removeError(a *v1.AzureAssignedIdentity, why string) {
	e.binding(a, corev1.EventTypeWarning, eventRemoveError,
		fmt.Sprintf("AzureAssignedIdentity %s/%s: identity not removed from node %s: %s", a.Namespace, a.Name, a.Spec.NodeName, why))
}

// removedWithNode says that there is no node left to remove the identity from.
func (e events) removedWithNode(a *v1.AzureAssignedIdentity) {
	e.binding(a, corev1.EventTypeNormal, eventRemoved,
		fmt.Sprintf("AzureAssignedIdentity %s/%s removed, node %s does not exist", a.Namespace, a.Name, a.Spec.NodeName))
}

// notReady says why a pod is kept from being Ready.
func (e events) notReady(p *corev1.Pod, reason, message string) {
	e.recorder.Event(podReference(p.Namespace, p.Name, p.UID), corev1.EventTypeWarning, reason, message)
}

// statusError says that the object could not be written.
func (e events) statusError(a *v1.AzureAssignedIdentity, err error) {
	e.recorder.Event(a, corev1.EventTypeWarning, eventStatusError, err.Error())
}

// notAllowed says why a binding gives a pod nothing, or nothing new.
func (e events) notAllowed(b *v1.AzureIdentityBinding, pod *corev1.Pod, why string) {
	e.recorder.Event(bindingReference(b.Namespace, b.Name, b.UID), corev1.EventTypeWarning, eventApplyError, why)
	e.recorder.Event(podReference(pod.Namespace, pod.Name, pod.UID), corev1.EventTypeWarning, eventApplyError, why)
}

// ignored says why an identity is not used.
func (e events) ignored(id *v1.AzureIdentity, why string) {
	e.recorder.Event(id, corev1.EventTypeWarning, eventIgnored, why)
}

// both addresses those who wrote the binding and those who run the pod.
func (e events) both(a *v1.AzureAssignedIdentity, kind, reason, message string) {
	e.binding(a, kind, reason, message)
	e.recorder.Event(podReference(a.Spec.PodNamespace, a.Spec.Pod, types.UID(a.Annotations[v1.PodUIDAnnotationKey])), kind, reason, message)
}

func (e events) binding(a *v1.AzureAssignedIdentity, kind, reason, message string) {
	b := a.Spec.AzureBindingRef
	if b == nil {
		return
	}
	e.recorder.Event(bindingReference(b.Namespace, b.Name, b.UID), kind, reason, message)
}

// The objects that events are about. Neither needs to be at hand as a whole: an
// assigned identity knows its pod by name and UID.

func podReference(namespace, name string, uid types.UID) *corev1.ObjectReference {
	return &corev1.ObjectReference{APIVersion: "v1", Kind: "Pod", Namespace: namespace, Name: name, UID: uid}
}

func bindingReference(namespace, name string, uid types.UID) *corev1.ObjectReference {
	return &corev1.ObjectReference{APIVersion: v1.GroupVersion.String(), Kind: v1.KindAzureIdentityBinding, Namespace: namespace, Name: name, UID: uid}
}
