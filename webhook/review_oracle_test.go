package main

import (
	"bytes"
	"encoding/json"
	"io"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"
)

// This is the rules of admission a second time, for the fuzz test: written from
// the documentation, with expressions and lists in place of Go types and tags, and
// with the standard library's decoder. What it refuses must not be admitted. It
// knows nothing of typing mistakes, since an unknown name is refused either way.

// Forms of values. The last group of oracleID holds the fixed segments apart.
var (
	oracleGUID      = regexp.MustCompile(`^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$`)
	oracleName      = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$`)
	oracleNamespace = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$`)
	oracleDomain    = regexp.MustCompile(`^([a-zA-Z0-9]([-a-zA-Z0-9]*[a-zA-Z0-9])?\.)+[a-zA-Z0-9]([-a-zA-Z0-9]*[a-zA-Z0-9])?$`)
	oracleLabel     = regexp.MustCompile(`^([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?$`)
	oracleURL       = regexp.MustCompile(`^[hH][tT][tT][pP][sS]://[^/?#@\s]+(/[^?#\s]*)?$`)
	oracleID        = regexp.MustCompile(`^/subscriptions/([^/]*)/(?:resourcegroups|resourceGroups)/([^/]*)/providers/Microsoft\.ManagedIdentity/userAssignedIdentities/([^/]*)$`)
	oracleIDAnyCase = regexp.MustCompile(`^/(?i:subscriptions)/([^/]*)/(?i:resourcegroups)/([^/]*)/(?i:providers)/(?i:Microsoft\.ManagedIdentity)/(?i:userAssignedIdentities)/([^/]*)$`)
	oracleGroup     = regexp.MustCompile(`^[-_().\p{L}\p{Nd}]*[-_()\p{L}\p{Nd}]$`)
	oracleIDName    = regexp.MustCompile(`^[A-Za-z0-9][-_A-Za-z0-9]{2,127}$`)
)

var oracleMetadata = strings.Fields("name generateName namespace selfLink uid resourceVersion generation creationTimestamp deletionTimestamp " +
	"deletionGracePeriodSeconds labels annotations ownerReferences finalizers managedFields")

// oracle judges objects. anyCase lets the fixed segments of a resource ID be
// written in any capitalisation.
type oracle struct{ anyCase bool }

// accepts judges a whole object.
func (o oracle) accepts(kind string, raw []byte) bool {
	object, ok := oracleDecode(raw)
	if !ok || oracleRepeats(raw) || !only(object, "apiVersion", "kind", "metadata", "spec", "status") {
		return false
	}
	spec, ok := object["spec"].(map[string]any)
	if _, there := object["spec"]; there && !ok {
		return false
	}
	return o.spec(kind, spec) && (kind != "AzureIdentity" || behaves(object))
}

func (o oracle) spec(kind string, spec map[string]any) bool {
	if metadata, there := spec["metadata"].(map[string]any); there && !only(metadata, oracleMetadata...) {
		return false
	}
	switch kind {
	case "AzureIdentity":
		return o.identity(spec)
	case "AzureIdentityBinding":
		return only(spec, "metadata", "azureIdentity", "selector", "weight") &&
			isName(spec["azureIdentity"]) && matches(oracleLabel, spec["selector"]) && spec["selector"] != ""
	case "AzurePodIdentityException":
		labels, ok := spec["podLabels"].(map[string]any)
		for _, value := range labels {
			ok = ok && matches(oracleLabel, value)
		}
		return ok && len(labels) > 0 && only(spec, "metadata", "podLabels")
	case "AzureAssignedIdentity":
		filled := func(name string) bool { s, ok := spec[name].(string); return ok && s != "" }
		return only(spec, "metadata", "azureIdentityRef", "azureBindingRef", "pod", "podNamespace", "nodename", "replicas") &&
			filled("pod") && filled("podNamespace") && filled("nodename")
	}
	return false
}

func (o oracle) identity(spec map[string]any) bool {
	if !only(spec, "metadata", "type", "resourceID", "clientID", "clientPassword", "tenantID", "auxiliaryTenantIDs", "adResourceID", "adEndpoint", "replicas") {
		return false
	}
	password, ok := spec["clientPassword"].(map[string]any)
	if _, there := spec["clientPassword"]; there && !ok || !only(password, "name", "namespace") {
		return false
	}
	kind := 0.0
	if value, there := spec["type"]; there {
		if kind, ok = value.(float64); !ok {
			return false
		}
	}
	for _, tenant := range list(spec["auxiliaryTenantIDs"]) {
		if !isTenant(tenant) {
			return false
		}
	}
	if !optional(spec["clientID"], func(v any) bool { return matches(oracleGUID, v) }) || !optional(spec["tenantID"], isTenant) ||
		!optional(spec["adEndpoint"], func(v any) bool { return matches(oracleURL, v) }) {
		return false
	}
	given := func(v any) bool { s, ok := v.(string); return ok && s != "" }
	switch kind {
	case 0:
		return given(spec["clientID"]) && o.resourceID(spec["resourceID"])
	case 1, 2:
		namespace, _ := password["namespace"].(string)
		return given(spec["clientID"]) && given(spec["tenantID"]) && isName(password["name"]) && oracleNamespace.MatchString(namespace)
	}
	return false
}

