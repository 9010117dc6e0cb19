package controller

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	v1 "github.com/aad-pod-identity/aad-pod-identity/api/v1"
	"github.com/aad-pod-identity/aad-pod-identity/internal/azure/arm"
	"github.com/aad-pod-identity/aad-pod-identity/internal/resourceid"
	"github.com/aad-pod-identity/aad-pod-identity/mic/compute"
)

// verdict is what an assigned identity's status must say.
type verdict struct {
	assigned bool
	reason   string
	message  string
	// requestID of ARM goes into the message when that is written, and does not
	// count as a change: it is another at every attempt.
	requestID string
	// stable is how the message begins, if the rest may be another at every
	// attempt and so does not count as a change either: sign-in failures hold a
	// trace ID and the time, network errors a port. To write each would call the
	// target back at once, which would fail again.
	stable string
	// attempted: ARM refused it just now.
	attempted bool
	// unknown: nothing was learnt, so the status stays as it is.
	unknown bool
}

// judge decides about an assigned identity that is not being deleted, from the
// outcome on its target. It is pure.
func judge(a *v1.AzureAssignedIdentity, target string, result compute.Result, err error) verdict {
	id := a.Spec.AzureIdentityRef
	if id == nil {
		return verdict{reason: v1.ReasonIdentityInvalid, message: "the object holds no azureIdentityRef"}
	}
	if id.Spec.Type != v1.UserAssignedMSI {
		return verdict{assigned: true, reason: v1.ReasonAssigned, message: "service principals need no assignment"}
	}
	key := resourceid.Key(id.Spec.ResourceID)
	failure, failed := result.Failed[key]
	switch {
	case result.Present[key]:
		return verdict{assigned: true, reason: v1.ReasonAssigned, message: "assigned to " + target}
	case failed:
		return verdict{
			reason: v1.ReasonAssignmentFailed, message: failure.Text(),
			requestID: failure.RequestID, attempted: failure.Fresh,
		}
	case result.Gone:
		return verdict{reason: v1.ReasonTargetNotFound, message: target + " does not exist"}
	case result.Deleting:
		return verdict{reason: v1.ReasonTargetDeleting, message: target + " is being deleted"}
	case err != nil && a.Status.Status != v1.AssignedIDCreated:
		// Azure does not answer, which takes nothing away from a pod that has its
		// identity.
		return verdict{unknown: true}
	case err != nil:
		return judgeFailure(target, err)
	}
	return verdict{reason: v1.ReasonPending, message: "waiting for " + target}
}

// judgeFailure is the verdict about an identity whose target could not be
// changed. The message is the same at every attempt, or begins with what is, or
// each would be written.
func judgeFailure(target string, err error) verdict {
	var failure *arm.Error
	switch {
	case !errors.As(err, &failure):
		return verdict{reason: v1.ReasonAssignmentFailed, message: err.Error()}
	case failure.Kind == arm.Throttled:
		return verdict{reason: v1.ReasonThrottled, message: "Azure asked to wait"}
	case failure.Kind == arm.Conflict:
		return verdict{reason: v1.ReasonPending, message: "waiting for another update of " + target}
	}
	stable := fmt.Sprintf("%s: %s: ", target, failure.Code)
	return verdict{
		reason: v1.ReasonAssignmentFailed, message: stable + failure.Explanation(), stable: stable,
		requestID: failure.RequestID,
	}
}

// status returns the status that the verdict makes of an object's, and whether
// that is a change. Equal verdicts never are, so nothing is written at rest.
func (v verdict) status(current v1.AzureAssignedIdentityStatus, now time.Time) (v1.AzureAssignedIdentityStatus, bool) {
	if v.unknown {
		return current, false
	}
	state, holds, message := v1.AssignedIDCreated, metav1.ConditionFalse, v.message
	if v.assigned {
		state, holds = v1.AssignedIDAssigned, metav1.ConditionTrue
	}
	// All assigned identities of a target come here at each look at it, so that those
	// of which there is nothing new must cost nothing.
	old := meta.FindStatusCondition(current.Conditions, v1.ConditionAssigned)
	sameCondition := old != nil && old.Status == holds && old.Reason == v.reason && v.sameMessage(old.Message)
	switch {
	case sameCondition && current.Status == state:
		return current, false
	case sameCondition:
		message = old.Message
	case v.requestID != "":
		message += " (request " + v.requestID + ")"
	}
	next := *current.DeepCopy()
	next.Status, next.AvailableReplicas = state, 1
	condition := metav1.Condition{
		Type: v1.ConditionAssigned, Status: holds, Reason: v.reason, Message: message,
		LastTransitionTime: metav1.NewTime(now.Truncate(time.Second)),
	}
	meta.SetStatusCondition(&next.Conditions, condition)
	return next, true
}

// sameMessage compares without the request ID and what is not stable.
func (v verdict) sameMessage(old string) bool {
	if v.stable != "" {
		return strings.HasPrefix(old, v.stable)
	}
	const suffix = " (request "
	return old == v.message || (len(old) > len(v.message)+len(suffix) && old[:len(v.message)+len(suffix)] == v.message+suffix)
}
