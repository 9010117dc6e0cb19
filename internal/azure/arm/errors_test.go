package arm

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/runtime"
)

const (
	idA = "/subscriptions/11111111-2222-3333-4444-555555555555/resourceGroups/rg.(1)_x/providers/Microsoft.ManagedIdentity/userAssignedIdentities/id-a"
	idB = "/subscriptions/11111111-2222-3333-4444-555555555555/resourcegroups/rg/providers/microsoft.managedidentity/userassignedidentities/id_b"
	vm  = "/subscriptions/11111111-2222-3333-4444-555555555555/resourceGroups/rg/providers/Microsoft.Compute/virtualMachines/vm"
)

func response(status int, body string, headers ...string) *http.Response {
	r := &http.Response{
		StatusCode: status, Status: fmt.Sprint(status), Header: http.Header{"X-Ms-Request-Id": {"r1"}},
		Body: io.NopCloser(strings.NewReader(body)),
	}
	for i := 0; i+1 < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	return r
}

func armError(code, message string) string {
	return fmt.Sprintf(`{"error":{"code":%q,"message":%q}}`, code, message)
}

func TestClassify(t *testing.T) {
	linked := "The client 'c' with object id 'o' has permission to perform action 'Microsoft.Compute/virtualMachines/write' on scope '" + vm +
		"'; however, it does not have permission to perform action 'Microsoft.ManagedIdentity/userAssignedIdentities/assign/action' on the linked scope(s) '" + idA + "," + idB + "' or the linked scope(s) are invalid."
	for name, test := range map[string]struct {
		response   *http.Response
		kind       Kind
		code       string
		identities []string
		retryAfter time.Duration
	}{
		"not found":                         {response(404, armError("ResourceNotFound", "no")), NotFound, "ResourceNotFound", nil, 0},
		"its group is not found":            {response(404, armError("ResourceGroupNotFound", "no")), NotFound, "ResourceGroupNotFound", nil, 0},
		"a 404 of something else than ARM":  {response(404, "<html>nothing here"), Other, "Not Found", nil, 0},
		"the ARM of another cloud":          {response(404, armError("SubscriptionNotFound", "no")), Other, "SubscriptionNotFound", nil, 0},
		"an ARM without this API version":   {response(404, armError("InvalidResourceType", "no")), Other, "InvalidResourceType", nil, 0},
		"throttled":                         {response(429, armError("TooManyRequests", "slow down"), "Retry-After", "17"), Throttled, "TooManyRequests", nil, 17 * time.Second},
		"throttled by the compute provider": {response(429, `{"error":{"code":"OperationNotAllowed","message":"The server rejected the request because too many requests have been received for this subscription.","details":[{"code":"TooManyRequests","target":"HighCostGetVMScaleSet3Min","message":"{\"operationGroup\":\"HighCostGetVMScaleSet3Min\"}"}]}}`, "Retry-After", "17"), Throttled, "OperationNotAllowed", nil, 17 * time.Second},
		"throttled in an operation":         {response(200, armError("OperationThrottled", "slow down")), Throttled, "OperationThrottled", nil, 0},
		"busy and says for how long":        {response(503, armError("ServerBusy", "later"), "Retry-After", "3"), Throttled, "ServerBusy", nil, 3 * time.Second},
		"busy":                              {response(503, armError("ServerBusy", "later")), Other, "ServerBusy", nil, 0},
		"no role on two identities":         {response(403, armError("LinkedAuthorizationFailed", linked)), BadIdentities, "LinkedAuthorizationFailed", []string{idA, idB}, 0},
		"an identity that does not exist":   {response(400, armError("FailedIdentityOperation", "Identity operation for resource '"+vm+"' failed: '"+idA+"' was not found; '"+strings.ToUpper(idA)+"'")), BadIdentities, "FailedIdentityOperation", []string{idA}, 0},
		"a bad identity in an operation":    {response(200, armError("FailedIdentityOperation", "'"+idA+"'")), BadIdentities, "FailedIdentityOperation", []string{idA}, 0},
		"a bad identity that is not named":  {response(400, armError("FailedIdentityOperation", "something")), BadIdentities, "FailedIdentityOperation", nil, 0},
		"a bad identity in the details": {
			response(400, `{"error":{"code":"BadRequest","message":"see details","details":[{"code":"x","message":"y"},{"code":"FailedIdentityOperation","target":"`+idA+`","message":"no"}]}}`),
			BadIdentities, "BadRequest", []string{idA}, 0,
		},
		"a bad identity in another service's error": {
			response(400, armError("BadRequest", `Status: 'BadRequest'. Response: '{"error":{"message":"Resource '`+strings.ReplaceAll(idA, "/", `\/`)+`' was not found."}}'`)),
			BadIdentities, "BadRequest", []string{idA}, 0,
		},
		"an escaped ID": {response(400, armError("InvalidParameter", "bad value "+url.PathEscape(idB))), BadIdentities, "InvalidParameter", []string{idB}, 0},
		"an identity in ARM's words for not found": {response(404, armError("ResourceNotFound", "The Resource 'Microsoft.ManagedIdentity/userAssignedIdentities/id_b' under resource group 'rg' was not found.")), BadIdentities, "ResourceNotFound", []string{"/subscriptions/*/resourceGroups/rg/providers/Microsoft.ManagedIdentity/userAssignedIdentities/id_b"}, 0},
		"no right on an identity":                  {response(403, armError("AuthorizationFailed", "no authorization to perform action 'Microsoft.ManagedIdentity/userAssignedIdentities/assign/action' over scope '"+idA+"'")), BadIdentities, "AuthorizationFailed", []string{idA}, 0},
		"a conflict that mentions an identity":     {response(409, armError("Conflict", idA)), Conflict, "Conflict", nil, 0},
		"a server error that mentions one":         {response(500, armError("InternalServerError", idA)), Other, "InternalServerError", nil, 0},
		"a lock on the resource":                   {response(409, armError("ScopeLocked", "x")), Forbidden, "ScopeLocked", nil, 0},
		"another update is running":                {response(409, armError("OperationNotAllowed", "Operation 'Update' is not allowed while operation 'x' is in progress.")), Conflict, "OperationNotAllowed", nil, 0},
		"being deleted":                            {response(409, armError("OperationNotAllowed", "not allowed since it is marked for deletion")), Deleting, "OperationNotAllowed", nil, 0},
		"its group is being deleted":               {response(409, armError("ResourceGroupBeingDeleted", "x")), Deleting, "ResourceGroupBeingDeleted", nil, 0},
		"another version":                          {response(412, armError("ConditionNotMet", "x")), Changed, "ConditionNotMet", nil, 0},
		"no permission":                            {response(403, armError("AuthorizationFailed", "x")), Forbidden, "AuthorizationFailed", nil, 0},
		"no valid token":                           {response(401, armError("InvalidAuthenticationToken", "x")), Forbidden, "InvalidAuthenticationToken", nil, 0},
		"a bad request":                            {response(400, armError("InvalidParameter", "x")), Invalid, "InvalidParameter", nil, 0},
		"a proxy's page":                           {response(502, "<html>\n<h1>Bad   Gateway</h1>"), Other, "Bad Gateway", nil, 0},
		"no body":                                  {response(500, ""), Other, "Internal Server Error", nil, 0},
		"the code of a header beats the body's":    {response(403, armError("x", "y"), "x-ms-error-code", "LinkedAuthorizationFailed"), BadIdentities, "LinkedAuthorizationFailed", nil, 0},
	} {
		t.Run(name, func(t *testing.T) {
			err := fmt.Errorf("updating: %w", Classify(runtime.NewResponseError(test.response)))
			var e *Error
			if !errors.As(err, &e) {
				t.Fatalf("no *Error: %v", err)
			}
			if e.Kind != test.kind || e.Code != test.code || !slices.Equal(e.Identities, test.identities) || e.RetryAfter != test.retryAfter || e.RequestID != "r1" {
				t.Errorf("got %+v", e)
			}
			if e.Message == "" || strings.Contains(err.Error(), "\n") {
				t.Errorf("message %q", err)
			}
			for kind, got := range map[Kind]bool{NotFound: IsNotFound(err), Deleting: IsDeleting(err), Conflict: IsConflict(err), Changed: IsChanged(err), Forbidden: IsForbidden(err), Invalid: IsInvalid(err)} {
				if got != (kind == test.kind) {
					t.Errorf("Is%s says %v", kind, got)
				}
			}
		})
	}
}

