package server

import (
	"errors"
	"io"
	"net/http"
	"os"
)

// dropBody reads a body that nobody needs, as far as it has to come: net/http notices
// only after its end that the client has left. It is read here, not beside the request,
// since net/http lifts the deadline of a read that is under way when the handler ends.
func dropBody(w http.ResponseWriter, r *http.Request) error {
	if r.ContentLength == 0 {
		return nil
	}
	_, err := io.Copy(io.Discard, http.MaxBytesReader(w, r.Body, maxBody))
	var tooLong *http.MaxBytesError
	switch {
	case err == nil:
		r.Body, r.ContentLength = http.NoBody, 0
		return nil
	case errors.As(err, &tooLong):
		return bodyTooLong()
	case errors.Is(err, os.ErrDeadlineExceeded):
		return invalidRequest("the body that was announced did not come in time")
	case r.Context().Err() != nil:
		return r.Context().Err()
	}
	return invalidRequest("the body cannot be read")
}

func bodyTooLong() error {
	return &apiError{status: http.StatusRequestEntityTooLarge, code: "invalid_request", description: "the body is too long"}
}
