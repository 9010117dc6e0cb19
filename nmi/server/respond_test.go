package server

import (
	"net/http"
	"testing"
	"time"
)

// TestRetryAfterIsNeverEarly: the header has whole seconds.
func TestRetryAfterIsNeverEarly(t *testing.T) {
	for after, want := range map[time.Duration]string{
		0: "", time.Nanosecond: "1", time.Second: "1", 9400 * time.Millisecond: "10", 20 * time.Second: "20",
	} {
		rec := &answer{header: http.Header{}}
		respondError(rec, &apiError{status: http.StatusServiceUnavailable, retryAfter: after})
		if got := rec.header.Get("Retry-After"); got != want {
			t.Errorf("after %s: %q, want %q", after, got, want)
		}
	}
}
