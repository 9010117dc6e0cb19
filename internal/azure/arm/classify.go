package arm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/runtime"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"
)

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
		return signInError(signIn, err)
	}
	var response *azcore.ResponseError
	if !errors.As(err, &response) {
		return &Error{Kind: Other, Code: "RequestFailed", Message: oneLine(err.Error()), cause: err}
	}
	e := &Error{Status: response.StatusCode, Code: response.ErrorCode, cause: err}
	var said answer
	if r := response.RawResponse; r != nil {
		e.RequestID, e.CorrelationID = r.Header.Get("x-ms-request-id"), r.Header.Get("x-ms-correlation-request-id")
		if e.RequestID == "" {
			e.RequestID = e.CorrelationID
		}
		e.RetryAfter = RetryAfter(r.Header)
		said = read(r)
		e.Message = said.message
		if e.Code == "" {
			e.Code = said.code
		}
	}
	if e.Code == "" {
		e.Code = http.StatusText(e.Status)
	}
	if e.Message == "" {
		e.Message = fmt.Sprintf("HTTP status %d", e.Status)
	}
	e.Kind = e.kind(said.codes)
	if e.blamesIdentities() {
		if named := identityIDs(said.all); len(named) > 0 {
			e.Kind, e.Identities = BadIdentities, named
		}
	}
	e.Missing = missingRole(e.Code, said.all)
	return e
}

// signInError is a failure to get a token.
func signInError(signIn *azidentity.AuthenticationFailedError, err error) *Error {
	e := &Error{Kind: Other, Code: "AuthenticationFailed", Message: oneLine(signIn.Error()), cause: err}
	if r := signIn.RawResponse; r != nil {
		e.Status = r.StatusCode
		if r.StatusCode != http.StatusTooManyRequests && r.StatusCode < http.StatusInternalServerError {
			e.Kind = Forbidden
		}
	}
	return e
}

// kind decides by ARM's code first, and by the codes of the details if that one
// says little: an operation that fails later is reported inside an answer with
// status 200. But the compute provider throttles with a code that else means a
// conflict, OperationNotAllowed (kubernetes/kubernetes#93796).
func (e *Error) kind(details []string) Kind {
	if e.Status == http.StatusTooManyRequests {
		return Throttled
	}
	if k, ok := e.kindOf(e.Code); ok {
		return k
	}
	for _, code := range details {
		if k, ok := e.kindOf(code); ok && k != Throttled {
			return k
		}
	}
	switch e.Status {
	case http.StatusNotFound:
		if e.saysNotFound() {
			return NotFound
		}
		return Other
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

// kindOf is the kind that a code alone decides.
func (e *Error) kindOf(code string) (Kind, bool) {
	switch strings.ToLower(code) {
	case "linkedauthorizationfailed", "failedidentityoperation", "linkedinvalidpropertyid", "invalididentity":
		return BadIdentities, true
	case "operationpreemptedbydelete", "resourcegroupbeingdeleted", "resourcebeingdeleted":
		return Deleting, true
	case "operationnotallowed":
		if strings.Contains(e.Message, "marked for deletion") {
			return Deleting, true
		}
		return Conflict, true
	case "operationpreempted", "retryableerror", "concurrencyconflict", "anotheroperationinprogress":
		return Conflict, true
	case "scopelocked":
		return Forbidden, true
	case "toomanyrequests", "operationthrottled", "subscriptionrequeststhrottled", "resourcerequeststhrottled":
		return Throttled, true
	}
	return Other, false
}

// saysNotFound tells ARM's word that a resource or its group does not exist from
// every other 404: a proxy's page, the ARM of another cloud, which does not know
// the subscription, or one that does not know the API version. To take these for
// the end of a resource would forget what is on it.
func (e *Error) saysNotFound() bool {
	code := strings.ToLower(e.Code)
	return strings.HasSuffix(code, "notfound") && code != "subscriptionnotfound"
}

// blamesIdentities says whether IDs of identities in the text are the reason of
// the refusal: ARM has more codes for it than anybody has listed. What says that
// the time is wrong, not the request, blames none.
func (e *Error) blamesIdentities() bool {
	switch e.Kind {
	case BadIdentities, Invalid, Forbidden, NotFound:
		return true
	}
	return false
}

// answer is what the body of a failed call says.
type answer struct {
	code, message string
	// codes of the details, outer ones first.
	codes []string
	// all is every text in it: Azure puts the identity into the message, the
	// target or a detail, or into another service's error quoted in its own.
	all string
}

// errorBody is ARM's error object.
type errorBody struct {
	Code       string          `json:"code"`
	Message    string          `json:"message"`
	Target     string          `json:"target"`
	Details    []errorBody     `json:"details"`
	InnerError json.RawMessage `json:"innererror"`
	Additional json.RawMessage `json:"additionalInfo"`
}

// maxDepth bounds how deep details are followed.
const maxDepth = 8

func (b errorBody) walk(depth int, visit func(errorBody)) {
	visit(b)
	if depth == maxDepth {
		return
	}
	for _, d := range b.Details {
		d.walk(depth+1, visit)
	}
}

func read(r *http.Response) answer {
	raw, err := runtime.Payload(r)
	if err != nil {
		return answer{}
	}
	var envelope struct {
		Error *errorBody `json:"error"`
		errorBody
	}
	if err := json.Unmarshal(raw, &envelope); err != nil {
		return answer{message: oneLine(string(raw))}
	}
	body := envelope.errorBody
	if envelope.Error != nil {
		body = *envelope.Error
	}
	a := answer{code: body.Code, message: oneLine(body.Message)}
	var all []string
	body.walk(0, func(b errorBody) {
		a.codes = append(a.codes, b.Code)
		all = append(all, b.Message, b.Target, string(b.InnerError), string(b.Additional))
		if a.message == "" {
			a.message = oneLine(b.Message)
		}
	})
	a.all = oneLineOf(strings.Join(all, "\n"), 1<<20)
	return a
}

const maxMessage = 2048

// oneLine keeps messages fit for a log line and a condition.
func oneLine(s string) string { return oneLineOf(s, maxMessage) }

func oneLineOf(s string, limit int) string {
	s = strings.Join(strings.Fields(s), " ")
	if len(s) > limit {
		s = strings.ToValidUTF8(s[:limit], "") + "…"
	}
	return s
}
