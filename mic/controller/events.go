package controller

import (
	"context"
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	lru "k8s.io/apimachinery/pkg/util/cache"
	"k8s.io/client-go/tools/record"
	"k8s.io/klog/v2"

	v1 "github.com/aad-pod-identity/aad-pod-identity/api/v1"
	"github.com/aad-pod-identity/aad-pod-identity/internal/logkey"
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

// Bounds of the memory of events. The API server keeps an event for an hour, so one
// that goes on being true is there all the time if it is written twice in that.
const (
	maxEvents   = 20_000
	eventRepeat = 30 * time.Minute
)

// events writes events about an assigned identity to those whom it concerns. What
// was last said to somebody about a thing is not said again for a while: a target is
// looked at, and an identity that Azure refuses tried, again and again.
type events struct {
	recorder record.EventRecorder
	recent   *lru.LRUExpireCache
}

func newEvents(recorder record.EventRecorder) events {
	return events{recorder: recorder, recent: lru.NewLRUExpireCache(maxEvents)}
}

// recently is a key of events.recent.
type recently struct {
	to    corev1.ObjectReference
	about types.NamespacedName
}

// write says something to an object about another, and reports whether that was new.
// Details are added to the message and make it no other one.
func (e events) write(to *corev1.ObjectReference, about types.NamespacedName, kind, reason, message string, details ...string) bool {
	key, text := recently{*to, about}, reason+": "+message
	if last, ok := e.recent.Get(key); ok && last == text {
		return false
	}
	e.recent.Add(key, text, eventRepeat)
	e.recorder.Event(to, kind, reason, message+strings.Join(details, ""))
	return true
}

// assigned says that the identity is on the node, in the log too.
func (e events) assigned(ctx context.Context, a *v1.AzureAssignedIdentity) {
	id := a.Spec.AzureIdentityRef
	klog.FromContext(ctx).Info(fmt.Sprintf("identity %s/%s has successfully been assigned to node %s", id.Namespace, id.Name, a.Spec.NodeName), logkey.Pod, podKey(a).String())
	e.both(a, corev1.EventTypeNormal, eventApplied,
		fmt.Sprintf("AzureIdentity %s/%s assigned to node %s for pod %s/%s", id.Namespace, id.Name, a.Spec.NodeName, a.Spec.PodNamespace, a.Spec.Pod))
}

// applyError says why the identity is not on the node. RequestID is ARM's, if it
// comes from there: it is another at every attempt.
func (e events) applyError(a *v1.AzureAssignedIdentity, why, requestID string) {
	id := a.Spec.AzureIdentityRef
	if requestID != "" {
		requestID = " (request " + requestID + ")"
	}
	e.both(a, corev1.EventTypeWarning, eventApplyError,
		fmt.Sprintf("AzureIdentity %s/%s not assigned to node %s for pod %s/%s: %s", id.Namespace, id.Name, a.Spec.NodeName, a.Spec.PodNamespace, a.Spec.Pod, why), requestID)
	// Many pods may have it, and what is wrong with it is one thing.
	e.write(identityReference(id), types.NamespacedName{}, corev1.EventTypeWarning, eventApplyError, "not assigned: "+why, requestID)
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
	e.write(podReference(p.Namespace, p.Name, p.UID), types.NamespacedName{}, corev1.EventTypeWarning, reason, message)
}

// statusError says that the object could not be written.
func (e events) statusError(a *v1.AzureAssignedIdentity, err error) {
	to := &corev1.ObjectReference{APIVersion: v1.GroupVersion.String(), Kind: v1.KindAzureAssignedIdentity, Namespace: a.Namespace, Name: a.Name, UID: a.UID}
	e.write(to, types.NamespacedName{}, corev1.EventTypeWarning, eventStatusError, err.Error())
}

// notApplied says why a binding gives a pod nothing, or nothing new, and reports
// whether that was new.
func (e events) notApplied(b *v1.AzureIdentityBinding, pod *corev1.Pod, why string) bool {
	about := types.NamespacedName{Namespace: pod.Namespace, Name: pod.Name}
	news := e.write(bindingReference(b.Namespace, b.Name, b.UID), about, corev1.EventTypeWarning, eventApplyError, why)
	about = types.NamespacedName{Namespace: b.Namespace, Name: b.Name}
	return e.write(podReference(pod.Namespace, pod.Name, pod.UID), about, corev1.EventTypeWarning, eventApplyError, why) || news
}

// ignored says why an identity is not used.
func (e events) ignored(id *v1.AzureIdentity, why string) {
	e.write(identityReference(id), types.NamespacedName{}, corev1.EventTypeWarning, eventIgnored, why)
}

// notUpgraded says why field names of an object stay as they are.
func (e events) notUpgraded(o *unstructured.Unstructured, reason, why string) {
	to := &corev1.ObjectReference{APIVersion: v1.GroupVersion.String(), Kind: o.GetKind(), Namespace: o.GetNamespace(), Name: o.GetName(), UID: o.GetUID()}
	e.write(to, types.NamespacedName{}, corev1.EventTypeWarning, reason, why)
}

// both addresses those who wrote the binding and those who run the pod.
func (e events) both(a *v1.AzureAssignedIdentity, kind, reason, message string, details ...string) {
	e.binding(a, kind, reason, message, details...)
	to := podReference(a.Spec.PodNamespace, a.Spec.Pod, types.UID(a.Annotations[v1.PodUIDAnnotationKey]))
	e.write(to, types.NamespacedName{Namespace: a.Namespace, Name: a.Name}, kind, reason, message, details...)
}

func (e events) binding(a *v1.AzureAssignedIdentity, kind, reason, message string, details ...string) {
	b := a.Spec.AzureBindingRef
	if b == nil {
		return
	}
	e.write(bindingReference(b.Namespace, b.Name, b.UID), types.NamespacedName{Namespace: a.Namespace, Name: a.Name}, kind, reason, message, details...)
}

// The objects that events are about. Neither needs to be at hand as a whole: an
// assigned identity knows its pod by name and UID.

func podReference(namespace, name string, uid types.UID) *corev1.ObjectReference {
	return &corev1.ObjectReference{APIVersion: "v1", Kind: "Pod", Namespace: namespace, Name: name, UID: uid}
}

func bindingReference(namespace, name string, uid types.UID) *corev1.ObjectReference {
	return &corev1.ObjectReference{APIVersion: v1.GroupVersion.String(), Kind: v1.KindAzureIdentityBinding, Namespace: namespace, Name: name, UID: uid}
}

func identityReference(id *v1.AzureIdentity) *corev1.ObjectReference {
	return &corev1.ObjectReference{APIVersion: v1.GroupVersion.String(), Kind: v1.KindAzureIdentity, Namespace: id.Namespace, Name: id.Name, UID: id.UID}
}
