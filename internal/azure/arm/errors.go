package arm

import (
	"errors"
	"fmt"
	"strings"
	"time"
)

// Kind is what a failed call means to the caller.
type Kind string

const (
	// Other is a failure that a later try may not see: server errors, network.
	Other Kind = "Other"
	// NotFound means that the resource does not exist: ARM itself says so.
	NotFound Kind = "NotFound"
	// Throttled means: wait for Error.RetryAfter, then try again.
	Throttled Kind = "Throttled"
	// BadIdentities means that ARM refused identities, those in Error.Identities if
	// it says which. Others are not affected.
	BadIdentities Kind = "BadIdentities"
	// Deleting means that the resource is being deleted and takes no more changes.
	Deleting Kind = "Deleting"
	// Conflict means that another change of the resource is under way.
	Conflict Kind = "Conflict"
	// Changed means that the resource changed since it was read (its ETag is another).
	Changed Kind = "Changed"
	// Forbidden means that the caller may not do this, or could not sign in.
	Forbidden Kind = "Forbidden"
	// Invalid means that ARM refused the request as it is.
	Invalid Kind = "Invalid"
)

// Error is a failed call to ARM.
type Error struct {
	// Kind is what it means.
	Kind Kind
	// Status is the HTTP status; 0 when there was no answer.
	Status int
	// Code and Message are ARM's own.
	Code, Message string
	// RequestID is ARM's x-ms-request-id and CorrelationID its
	// x-ms-correlation-request-id, by which Azure's support and the activity log
	// find the call.
	RequestID, CorrelationID string
	// RetryAfter is how long ARM asked to wait; 0 if it did not say.
	RetryAfter time.Duration
	// Identities are the resource IDs that ARM blames (BadIdentities), as it
	// writes them.
	Identities []string
	// Missing is the role assignment whose lack is the reason; nil if it is another
	// one, or ARM's text does not tell.
	Missing *RoleAssignment

	cause error
}

// Error implements error. It fits on one line.
func (e *Error) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "Code=%q Message=%q", e.Code, e.Message)
	if e.RequestID != "" {
		fmt.Fprintf(&b, " RequestID=%q", e.RequestID)
	}
	if e.Kind == Throttled && e.RetryAfter > 0 {
		fmt.Fprintf(&b, " RetryAfter=%s", e.RetryAfter.Round(time.Second))
	}
	return b.String()
}

// Explanation is ARM's message, and which role assignment is missing if that is
// known.
func (e *Error) Explanation() string {
	if e.Missing == nil {
		return e.Message
	}
	return e.Message + "; " + e.Missing.String()
}

// Unwrap returns the SDK's error.
func (e *Error) Unwrap() error { return e.cause }

// NonRetriable tells azcore's retry policy not to try again by itself.
func (e *Error) NonRetriable() {}

// IsNotFound reports whether the resource does not exist.
func IsNotFound(err error) bool { return is(err, NotFound) }

// IsThrottled reports whether ARM asked to wait, and for how long (at least
// defaultRetryAfter).
func IsThrottled(err error) (time.Duration, bool) {
	var e *Error
	if !errors.As(err, &e) || e.Kind != Throttled {
		return 0, false
	}
	if e.RetryAfter <= 0 {
		return defaultRetryAfter, true
	}
	return e.RetryAfter, true
}

// IsBadIdentities reports whether ARM refused identities, and which if it said
// so.
func IsBadIdentities(err error) ([]string, bool) {
	var e *Error
	if !errors.As(err, &e) || e.Kind != BadIdentities {
		return nil, false
	}
	return e.Identities, true
}

// IsDeleting reports whether the resource is being deleted.
func IsDeleting(err error) bool { return is(err, Deleting) }

// IsConflict reports whether another change is under way.
func IsConflict(err error) bool { return is(err, Conflict) }

// IsChanged reports whether the resource changed since it was read.
func IsChanged(err error) bool { return is(err, Changed) }

// IsForbidden reports whether the caller lacks a permission or could not sign
// in.
func IsForbidden(err error) bool { return is(err, Forbidden) }

// IsInvalid reports whether ARM refused the request as it is.
func IsInvalid(err error) bool { return is(err, Invalid) }

func is(err error, kind Kind) bool {
	var e *Error
	return errors.As(err, &e) && e.Kind == kind
}

// defaultRetryAfter is the wait when ARM throttles without saying for how long.
const defaultRetryAfter = 20 * time.Second

// knownCodes are the codes that metrics tell apart. ARM's codes are many and of
// each resource provider's choosing, so the others count together.
var knownCodes = []string{
	"AuthenticationFailed", "AuthorizationFailed", "BadRequest", "ClientThrottled", "Conflict", "FailedIdentityOperation",
	"InternalServerError", "InvalidAuthenticationToken", "InvalidParameter", "LinkedAuthorizationFailed", "LinkedInvalidPropertyId",
	"OperationNotAllowed", "OperationPreempted", "RequestFailed", "ResourceGroupBeingDeleted", "ResourceGroupNotFound", "ResourceNotFound",
	"ScopeLocked", "ServiceUnavailable", "SubscriptionNotFound", "SubscriptionRequestsThrottled", "TooManyRequests",
}

// OtherCode stands for every code that metrics do not tell apart.
const OtherCode = "Other"

// MetricCode returns the code of an error as one of a small fixed set.
func MetricCode(err error) string {
	var e *Error
	if !errors.As(err, &e) {
		return OtherCode
	}
	for _, code := range knownCodes {
		if strings.EqualFold(code, e.Code) {
			return code
		}
	}
	return OtherCode
}
