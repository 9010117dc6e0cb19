package server

import (
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	v1 "github.com/aad-pod-identity/aad-pod-identity/api/v1"
	"github.com/aad-pod-identity/aad-pod-identity/nmi/podindex"
)

const (
	clientA   = "aaaaaaaa-0000-0000-0000-000000000000"
	resourceA = "/subscriptions/11111111-1111-1111-1111-111111111111/resourcegroups/rg/providers/Microsoft.ManagedIdentity/userAssignedIdentities/a"
)

// assignment is an AzureAssignedIdentity of the pod default/web with UID uid-1
// and label sel, to the identity of the given name in the namespace default.
func assignment(name, status string, opts ...func(*v1.AzureAssignedIdentity)) *v1.AzureAssignedIdentity {
	a := &v1.AzureAssignedIdentity{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: "default", Name: "web-default-" + name, Annotations: map[string]string{v1.PodUIDAnnotationKey: "uid-1"},
		},
		Spec: v1.AzureAssignedIdentitySpec{
			Pod: "web", PodNamespace: "default", NodeName: "node-1",
			AzureIdentityRef: &v1.AzureIdentity{
				ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name},
				Spec: v1.AzureIdentitySpec{
					ClientID:   name + "aaaaaaa-0000-0000-0000-000000000000",
					ResourceID: resourceA[:len(resourceA)-1] + name,
				},
			},
			AzureBindingRef: &v1.AzureIdentityBinding{
				ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name},
				Spec:       v1.AzureIdentityBindingSpec{AzureIdentity: name, Selector: "sel"},
			},
		},
		Status: v1.AzureAssignedIdentityStatus{Status: status},
	}
	for _, o := range opts {
		o(a)
	}
	return a
}

