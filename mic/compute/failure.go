package compute

import (
	"errors"
	"time"

	"github.com/aad-pod-identity/aad-pod-identity/internal/azure/arm"
)

// Failure is ARM's refusal of an identity.
type Failure struct {
	// Code, Message and RequestID are ARM's.
	Code, Message, RequestID string
	// Fix says which role assignment is missing and how to make it; empty if the
	// reason is another one.
	Fix string
	// Attempts is how often it was refused in a row, on whatever target.
	Attempts int
	// RetryAt is when it is tried again.
	RetryAt time.Time
	// Fresh: it was refused on this target in this very pass, not in an earlier one
	// or on another target.
	Fresh bool
}

// Text is what to tell people: ARM's code and message, and what helps.
func (f Failure) Text() string {
	text := f.Code + ": " + f.Message
	if f.Fix != "" {
		text += "; " + f.Fix
	}
	return text
}

// failureOf describes a refusal of one identity.
func failureOf(id string, err error) Failure {
	f := Failure{Code: "RequestFailed", Message: err.Error()}
	var e *arm.Error
	if errors.As(err, &e) {
		f.Code, f.Message, f.RequestID = e.Code, e.Message, e.RequestID
		if e.Missing != nil {
			f.Fix = e.Missing.On(id).String()
		}
	}
	return f
}
