package assign

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation"

	v1 "github.com/aad-pod-identity/aad-pod-identity/api/v1"
)

// Key identifies an AzureAssignedIdentity: a pod and an identity. Its name does
// not: pod a-b in namespace c and pod a in namespace b-c would get the same.
type Key struct {
	PodNamespace, Pod           string
	IdentityNamespace, Identity string
}

// KeyOf returns the key of an AzureAssignedIdentity. One without an identity,
// which only a damaged object lacks, has an empty identity.
func KeyOf(a *v1.AzureAssignedIdentity) Key {
	k := Key{PodNamespace: a.Spec.PodNamespace, Pod: a.Spec.Pod}
	if id := a.Spec.AzureIdentityRef; id != nil {
		k.IdentityNamespace, k.Identity = id.Namespace, id.Name
	}
	return k
}

// Name returns the name that people expect: pod, namespace of the pod,
// identity.
func (k Key) Name() string { return k.Pod + "-" + k.PodNamespace + "-" + k.Identity }

// UniqueName returns a name that no other key has: the expected one, shortened
// if need be, and a hash of the key.
func (k Key) UniqueName() string {
	const hashLen = 10
	sum := sha256.Sum256([]byte(strings.Join([]string{k.PodNamespace, k.Pod, k.IdentityNamespace, k.Identity}, "/")))
	head := k.Name()
	if limit := validation.DNS1123SubdomainMaxLength - hashLen - 1; len(head) > limit {
		head = strings.TrimRight(head[:limit], "-.")
	}
	return head + "-" + hex.EncodeToString(sum[:])[:hashLen]
}

// name chooses the name for a new object: the expected one unless it is too
// long or belongs to another key.
func (k Key) name(namespace string, taken func(namespace, name string) bool) string {
	name := k.Name()
	if len(name) > validation.DNS1123SubdomainMaxLength || (taken != nil && taken(namespace, name)) {
		return k.UniqueName()
	}
	return name
}
