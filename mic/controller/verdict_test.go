package controller

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	v1 "github.com/aad-pod-identity/aad-pod-identity/api/v1"
	"github.com/aad-pod-identity/aad-pod-identity/internal/azure/arm"
	"github.com/aad-pod-identity/aad-pod-identity/internal/resourceid"
	"github.com/aad-pod-identity/aad-pod-identity/mic/compute"
)

const verdictID = "/subscriptions/11111111-2222-3333-4444-555555555555/resourcegroups/rg/providers/Microsoft.ManagedIdentity/userAssignedIdentities/demo"

func assignedObject(status string, change ...func(*v1.AzureAssignedIdentity)) *v1.AzureAssignedIdentity {
	a := &v1.AzureAssignedIdentity{
		Spec:   v1.AzureAssignedIdentitySpec{AzureIdentityRef: &v1.AzureIdentity{Spec: v1.AzureIdentitySpec{ResourceID: verdictID}}},
		Status: v1.AzureAssignedIdentityStatus{Status: status},
	}
	for _, c := range change {
		c(a)
	}
	return a
}

func TestJudge(t *testing.T) {
	key := resourceid.Key(verdictID)
	failed := map[string]compute.Failure{key: {Code: "LinkedAuthorizationFailed", Message: "no role", RequestID: "r1", Fresh: true}}
	throttled := fmt.Errorf("reading: %w", &arm.Error{Kind: arm.Throttled, RetryAfter: 20 * time.Second})
	for name, test := range map[string]struct {
		object *v1.AzureAssignedIdentity
		result compute.Result
		err    error
		want   verdict
	}{
		"present":                              {assignedObject("Created"), compute.Result{Present: map[string]bool{key: true}}, nil, verdict{assigned: true, reason: "Assigned"}},
		"present although the pass failed":     {assignedObject("Created"), compute.Result{Present: map[string]bool{key: true}}, throttled, verdict{assigned: true, reason: "Assigned"}},
		"refused":                              {assignedObject("Created"), compute.Result{Failed: failed}, nil, verdict{reason: "AssignmentFailed", message: "LinkedAuthorizationFailed: no role", requestID: "r1", attempted: true}},
		"refused after it was assigned":        {assignedObject("Assigned"), compute.Result{Failed: failed}, nil, verdict{reason: "AssignmentFailed", message: "LinkedAuthorizationFailed: no role", requestID: "r1", attempted: true}},
		"throttled":                            {assignedObject("Created"), compute.Result{}, throttled, verdict{reason: "Throttled"}},
		"Azure fails":                          {assignedObject("Created"), compute.Result{}, errors.New("no route"), verdict{reason: "AssignmentFailed", message: "no route"}},
		"another update runs":                  {assignedObject("Created"), compute.Result{}, fmt.Errorf("x: %w", &arm.Error{Kind: arm.Conflict, RequestID: "r9"}), verdict{reason: "Pending", message: "waiting for another update of pool1"}},
		"MIC lacks a permission":               {assignedObject("Created"), compute.Result{}, fmt.Errorf("x: %w", &arm.Error{Kind: arm.Forbidden, Code: "AuthorizationFailed", Message: "no", RequestID: "r9"}), verdict{reason: "AssignmentFailed", message: "pool1: AuthorizationFailed: no", stable: "pool1: AuthorizationFailed: ", requestID: "r9"}},
		"Azure fails and it was assigned":      {assignedObject("Assigned"), compute.Result{}, errors.New("no route"), verdict{unknown: true}},
		"throttled and it was assigned":        {assignedObject("Assigned"), compute.Result{}, throttled, verdict{unknown: true}},
		"Azure fails and it has an old status": {assignedObject(""), compute.Result{}, errors.New("no route"), verdict{unknown: true}},
		"the target is gone":                   {assignedObject("Assigned"), compute.Result{Gone: true}, nil, verdict{reason: "TargetNotFound", message: "pool1 does not exist"}},
		"the target is being deleted":          {assignedObject("Created"), compute.Result{Deleting: true}, nil, verdict{reason: "TargetDeleting"}},
		"nothing happened yet":                 {assignedObject("Created"), compute.Result{}, nil, verdict{reason: "Pending"}},
		"a service principal": {assignedObject("Created", func(a *v1.AzureAssignedIdentity) {
			a.Spec.AzureIdentityRef.Spec.Type = v1.ServicePrincipal
		}), compute.Result{}, errors.New("no route"), verdict{assigned: true, reason: "Assigned"}},
		"a damaged object": {assignedObject("Created", func(a *v1.AzureAssignedIdentity) { a.Spec.AzureIdentityRef = nil }), compute.Result{}, nil, verdict{reason: "IdentityInvalid"}},
	} {
		t.Run(name, func(t *testing.T) {
			got := judge(test.object, "pool1", test.result, test.err)
			if test.want.message == "" {
				got.message = ""
			}
			if got != test.want {
				t.Errorf("verdict %+v, want %+v", got, test.want)
			}
		})
	}
}

