package token

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/runtime"

	"github.com/aad-pod-identity/aad-pod-identity/internal/redact"
)

const (
	tokenPath  = "/metadata/identity/oauth2/token"
	apiVersion = "2018-02-01"
	// maxBody bounds an answer of IMDS; a token is a few kilobytes.
	maxBody = 1 << 20
)

// retryStatus are the answers of IMDS that pass by themselves: 404 and 410 while
// the endpoint is updated, 429 under load, and failures on its side. SDKs try again
// after the same ones.
var retryStatus = []int{
	http.StatusNotFound, http.StatusRequestTimeout, http.StatusGone, http.StatusTooManyRequests,
	http.StatusInternalServerError, http.StatusNotImplemented, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout,
	http.StatusHTTPVersionNotSupported, http.StatusVariantAlsoNegotiates, http.StatusInsufficientStorage, http.StatusLoopDetected,
	http.StatusNotExtended, http.StatusNetworkAuthenticationRequired,
}

// IMDS gets tokens of user-assigned managed identities from the node's instance
// metadata service.
type IMDS struct {
	endpoint  string
	userAgent string
	pipeline  runtime.Pipeline
}

// NewIMDS makes a source that asks the IMDS at endpoint (scheme, host and port),
// through the transport, which must not use a proxy. Retries end with the
// caller's context: IMDS can take 70 s to come back from an update, so the caller
// decides how much of that to wait.
func NewIMDS(endpoint, userAgent string, transport http.RoundTripper) *IMDS {
	return &IMDS{
		endpoint:  strings.TrimSuffix(endpoint, "/"),
		userAgent: userAgent,
		pipeline: runtime.NewPipeline("nmi", "v1", runtime.PipelineOptions{}, &policy.ClientOptions{
			Retry: policy.RetryOptions{
				// No TryTimeout: a try waits for its turn, too. See Budget.
				MaxRetries: 5, RetryDelay: time.Second, MaxRetryDelay: 20 * time.Second,
				StatusCodes: retryStatus,
			},
			Telemetry: policy.TelemetryOptions{Disabled: true}, // ours below
			Transport: &http.Client{
				Transport: limited{transport},
				// IMDS does not redirect; whoever answers with one is not IMDS.
				CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
			},
		}),
	}
}

// Token implements Source.
func (i *IMDS) Token(ctx context.Context, req Request) (Token, error) {
	q := url.Values{"api-version": {apiVersion}, "resource": {req.Resource}}
	switch {
	case req.ClientID != "":
		q.Set("client_id", req.ClientID)
	case req.ResourceID != "":
		q.Set("msi_res_id", req.ResourceID)
	default:
		return Token{}, refused("invalid_request", "the AzureIdentity has neither clientID nor resourceID")
	}
	r, err := runtime.NewRequest(ctx, http.MethodGet, i.endpoint+tokenPath+"?"+q.Encode())
	if err != nil {
		return Token{}, unavailable("building the request to IMDS", err)
	}
	r.Raw().Header.Set("Metadata", "true")
	r.Raw().Header.Set("User-Agent", i.userAgent)
	resp, err := i.pipeline.Do(r)
	if err != nil {
		if ctx.Err() != nil && !errors.Is(ctx.Err(), context.DeadlineExceeded) {
			return Token{}, ctx.Err()
		}
		return Token{}, unavailable("the instance metadata service cannot be reached", err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return Token{}, unavailable("reading the answer of the instance metadata service", err)
	}
	if resp.StatusCode != http.StatusOK {
		e := answered(resp, body, "the instance metadata service")
		e.Description = hide(e.Description, req.ClientID)
		return Token{}, e
	}
	var t Token
	if err := json.Unmarshal(body, &t); err != nil {
		return Token{}, unavailable("the instance metadata service answered 200 with something that is not a token", err)
	}
	t.RequestID = resp.Header.Get(requestIDHeader)
	return t, nil
}

// unavailable hides the request's URL, which holds the client ID.
func unavailable(doing string, err error) *Error {
	var u *url.Error
	if errors.As(err, &u) {
		err = u.Err
	}
	return &Error{Code: codeUnavailable, Description: doing + ": " + err.Error(), err: err}
}

// answered turns an answer other than 200 into an Error.
func answered(resp *http.Response, body []byte, who string) *Error {
	e := &Error{Status: resp.StatusCode, Code: codeUnavailable, Refused: refusal(resp.StatusCode), RetryAfter: retryAfter(resp.Header.Get("Retry-After")), RequestID: resp.Header.Get(requestIDHeader)}
	if oauth, ok := readOAuthError(body); ok {
		e.Code, e.Description = oauth.Code, oauth.Description
	}
	if e.Description == "" {
		e.Description = who + " answered " + resp.Status
	}
	return e
}

// retryAfter reads the header of that name, in seconds or as a date; 0 if it says
// nothing.
func retryAfter(value string) time.Duration {
	if s, err := strconv.Atoi(value); err == nil {
		return max(0, time.Duration(s)*time.Second)
	}
	if at, err := http.ParseTime(value); err == nil {
		return max(0, time.Until(at))
	}
	return 0
}

// hide shortens the client ID in a text that is not ours; AAD's errors, which IMDS
// passes on, name the application.
func hide(text, clientID string) string {
	if clientID == "" {
		return text
	}
	return regexp.MustCompile("(?i)"+regexp.QuoteMeta(clientID)).ReplaceAllLiteralString(text, redact.ClientID(clientID))
}

// refusal says whether a status is about this request rather than about the
// state of the endpoint.
func refusal(status int) bool {
	for _, s := range retryStatus {
		if s == status {
			return false
		}
	}
	return status >= 400 && status < 500
}

// limited cuts off bodies that are far too long for a token.
type limited struct{ next http.RoundTripper }

// RoundTrip implements http.RoundTripper.
func (l limited) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := l.next.RoundTrip(r)
	if resp != nil && resp.Body != nil {
		resp.Body = bounded(resp.Body)
	}
	return resp, err
}

func bounded(body io.ReadCloser) io.ReadCloser {
	return struct {
		io.Reader
		io.Closer
	}{io.LimitReader(body, maxBody), body}
}
