package validation

import (
	"fmt"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation/field"

	v1 "github.com/aad-pod-identity/aad-pod-identity/api/v1"
	"github.com/aad-pod-identity/aad-pod-identity/internal/spelling"
)

// meansBehavior reports whether an annotation is the one that confines an
// identity to its namespace, or is likely meant as it: one slip there would give
// the identity to all namespaces.
func meansBehavior(key string) bool {
	if strings.EqualFold(key, v1.BehaviorAnnotationKey) || spelling.IsTypo(key, v1.BehaviorAnnotationKey) {
		return true
	}
	// The domain was not remembered well.
	domain, name, found := strings.Cut(key, "/")
	_, want, _ := strings.Cut(v1.BehaviorAnnotationKey, "/")
	return found && spelling.IsTypo(name, want) && strings.HasPrefix(strings.ToLower(domain), "aadpodid")
}

// behaviorFindings judges the annotations that are meant as Behavior.
func behaviorFindings(annotations map[string]any) field.ErrorList {
	var meant []string
	for key := range annotations {
		if meansBehavior(key) {
			meant = append(meant, key)
		}
	}
	slices.Sort(meant)
	var findings field.ErrorList
	for _, key := range meant {
		path := field.NewPath("metadata", "annotations").Key(key)
		switch {
		case key == v1.BehaviorAnnotationKey:
		case strings.EqualFold(key, v1.BehaviorAnnotationKey):
			findings = append(findings, field.Forbidden(path, fmt.Sprintf("miscapitalised, use %q", v1.BehaviorAnnotationKey)).WithOrigin(RuleBehaviorKeyMiscapitalised))
		default:
			findings = append(findings, field.Forbidden(path, fmt.Sprintf("unknown annotation, did you mean %q?", v1.BehaviorAnnotationKey)).WithOrigin(RuleBehaviorKeyMisspelt))
		}
		// A value that is no string was refused as such.
		value, ok := annotations[key].(string)
		switch {
		case !ok || value == v1.BehaviorNamespaced:
		case strings.EqualFold(value, v1.BehaviorNamespaced):
			findings = append(findings, field.Invalid(path, value, fmt.Sprintf("miscapitalised, use %q", v1.BehaviorNamespaced)).WithOrigin(RuleBehaviorValue))
		default:
			findings = append(findings, field.Invalid(path, value, fmt.Sprintf("must be %q, which confines the identity to pods of its own namespace; remove the annotation if that is not wanted", v1.BehaviorNamespaced)).WithOrigin(RuleBehaviorValue))
		}
	}
	return findings
}

// annotationsOf returns the annotations of an object; nil if they are none.
func annotationsOf(object map[string]any) map[string]any {
	metadata, _ := object["metadata"].(map[string]any)
	annotations, _ := metadata["annotations"].(map[string]any)
	return annotations
}