func TestChoose(t *testing.T) {
	const (
		created    = v1.AssignedIDCreated
		done       = v1.AssignedIDAssigned
		unassigned = v1.AssignedIDUnassigned
	)
	with := func(change func(*v1.AzureAssignedIdentity)) func(*v1.AzureAssignedIdentity) { return change }
	inOtherNamespace := with(func(a *v1.AzureAssignedIdentity) { a.Spec.AzureIdentityRef.Namespace = "other" })
	tests := map[string]struct {
		assigned []*v1.AzureAssignedIdentity
		selector selector
		label    string // default sel
		force    bool
		want     progress
		identity string
		refused  bool
	}{
		"nothing assigned":                  {want: progressNone},
		"the first in order is the default": {assigned: []*v1.AzureAssignedIdentity{assignment("a", done), assignment("b", done)}, want: progressAssigned, identity: "a"},
		"the first Assigned one is, not the first created": {
			assigned: []*v1.AzureAssignedIdentity{assignment("a", created), assignment("b", done)}, want: progressAssigned, identity: "b",
		},
		"only created":                      {assigned: []*v1.AzureAssignedIdentity{assignment("a", created)}, want: progressCreated},
		"no status, as the first releases":  {assigned: []*v1.AzureAssignedIdentity{assignment("a", "")}, want: progressAssigned, identity: "a"},
		"being unassigned":                  {assigned: []*v1.AzureAssignedIdentity{assignment("a", unassigned)}, want: progressNone},
		"an unknown status":                 {assigned: []*v1.AzureAssignedIdentity{assignment("a", "Sure")}, want: progressNone},
		"by client ID, ignoring case":       {assigned: []*v1.AzureAssignedIdentity{assignment("b", done), assignment("a", done)}, selector: selector{clientID: "AAAAAAAA-0000-0000-0000-000000000000"}, want: progressAssigned, identity: "a"},
		"by resource ID, ignoring case":     {assigned: []*v1.AzureAssignedIdentity{assignment("b", done), assignment("a", done)}, selector: selector{resourceID: "/SUBSCRIPTIONS/11111111-1111-1111-1111-111111111111/resourceGroups/RG/providers/microsoft.managedidentity/userassignedidentities/A"}, want: progressAssigned, identity: "a"},
		"by a client ID of another pod":     {assigned: []*v1.AzureAssignedIdentity{assignment("b", done)}, selector: selector{clientID: clientA}, want: progressNone},
		"the one asked for is not ready":    {assigned: []*v1.AzureAssignedIdentity{assignment("a", created), assignment("b", done)}, selector: selector{clientID: clientA}, want: progressCreated},
		"client and resource ID contradict": {assigned: []*v1.AzureAssignedIdentity{assignment("a", done), assignment("b", done)}, selector: selector{clientID: clientA, resourceID: resourceA[:len(resourceA)-1] + "b"}, want: progressNone},
		"part of a client ID is none":       {assigned: []*v1.AzureAssignedIdentity{assignment("a", done)}, selector: selector{clientID: "aaaaaaaa"}, want: progressNone},

		"of an earlier pod of the same name": {
			assigned: []*v1.AzureAssignedIdentity{assignment("a", done, with(func(a *v1.AzureAssignedIdentity) { a.Annotations[v1.PodUIDAnnotationKey] = "uid-0" }))}, want: progressNone, refused: true,
		},
		"without a pod UID, as 1.8 wrote": {
			assigned: []*v1.AzureAssignedIdentity{assignment("a", done, with(func(a *v1.AzureAssignedIdentity) { a.Annotations = nil }))}, want: progressAssigned, identity: "a",
		},
		"the pod's label was changed":      {assigned: []*v1.AzureAssignedIdentity{assignment("a", done)}, label: "other", want: progressNone, refused: true},
		"the label differs only by case":   {assigned: []*v1.AzureAssignedIdentity{assignment("a", done)}, label: "SEL", want: progressNone, refused: true},
		"the pod's label was removed":      {assigned: []*v1.AzureAssignedIdentity{assignment("a", done, with(func(a *v1.AzureAssignedIdentity) { a.Spec.AzureBindingRef.Spec.Selector = "" }))}, label: "-", want: progressNone, refused: true},
		"being deleted":                    {assigned: []*v1.AzureAssignedIdentity{assignment("a", done, with(func(a *v1.AzureAssignedIdentity) { a.DeletionTimestamp = &metav1.Time{Time: time.Now()} }))}, want: progressNone, refused: true},
		"without its copy of the identity": {assigned: []*v1.AzureAssignedIdentity{assignment("a", done, with(func(a *v1.AzureAssignedIdentity) { a.Spec.AzureIdentityRef = nil }))}, want: progressNone, refused: true},
		"without its copy of the binding":  {assigned: []*v1.AzureAssignedIdentity{assignment("a", done, with(func(a *v1.AzureAssignedIdentity) { a.Spec.AzureBindingRef = nil }))}, want: progressNone, refused: true},
		"of another namespace":             {assigned: []*v1.AzureAssignedIdentity{assignment("a", done, inOtherNamespace)}, want: progressAssigned, identity: "a"},
		"of another namespace, by flag":    {assigned: []*v1.AzureAssignedIdentity{assignment("a", done, inOtherNamespace)}, force: true, want: progressNone, refused: true},
		"of another namespace, by behavior": {assigned: []*v1.AzureAssignedIdentity{assignment("a", done, inOtherNamespace, with(func(a *v1.AzureAssignedIdentity) {
			a.Spec.AzureIdentityRef.Annotations = map[string]string{v1.BehaviorAnnotationKey: "namespaced"}
		}))}, want: progressNone, refused: true},
		"of its own namespace, by flag": {assigned: []*v1.AzureAssignedIdentity{assignment("a", done)}, force: true, want: progressAssigned, identity: "a"},
		"a refused one does not hide the next": {
			assigned: []*v1.AzureAssignedIdentity{assignment("a", done, inOtherNamespace), assignment("b", done)}, force: true, want: progressAssigned, identity: "b",
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			pod := &podindex.Pod{Namespace: "default", Name: "web", UID: "uid-1", Labels: map[string]string{v1.BindingLabelKey: "sel"}}
			switch tc.label {
			case "":
			case "-":
				pod.Labels = nil
			default:
				pod.Labels[v1.BindingLabelKey] = tc.label
			}
			c := choose(podindex.View{Pod: pod, Assigned: tc.assigned}, tc.selector, tc.force)
			got := ""
			if c.identity != nil {
				got = c.identity.Name
			}
			if c.progress != tc.want || got != tc.identity || (c.refused != "") != tc.refused {
				t.Errorf("progress %d, identity %q, refused %q", c.progress, got, c.refused)
			}
		})
	}
}
