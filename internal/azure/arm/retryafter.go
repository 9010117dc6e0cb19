package arm

import (
	"net/http"
	"strconv"
	"time"
)

// RetryAfter returns how long a response asks to wait: Retry-After in seconds
// or as a date, or one of the headers in milliseconds that Azure's services
// also use. 0 means it does not ask. A date is compared with the response's own (RFC
// 9110, sections 6.6.1 and 10.2.3), for the clock of this machine may be wrong.
func RetryAfter(h http.Header) time.Duration {
	for _, name := range []string{"retry-after-ms", "x-ms-retry-after-ms"} {
		if ms, err := strconv.Atoi(h.Get(name)); err == nil && ms > 0 {
			return time.Duration(ms) * time.Millisecond
		}
	}
	value := h.Get("Retry-After")
	if s, err := strconv.Atoi(value); err == nil {
		return max(0, time.Duration(s)*time.Second)
	}
	if at, err := http.ParseTime(value); err == nil {
		if sent, err := http.ParseTime(h.Get("Date")); err == nil {
			return max(0, at.Sub(sent))
		}
		return max(0, time.Until(at))
	}
	return 0
}
