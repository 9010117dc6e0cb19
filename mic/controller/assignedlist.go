package controller

import (
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	v1 "github.com/aad-pod-identity/aad-pod-identity/api/v1"
)

// assignedList is MIC's v1.AzureAssignedIdentityList, of pointers: a list read from the
// cache has the cached objects themselves, which nobody may change, and no copies. A new
// leader looks at all VMs and scale sets at once, and so at all assigned identities.
type assignedList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`

	Items []*v1.AzureAssignedIdentity `json:"items"`
}

// DeepCopyObject implements runtime.Object.
func (l *assignedList) DeepCopyObject() runtime.Object {
	c := &assignedList{TypeMeta: l.TypeMeta, Items: slices.Clone(l.Items)}
	l.DeepCopyInto(&c.ListMeta)
	for i, a := range c.Items {
		c.Items[i] = a.DeepCopy()
	}
	return c
}