func TestClassifyWithoutAnAnswer(t *testing.T) {
	if Classify(nil) != nil {
		t.Error("nil becomes an error")
	}
	if err := Classify(fmt.Errorf("x: %w", context.Canceled)); !errors.Is(err, context.Canceled) || is(err, Other) {
		t.Errorf("cancellation becomes %v", err)
	}
	if err := Classify(errors.New("dial tcp:\n no route")); !is(err, Other) || !strings.Contains(err.Error(), "dial tcp: no route") {
		t.Errorf("a network error becomes %v", err)
	}
	once := Classify(errors.New("x"))
	if again := Classify(once); !errors.Is(again, once) || again.Error() != once.Error() {
		t.Errorf("classified twice: %v", again)
	}
}

func TestThrottledAlwaysWaits(t *testing.T) {
	if after, ok := IsThrottled(&Error{Kind: Throttled}); !ok || after != defaultRetryAfter {
		t.Errorf("%v %v", after, ok)
	}
	if _, ok := IsThrottled(errors.New("x")); ok {
		t.Error("any error is throttling")
	}
}

func TestRetryAfter(t *testing.T) {
	for name, test := range map[string]struct {
		header, value string
		min, max      time.Duration
		sent          string // the response's Date
	}{
		"seconds":                            {"Retry-After", "20", 20 * time.Second, 20 * time.Second, ""},
		"milliseconds":                       {"x-ms-retry-after-ms", "150", 150 * time.Millisecond, 150 * time.Millisecond, ""},
		"a date":                             {"Retry-After", time.Now().Add(time.Minute).UTC().Format(http.TimeFormat), 50 * time.Second, time.Minute, ""},
		"a date in the past":                 {"Retry-After", time.Now().Add(-time.Minute).UTC().Format(http.TimeFormat), 0, 0, ""},
		"a date, by the clock of the server": {"Retry-After", "Sat, 03 Jan 2037 10:00:30 GMT", 30 * time.Second, 30 * time.Second, "Sat, 03 Jan 2037 10:00:00 GMT"},
		"a negative number":                  {"Retry-After", "-5", 0, 0, ""},
		"something else":                     {"Retry-After", "soon", 0, 0, ""},
		"nothing":                            {"Other", "1", 0, 0, ""},
	} {
		t.Run(name, func(t *testing.T) {
			h := http.Header{}
			h.Set(test.header, test.value)
			h.Set("Date", test.sent)
			if got := RetryAfter(h); got < test.min || got > test.max {
				t.Errorf("%s, want %s to %s", got, test.min, test.max)
			}
		})
	}
}
