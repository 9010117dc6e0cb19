package azure

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"time"
)

// apiError is an error answer of ARM. It is also what faults make.
type apiError struct {
	Status     int
	Code       string
	Message    string
	RetryAfter time.Duration
}

func (e *apiError) Error() string { return fmt.Sprintf("%d %s: %s", e.Status, e.Code, e.Message) }

func badRequest(code, message string) *apiError {
	return &apiError{Status: http.StatusBadRequest, Code: code, Message: message}
}

// writeARMError is the one place where an error becomes ARM's body and headers.
func writeARMError(w http.ResponseWriter, err *apiError) {
	if err.RetryAfter > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(seconds(err.RetryAfter)))
	}
	w.Header().Set("x-ms-failure-cause", "gateway")
	noteError(w, err.Code)
	writeJSON(w, err.Status, map[string]any{"error": map[string]any{"code": err.Code, "message": err.Message}})
}

// seconds rounds up, so that a client that obeys is never early.
func seconds(d time.Duration) int { return int((d + time.Second - 1) / time.Second) }

func writeJSON(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	data, err := json.Marshal(body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Length", strconv.Itoa(len(data)))
	w.WriteHeader(status)
	_, _ = w.Write(data) // the client may be gone
}