func (o oracle) resourceID(v any) bool {
	form := oracleID
	if o.anyCase {
		form = oracleIDAnyCase
	}
	id, _ := v.(string)
	m := form.FindStringSubmatch(id)
	// Go's (?i) also takes two letters outside ASCII for letters of it.
	return m != nil && !strings.ContainsAny(id, "\u017f\u212a") && oracleGUID.MatchString(m[1]) &&
		oracleGroup.MatchString(m[2]) && utf8.RuneCountInString(m[2]) <= 90 && oracleIDName.MatchString(m[3])
}

// behaves judges the annotation Behavior.
func behaves(object map[string]any) bool {
	metadata, _ := object["metadata"].(map[string]any)
	annotations, _ := metadata["annotations"].(map[string]any)
	for key, value := range annotations {
		if strings.EqualFold(key, "aadpodidentity.k8s.io/Behavior") && (key != "aadpodidentity.k8s.io/Behavior" || value != "namespaced") {
			return false
		}
	}
	return true
}

func only(object map[string]any, names ...string) bool {
	for name := range object {
		if !slices.Contains(names, name) {
			return false
		}
	}
	return true
}

func matches(form *regexp.Regexp, v any) bool {
	s, ok := v.(string)
	return ok && form.MatchString(s)
}

func isName(v any) bool {
	s, ok := v.(string)
	return ok && len(s) <= 253 && oracleName.MatchString(s)
}

func isTenant(v any) bool {
	s, _ := v.(string)
	return oracleGUID.MatchString(s) || len(s) <= 253 && oracleDomain.MatchString(s)
}

func optional(v any, good func(any) bool) bool {
	return v == nil || v == "" || good(v)
}

func list(v any) []any {
	l, _ := v.([]any)
	return l
}

func oracleDecode(raw []byte) (map[string]any, bool) {
	var object map[string]any
	err := json.Unmarshal(raw, &object)
	return object, err == nil && object != nil
}

// oracleRepeats reports whether a field is there twice.
func oracleRepeats(raw []byte) bool {
	decoder := json.NewDecoder(bytes.NewReader(raw))
	type level struct {
		seen map[string]bool // nil for a list
		key  bool            // the next token is a key
	}
	var levels []level
	for {
		token, err := decoder.Token()
		if err == io.EOF || err != nil {
			return false
		}
		if top := len(levels) - 1; top >= 0 && levels[top].seen != nil {
			if key, isKey := token.(string); levels[top].key && isKey {
				if levels[top].seen[key] {
					return true
				}
				levels[top].seen[key], levels[top].key = true, false
				continue
			}
			levels[top].key = true
		}
		switch token {
		case json.Delim('{'):
			levels = append(levels, level{seen: map[string]bool{}, key: true})
		case json.Delim('['):
			levels = append(levels, level{})
		case json.Delim('}'), json.Delim(']'):
			levels = levels[:len(levels)-1]
		}
	}
}

// oracleChanged reports which parts of an object an update changes.
func oracleChanged(before, after []byte) (spec, behavior bool) {
	a, _ := oracleDecode(before)
	b, _ := oracleDecode(after)
	behaviorOf := func(object map[string]any) map[string]any {
		found := map[string]any{}
		metadata, _ := object["metadata"].(map[string]any)
		annotations, _ := metadata["annotations"].(map[string]any)
		for key, value := range annotations {
			if strings.EqualFold(key, "aadpodidentity.k8s.io/Behavior") {
				found[key] = value
			}
		}
		return found
	}
	return !reflect.DeepEqual(pruned(a["spec"]), pruned(b["spec"])), !reflect.DeepEqual(behaviorOf(a), behaviorOf(b))
}

// pruned is a value without its fields that are null.
func pruned(v any) any {
	object, ok := v.(map[string]any)
	if !ok {
		return v
	}
	kept := map[string]any{}
	for name, value := range object {
		if value != nil {
			kept[name] = pruned(value)
		}
	}
	return kept
}
