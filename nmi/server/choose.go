package server

import (
	v1 "github.com/aad-pod-identity/aad-pod-identity/api/v1"
	"github.com/aad-pod-identity/aad-pod-identity/internal/binding"
	"github.com/aad-pod-identity/aad-pod-identity/nmi/podindex"
)

// progress is how far the assignment of what a pod asks for has come.
type progress int

const (
	progressNone     progress = iota // no AzureAssignedIdentity
	progressCreated                  // MIC is at work
	progressAssigned                 // the identity can be used
)

// choice is the decision about a request.
type choice struct {
	progress progress
	identity *v1.AzureIdentity // set when assigned
	// refused is why an AzureAssignedIdentity for the pod does not count; empty
	// when there is none such.
	refused string
}

// choose decides which identity a pod gets: of those assigned to it that it may
// use now and that the selector selects, the first in binding order. In the managed
// mode there is nothing to wait for: a binding is enough. It is pure.
func choose(v podindex.View, s selector, forceNamespaced bool) choice {
	var c choice
	if v.Managed {
		for _, id := range v.Bound {
			if s.selects(id) {
				return choice{progress: progressAssigned, identity: id}
			}
		}
		return c
	}
	for _, a := range v.Assigned {
		if why := mayUse(v.Pod, a, forceNamespaced); why != "" {
			c.refused = why
			continue
		}
		id := a.Spec.AzureIdentityRef
		if !s.selects(id) {
			continue
		}
		switch a.Status.Status {
		case v1.AssignedIDAssigned, "": // the first releases wrote no status
			return choice{progress: progressAssigned, identity: id}
		case v1.AssignedIDCreated:
			c.progress = progressCreated
		}
	}
	return c
}

// mayUse says why the pod may not use an assigned identity, or "". What MIC wrote
// about a pod holds for that very pod and as long as its label has not changed:
// MIC takes a moment to withdraw it.
func mayUse(pod *podindex.Pod, a *v1.AzureAssignedIdentity, forceNamespaced bool) string {
	label := pod.Labels[v1.BindingLabelKey]
	switch uid := a.Annotations[v1.PodUIDAnnotationKey]; {
	case a.Spec.AzureIdentityRef == nil || a.Spec.AzureBindingRef == nil:
		return "it lacks the copy of its identity or binding"
	case !a.DeletionTimestamp.IsZero():
		return "it is being deleted"
	case uid != "" && uid != string(pod.UID):
		return "it is of an earlier pod of the same name"
	case label == "" || label != a.Spec.AzureBindingRef.Spec.Selector:
		return "the pod's label is no longer the binding's selector"
	case binding.Namespaced(a.Spec.AzureIdentityRef, forceNamespaced) && a.Spec.AzureIdentityRef.Namespace != pod.Namespace:
		return "the identity is confined to pods of its namespace"
	}
	return ""
}
