package controller

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"

	v1 "github.com/aad-pod-identity/aad-pod-identity/api/v1"
)

// specNames are the names of the fields of a kind's spec that releases before 1.6.0
// may have stored in another capitalisation: they took any, and their manuals showed
// ResourceID, ClientID, Selector, PodLabels and the like.
func specNames(kind string) []string {
	switch kind {
	case v1.KindAzureIdentity:
		return []string{"type", "resourceID", "clientID", "clientPassword", "tenantID", "auxiliaryTenantIDs", "adResourceID", "adEndpoint", "replicas"}
	case v1.KindAzureIdentityBinding:
		return []string{"azureIdentity", "selector", "weight"}
	case v1.KindAzurePodIdentityException:
		return []string{"podLabels"}
	}
	return nil
}

// mendSpec puts the capitalisation of the names in a spec right, in place, and
// reports whether that was a change. If a field is there in two capitalisations with
// different values nobody can tell which is meant: these are returned, and the spec
// is to be left as it was.
func mendSpec(kind string, spec map[string]any) (changed bool, conflicts []string) {
	changed, conflicts = mendNames(spec, "spec", specNames(kind))
	if password, ok := spec["clientPassword"].(map[string]any); ok && kind == v1.KindAzureIdentity {
		c, more := mendNames(password, "spec.clientPassword", []string{"name", "namespace"})
		changed, conflicts = changed || c, append(conflicts, more...)
	}
	return changed, conflicts
}

func mendNames(object map[string]any, path string, names []string) (changed bool, conflicts []string) {
	for _, name := range slices.Sorted(maps.Keys(object)) {
		i := slices.IndexFunc(names, func(n string) bool { return n != name && strings.EqualFold(n, name) })
		if i < 0 {
			continue
		}
		right := names[i]
		if value, both := object[right]; both && !reflect.DeepEqual(value, object[name]) {
			conflicts = append(conflicts, fmt.Sprintf("%s has %s and %s with different values", path, name, right))
			continue
		}
		object[right] = object[name]
		delete(object, name)
		changed = true
	}
	return changed, conflicts
}
