package server

import (
	"errors"
	"net/http"
	"time"

	"github.com/aad-pod-identity/aad-pod-identity/nmi/podindex"
	"github.com/aad-pod-identity/aad-pod-identity/nmi/sourceroute"
	"github.com/aad-pod-identity/aad-pod-identity/nmi/token"
)

// Reasons by which refusals are counted.
const (
	reasonConnections = "connections"      // more connections than a pod, or all, may have
	reasonRequests    = "requests"         // more requests under way than a pod may have
	reasonAddress     = "address_reused"   // a connection of a pod that had the address before
	reasonUnknownPod  = "unknown_pod"      // nobody knows the source address
	reasonSource      = "source_route"     // a connection that came in elsewhere than its source address is
	reasonUnassigned  = "not_assigned"     // no identity for this pod
	reasonRefused     = "upstream_refused" // the token endpoint says no
	reasonUnavailable = "upstream_unavailable"
	reasonStarting    = "starting" // pods are not known yet, or NMI is ending
	reasonInvalid     = "invalid_request"
	reasonForbidden   = "forbidden"
	reasonOther       = "other"
)

const (
	// codeTooMany is the error code of IMDS's own 429.
	codeTooMany = "too_many_requests"
	// codeUnassigned says that a pod has no identity (yet).
	codeUnassigned = "identity_not_assigned"
)

// errForeignConnection: the connection was opened by a pod that had the address
// before the one that has it now.
var errForeignConnection = errors.New("the connection is of another pod than has its address now")

// errEnding: NMI ends before it can answer.
var errEnding = errors.New("NMI is ending")

func tooManyRequests() error {
	return &apiError{
		status: http.StatusTooManyRequests, code: codeTooMany,
		description: "too many requests of this pod are under way", retryAfter: time.Second,
	}
}

func foreignConnection() error {
	return &apiError{
		status: http.StatusServiceUnavailable, code: "temporarily_unavailable",
		description: "the pod of this connection is gone; connect again", retryAfter: time.Second, cause: errForeignConnection,
	}
}

// ending sends a request that waits to the next NMI of the node.
func ending() error {
	return &apiError{
		status: http.StatusServiceUnavailable, code: "temporarily_unavailable",
		description: "NMI is restarting; try again", retryAfter: time.Second, cause: errEnding,
	}
}

// wrongSource is final: another connection of the same client comes in the same way.
func wrongSource(err error) error {
	return &apiError{
		status: http.StatusForbidden, code: "source_not_verified",
		description: "the source address of the connection cannot be trusted", cause: err,
	}
}

// reasonFor is the reason under which an error is counted. It is pure.
func reasonFor(err error, status int) string {
	var tok *token.Error
	switch {
	case errors.Is(err, errForeignConnection):
		return reasonAddress
	case errors.Is(err, sourceroute.ErrSource):
		return reasonSource
	case status == http.StatusTooManyRequests:
		return reasonRequests
	case errors.As(err, &tok) && tok.Refused:
		return reasonRefused
	case errors.As(err, &tok):
		return reasonUnavailable
	case errors.Is(err, podindex.ErrNotSynced), errors.Is(err, errEnding):
		return reasonStarting
	case errors.Is(err, podindex.ErrUnknown), errors.Is(err, podindex.ErrAmbiguous), errors.Is(err, podindex.ErrUncertain):
		return reasonUnknownPod
	}
	var api *apiError
	if errors.As(err, &api) && api.code == codeUnassigned {
		return reasonUnassigned
	}
	switch {
	case status == http.StatusForbidden:
		return reasonForbidden
	case status == http.StatusServiceUnavailable:
		return reasonUnavailable
	case status < http.StatusInternalServerError:
		return reasonInvalid
	}
	return reasonOther
}
