package controller

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	v1 "github.com/aad-pod-identity/aad-pod-identity/api/v1"
)

func validID(change ...func(*v1.AzureIdentity)) *v1.AzureIdentity {
	id := &v1.AzureIdentity{ObjectMeta: metav1.ObjectMeta{Namespace: "team", Name: "demo"}, Spec: v1.AzureIdentitySpec{ResourceID: verdictID}}
	for _, c := range change {
		c(id)
	}
	return id
}

func told(claims []claim) string {
	var parts []string
	for _, c := range claims {
		parts = append(parts, fmt.Sprintf("%s=%v %s", c.kind, c.holds, c.reason))
	}
	return strings.Join(parts, ", ")
}

func TestIdentityClaims(t *testing.T) {
	for name, test := range map[string]struct {
		id    *v1.AzureIdentity
		inUse bool
		want  string
	}{
		"a valid one that a pod has": {validID(), true, "Valid=true Valid, InUse=true InUse"},
		"one that no pod has":        {validID(), false, "Valid=true Valid, InUse=false NotInUse"},
		"one that breaks a rule": {
			validID(func(id *v1.AzureIdentity) { id.Spec.ResourceID = "nonsense" }), false,
			"Valid=false IdentityInvalid, InUse=false NotInUse",
		},
		"one that was broken while pods have it": {
			validID(func(id *v1.AzureIdentity) { id.Spec.Type = 7 }), true, "Valid=false IdentityInvalid, InUse=true InUse",
		},
	} {
		t.Run(name, func(t *testing.T) {
			if got := told(identityClaims(test.id, test.inUse)); got != test.want {
				t.Errorf("%s, want %s", got, test.want)
			}
		})
	}
}

func TestBindingClaims(t *testing.T) {
	confined := func(id *v1.AzureIdentity) {
		id.Annotations = map[string]string{v1.BehaviorAnnotationKey: v1.BehaviorNamespaced}
	}
	going := func(id *v1.AzureIdentity) {
		now := metav1.Now()
		id.DeletionTimestamp = &now
	}
	broken := func(id *v1.AzureIdentity) { id.Spec.ResourceID = "" }
	for name, test := range map[string]struct {
		id       *v1.AzureIdentity
		selector string
		pods     podsSeen
		force    bool
		want     string
	}{
		"an identity and pods":        {validID(), "web", podsSeen{own: true, others: true}, false, "Resolved=true Resolved, PodsMatched=true PodsMatched"},
		"pods of another namespace":   {validID(), "web", podsSeen{others: true}, false, "Resolved=true Resolved, PodsMatched=true PodsMatched"},
		"no pods":                     {validID(), "web", podsSeen{}, false, "Resolved=true Resolved, PodsMatched=false NoPodsMatched"},
		"no selector":                 {validID(), "", podsSeen{}, false, "Resolved=true Resolved, PodsMatched=false NoPodsMatched"},
		"an identity that is missing": {nil, "web", podsSeen{own: true, others: true}, false, "Resolved=false IdentityNotFound, PodsMatched=true PodsMatched"},
		"an identity that goes":       {validID(going), "web", podsSeen{}, false, "Resolved=false IdentityNotFound, PodsMatched=false NoPodsMatched"},
		"an identity that is invalid": {validID(broken), "web", podsSeen{}, false, "Resolved=false IdentityInvalid, PodsMatched=false NoPodsMatched"},
		"a confined identity and pods of other namespaces": {
			validID(confined), "web", podsSeen{others: true}, false, "Resolved=true Resolved, PodsMatched=false PodsInOtherNamespaces",
		},
		"all identities confined and pods of other namespaces": {
			validID(), "web", podsSeen{others: true}, true, "Resolved=true Resolved, PodsMatched=false PodsInOtherNamespaces",
		},
		"a confined identity and pods of its namespace": {
			validID(confined), "web", podsSeen{own: true, others: true}, false, "Resolved=true Resolved, PodsMatched=true PodsMatched",
		},
	} {
		t.Run(name, func(t *testing.T) {
			b := &v1.AzureIdentityBinding{ObjectMeta: metav1.ObjectMeta{Namespace: "team", Name: "b"}, Spec: v1.AzureIdentityBindingSpec{AzureIdentity: "demo", Selector: test.selector}}
			claims := bindingClaims(b, test.id, test.pods, test.force)
			if got := told(claims); got != test.want {
				t.Errorf("%s, want %s", got, test.want)
			}
		})
	}
}

func TestConditionsAreWrittenOnce(t *testing.T) {
	then := time.Unix(1000, 0)
	claims := identityClaims(validID(), false)
	first, changed := conditions([]metav1.Condition{{Type: "Theirs", Status: metav1.ConditionTrue}}, 3, claims, then)
	if !changed || len(first) != 3 || first[0].Type != "Theirs" {
		t.Fatalf("%v %+v", changed, first)
	}
	if first[1].ObservedGeneration != 3 || !first[1].LastTransitionTime.Time.Equal(then) {
		t.Errorf("%+v", first[1])
	}
	if again, changed := conditions(first, 3, claims, then.Add(time.Hour)); changed || !slices.Equal(again, first) {
		t.Errorf("the same claims are a change: %+v", again)
	}
	later, changed := conditions(first, 4, claims, then.Add(time.Hour))
	if !changed || later[1].ObservedGeneration != 4 || !later[1].LastTransitionTime.Time.Equal(then) {
		t.Errorf("another generation: %v %+v", changed, later)
	}
}

// What the upgrade said of misspelt names, which nobody else sees, stays until the
// spec is another.
func TestFieldNamesAreRemembered(t *testing.T) {
	broken := validID(func(id *v1.AzureIdentity) { id.Spec.ResourceID = "" })
	old := []metav1.Condition{{Type: v1.ConditionValid, Status: metav1.ConditionFalse, Reason: v1.ReasonFieldNamesConflict, Message: "ResourceID", ObservedGeneration: 3}}
	same, _ := conditions(old, 3, identityClaims(broken, false), time.Now())
	if same[0].Reason != v1.ReasonFieldNamesConflict || same[0].Message != "ResourceID" || same[0].Status != metav1.ConditionFalse {
		t.Errorf("%+v", same[0])
	}
	if usable, _ := conditions(old, 3, identityClaims(validID(), false), time.Now()); usable[0].Status != metav1.ConditionTrue {
		t.Errorf("what can be used is Valid all the same: %+v", usable[0])
	}
	if next, _ := conditions(old, 4, identityClaims(broken, false), time.Now()); next[0].Reason != v1.ReasonIdentityInvalid {
		t.Errorf("of another spec: %+v", next[0])
	}
}
