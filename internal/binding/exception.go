package binding

import (
	"cmp"
	"strings"

	v1 "github.com/aad-pod-identity/aad-pod-identity/api/v1"
)

// Exception returns the exception of the pod's namespace that matches the pod,
// or nil. One pair of podLabels is enough, its value compared ignoring case, as
// in the 1.8 releases. Of several, the first by name is returned, so that logs
// do not change from one request to the next.
func Exception(podNamespace string, podLabels map[string]string, all []*v1.AzurePodIdentityException) *v1.AzurePodIdentityException {
	var found *v1.AzurePodIdentityException
	for _, e := range all {
		if e.Namespace != podNamespace || !anyPair(podLabels, e.Spec.PodLabels) {
			continue
		}
		if found == nil || cmp.Compare(e.Name, found.Name) < 0 {
			found = e
		}
	}
	return found
}

func anyPair(have, want map[string]string) bool {
	for k, v := range want {
		if got, ok := have[k]; ok && strings.EqualFold(got, v) {
			return true
		}
	}
	return false
}