func TestStatusIsWrittenOnChangeOnly(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC)
	later := now.Add(time.Hour)
	write := func(s v1.AzureAssignedIdentityStatus, v verdict, at time.Time) (v1.AzureAssignedIdentityStatus, bool) {
		return v.status(s, at)
	}
	refused := verdict{reason: v1.ReasonAssignmentFailed, message: "Code: text", requestID: "r1"}
	s, changed := write(v1.AzureAssignedIdentityStatus{Status: "Created", AvailableReplicas: 1}, refused, now)
	if c := s.Conditions[0]; !changed || s.Status != "Created" || c.Status != metav1.ConditionFalse || c.Message != "Code: text (request r1)" || c.ObservedGeneration != 0 {
		t.Fatalf("refused: %v %+v", changed, s)
	}
	if _, changed = write(s, refused, later); changed {
		t.Error("the same refusal is written twice")
	}
	again := refused
	again.requestID = "r2"
	if _, changed = write(s, again, later); changed {
		t.Error("another request ID alone is written")
	}
	other := verdict{reason: v1.ReasonAssignmentFailed, message: "Code: text and more"}
	if _, changed = write(s, other, later); !changed {
		t.Error("another message is not written")
	}
	assigned := verdict{assigned: true, reason: v1.ReasonAssigned, message: "assigned to pool1"}
	s, changed = write(s, assigned, later)
	if c := s.Conditions[0]; !changed || s.Status != "Assigned" || c.Status != metav1.ConditionTrue || !c.LastTransitionTime.Time.Equal(later.Truncate(time.Second)) || len(s.Conditions) != 1 {
		t.Fatalf("assigned: %v %+v", changed, s)
	}
	if _, changed = write(s, assigned, later); changed {
		t.Error("the same assignment is written twice")
	}
	if _, changed = write(s, verdict{unknown: true}, later); changed {
		t.Error("an outage of Azure is written")
	}
	s.Status = "Created" // by hand
	if s, changed = write(s, assigned, later); !changed || s.Status != "Assigned" {
		t.Errorf("a status changed by hand is not put right: %+v", s)
	}
}

func TestADifferentTraceIDIsNoChange(t *testing.T) {
	object := assignedObject("Created")
	attempt := func(code, message string) bool {
		t.Helper()
		err := fmt.Errorf("reading: %w", &arm.Error{Kind: arm.Forbidden, Code: code, Message: message})
		next, changed := judge(object, "pool1", compute.Result{}, err).status(object.Status, time.Now())
		object.Status = next
		return changed
	}
	if !attempt("AuthenticationFailed", "AADSTS7000215: wrong secret. Trace ID: 1 Timestamp: 12:00:00Z") {
		t.Error("the first failure is not written")
	}
	if attempt("AuthenticationFailed", "AADSTS7000215: wrong secret. Trace ID: 2 Timestamp: 12:00:01Z") {
		t.Error("the same failure with another trace ID is written, which calls its target back at once")
	}
	if !attempt("AuthorizationFailed", "no role") {
		t.Error("another failure is not written")
	}
}

func TestTagPatchNamesTagsOnly(t *testing.T) {
	raw, err := tagPatch("u1", tagsOfWant("b", "i", "n/b"))
	check(t, err)
	want := `{"metadata":{"annotations":{"aadpodidentity.k8s.io/bindings":"n/b"},"labels":{"aadpodidentity.k8s.io/binding":"b","aadpodidentity.k8s.io/identity":"i"},"uid":"u1"}}`
	if string(raw) != want {
		t.Errorf("patch %s, want %s", raw, want)
	}
	raw, err = tagPatch("u1", tagsOfWant("", "", ""))
	check(t, err)
	if strings.Count(string(raw), ":null") != 3 {
		t.Errorf("patch without tags: %s", raw)
	}
}
