package arm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"strings"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/runtime"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"
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
	// RequestID is ARM's x-ms-request-id, which Azure support asks for.
	RequestID string
	// RetryAfter is how long ARM asked to wait; 0 if it did not say.
	RetryAfter time.Duration
	// Identities are the resource IDs that ARM blames (BadIdentities), as it
	// writes them.
	Identities []string

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

// Classify turns an error of an SDK client into an *Error. nil stays nil, and
// an error of the context stays itself.
func Classify(err error) error {
	if err == nil || errors.Is(err, context.Canceled) {
		return err
	}
	var already *Error
	if errors.As(err, &already) {
		return err
	}
	var signIn *azidentity.AuthenticationFailedError
	if errors.As(err, &signIn) {
		e := &Error{Kind: Forbidden, Code: "AuthenticationFailed", Message: oneLine(signIn.Error()), cause: err}
		if r := signIn.RawResponse; r != nil {
			e.Status = r.StatusCode
			if r.StatusCode == http.StatusTooManyRequests || r.StatusCode >= http.StatusInternalServerError {
				e.Kind = Other
			}
		} else {
			e.Kind = Other
		}
		return e
	}
	var response *azcore.ResponseError
	if !errors.As(err, &response) {
		return &Error{Kind: Other, Code: "RequestFailed", Message: oneLine(err.Error()), cause: err}
	}
	e := &Error{Status: response.StatusCode, Code: response.ErrorCode, cause: err}
	if r := response.RawResponse; r != nil {
		e.RequestID = r.Header.Get("x-ms-request-id")
		e.RetryAfter = RetryAfter(r.Header)
		code, message := body(r)
		e.Message = message
		if e.Code == "" {
			e.Code = code
		}
	}
	if e.Code == "" {
		e.Code = http.StatusText(e.Status)
	}
	if e.Message == "" {
		e.Message = fmt.Sprintf("HTTP status %d", e.Status)
	}
	e.Kind = e.kind()
	if e.Kind == BadIdentities {
		e.Identities = identityIDs(e.Message)
	}
	return e
}

// kind decides by ARM's code first: an operation that fails later is reported
// inside an answer with status 200.
func (e *Error) kind() Kind {
	switch strings.ToLower(e.Code) {
	case "linkedauthorizationfailed", "failedidentityoperation", "linkedinvalidpropertyid", "invalididentity":
		return BadIdentities
	case "operationpreemptedbydelete", "resourcegroupbeingdeleted", "resourcebeingdeleted":
		return Deleting
	case "operationnotallowed":
		if strings.Contains(e.Message, "marked for deletion") {
			return Deleting
		}
		return Conflict
	case "operationpreempted", "retryableerror", "concurrencyconflict":
		return Conflict
	case "toomanyrequests", "operationthrottled", "subscriptionrequeststhrottled", "resourcerequeststhrottled":
		return Throttled
	}
	switch e.Status {
	case http.StatusNotFound:
		if e.saysNotFound() {
			return NotFound
		}
		return Other
	case http.StatusTooManyRequests:
		return Throttled
	case http.StatusUnauthorized, http.StatusForbidden:
		return Forbidden
	case http.StatusPreconditionFailed:
		return Changed
	case http.StatusConflict:
		return Conflict
	case http.StatusBadRequest:
		return Invalid
	}
	if e.Status >= http.StatusInternalServerError && e.RetryAfter > 0 {
		return Throttled
	}
	return Other
}

// saysNotFound tells ARM's word that a resource or its group does not exist from
// every other 404: a proxy's page, the ARM of another cloud, which does not know
// the subscription, or one that does not know the API version. To take these for
// the end of a resource would forget what is on it.
func (e *Error) saysNotFound() bool {
	code := strings.ToLower(e.Code)
	return strings.HasSuffix(code, "notfound") && code != "subscriptionnotfound"
}

// body returns code and message of ARM's error object.
func body(r *http.Response) (code, message string) {
	raw, err := runtime.Payload(r)
	if err != nil {
		return "", ""
	}
	var envelope struct {
		Error *struct {
			Code    string `json:"code"`
			Message string `json:"message"`
		} `json:"error"`
		Code    string `json:"code"`
		Message string `json:"message"`
	}
	if err := json.Unmarshal(raw, &envelope); err != nil {
		return "", oneLine(string(raw))
	}
	if envelope.Error != nil {
		return envelope.Error.Code, oneLine(envelope.Error.Message)
	}
	return envelope.Code, oneLine(envelope.Message)
}

const maxMessage = 2048

// oneLine keeps messages fit for a log line and a condition.
func oneLine(s string) string {
	s = strings.Join(strings.Fields(s), " ")
	if len(s) > maxMessage {
		s = strings.ToValidUTF8(s[:maxMessage], "") + "…"
	}
	return s
}

// identityID finds resource IDs of identities in a message. Resource groups may
// contain parentheses and periods; ARM separates several IDs by commas.
var identityID = regexp.MustCompile(`(?i)/subscriptions/[^/'",\s]+/resourceGroups/[^/'",\s]+/providers/Microsoft\.ManagedIdentity/userAssignedIdentities/[A-Za-z0-9_-]+`)

// identityIDs returns the IDs of a message, each once.
func identityIDs(message string) []string {
	var ids []string
	seen := map[string]bool{}
	for _, id := range identityID.FindAllString(message, -1) {
		if key := strings.ToLower(id); !seen[key] {
			seen[key] = true
			ids = append(ids, id)
		}
	}
	return ids
}
