package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/http"
	"strconv"
	"time"

	"github.com/aad-pod-identity/aad-pod-identity/nmi/podindex"
	"github.com/aad-pod-identity/aad-pod-identity/nmi/token"
)

// statusClientGone is what the log and metrics say of a request whose client
// left; nobody receives it.
const statusClientGone = 499

// retryAfterUnassigned is what clients are told under --set-retry-after-header.
const retryAfterUnassigned = 20 * time.Second

// apiError is an error that says how it is answered.
type apiError struct {
	status            int
	code, description string
	retryAfter        time.Duration
	cause             error // for the log only
}

// Error implements error.
func (e *apiError) Error() string {
	s := e.code + ": " + e.description
	if e.cause != nil {
		s += ": " + e.cause.Error()
	}
	return s
}

// Unwrap gives the cause.
func (e *apiError) Unwrap() error { return e.cause }

func invalidRequest(description string) error {
	return &apiError{status: http.StatusBadRequest, code: "invalid_request", description: description}
}

func forbidden(description string) error {
	return &apiError{status: http.StatusForbidden, code: "access_denied", description: description}
}

// asAPIError finds out how an error is answered. Its text reaches the pod only
// where it is ours or the real service's own words.
func asAPIError(err error) *apiError {
	var api *apiError
	var tok *token.Error
	switch {
	case errors.As(err, &api):
		return api
	case errors.As(err, &tok) && tok.Refused:
		return &apiError{status: http.StatusForbidden, code: tok.Code, description: tok.Description, cause: err}
	case errors.As(err, &tok) && tok.Code == token.CodeSecret:
		return &apiError{status: http.StatusServiceUnavailable, code: tok.Code, description: tok.Description, cause: err}
	case errors.As(err, &tok):
		return &apiError{
			status: http.StatusServiceUnavailable, code: "temporarily_unavailable",
			description: "no token could be obtained for the identity; try again", retryAfter: tok.RetryAfter, cause: err,
		}
	case errors.Is(err, podindex.ErrNotSynced):
		return &apiError{
			status: http.StatusServiceUnavailable, code: "temporarily_unavailable",
			description: "NMI is starting; try again", retryAfter: time.Second, cause: err,
		}
	case errors.Is(err, podindex.ErrUnknown), errors.Is(err, podindex.ErrAmbiguous), errors.Is(err, podindex.ErrUncertain):
		return &apiError{
			status: http.StatusInternalServerError, code: "unknown_pod",
			description: "the calling pod cannot be identified by its address", cause: err,
		}
	case errors.Is(err, context.Canceled):
		return &apiError{status: statusClientGone, code: "client_gone", description: "the client left", cause: err}
	default:
		return &apiError{status: http.StatusInternalServerError, code: "internal_error", description: "NMI failed; its log has the reason", cause: err}
	}
}

// respondError is the only place where an error becomes a response.
func respondError(w http.ResponseWriter, err error) {
	e := asAPIError(err)
	if e.retryAfter > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(int(math.Ceil(e.retryAfter.Seconds()))))
	}
	respondJSON(w, e.status, "application/json; charset=utf-8", struct {
		Code        string `json:"error"`
		Description string `json:"error_description"`
	}{e.code, e.description})
}

// respondJSON answers with a value.
func respondJSON(w http.ResponseWriter, status int, contentType string, v any) {
	body, err := json.Marshal(v)
	if err != nil { // v is ours
		status, body = http.StatusInternalServerError, []byte(`{"error":"internal_error","error_description":"encoding the answer"}`)
	}
	respondBody(w, status, contentType, body)
}

// respondTokens answers with a token, or with an array of several.
func respondTokens(w http.ResponseWriter, tokens []token.Token) error {
	var body []byte
	for i, t := range tokens {
		switch {
		case len(tokens) == 1:
		case i == 0:
			body = append(body, '[')
		default:
			body = append(body, ',')
		}
		var err error
		if body, err = t.AppendJSON(body); err != nil {
			return fmt.Errorf("encoding a token: %w", err)
		}
	}
	if len(tokens) != 1 {
		body = append(body, ']')
	}
	respondBody(w, http.StatusOK, tokenContentType, body)
	return nil
}

// respondBody writes a body whose length is announced: some clients read no other.
func respondBody(w http.ResponseWriter, status int, contentType string, body []byte) {
	h := w.Header()
	h.Set("Content-Type", contentType)
	h.Set("Content-Length", strconv.Itoa(len(body)))
	// A cache between pod and NMI must not keep tokens.
	h.Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	// Whether the client is still there makes no difference.
	_, _ = w.Write(body)
}
