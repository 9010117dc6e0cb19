package azure

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"
)

// Fault makes matching requests go wrong. Empty matchers match all.
type Fault struct {
	ID string `json:"id,omitempty"`

	Service   string `json:"service,omitempty"`
	Operation string `json:"operation,omitempty"`
	// Match is a part of path and query (escaped or not), compared without regard to case, to aim at one resource.
	Match string `json:"match,omitempty"`
	// BodyMatch is a part of an ARM PATCH's body, likewise.
	BodyMatch string `json:"bodyMatch,omitempty"`
	// Count is how many requests are hit; 0 means all until the fault is removed. Skip lets that many pass first.
	Count int `json:"count,omitempty"`
	Skip  int `json:"skip,omitempty"`

	// Delay waits first. It may stand alone.
	Delay Duration `json:"delay,omitempty"`
	// Status, Code and Message are the answer instead of the real one. RetryAfter is in seconds; RetryAfterDate
	// sends it as an HTTP date. RawBody replaces the JSON body, to say what a proxy or a load balancer would.
	Status         int    `json:"status,omitempty"`
	Code           string `json:"code,omitempty"`
	Message        string `json:"message,omitempty"`
	RetryAfter     int    `json:"retryAfter,omitempty"`
	RetryAfterDate bool   `json:"retryAfterDate,omitempty"`
	RawBody        string `json:"rawBody,omitempty"`
	// Drop closes the connection without an answer, Hang never answers until the client gives up.
	Drop bool `json:"drop,omitempty"`
	Hang bool `json:"hang,omitempty"`
	// After carries the request out first and then loses its answer to the other effects: the client cannot know.
	After bool `json:"after,omitempty"`
	// Async accepts a PATCH and makes its long-running operation fail with Code and Message.
	Async bool `json:"async,omitempty"`
}

func (f Fault) validate() error {
	switch {
	case f.Service != "" && f.Service != ServiceARM && f.Service != ServiceAAD && f.Service != ServiceIMDS:
		return errors.New("service is none of arm, aad, imds")
	case f.Count < 0 || f.Skip < 0 || f.Delay < 0 || f.RetryAfter < 0:
		return errors.New("count, skip, delay and retryAfter must not be negative")
	case f.Status != 0 && (f.Status < 200 || f.Status > 599):
		return errors.New("status must be between 200 and 599")
	case f.Status == 0 && !f.Drop && !f.Hang && !f.Async && f.Delay == 0:
		return errors.New("a fault needs an effect: status, drop, hang, async or delay")
	case f.Async && f.Code == "":
		return errors.New("an async fault needs a code")
	}
	return nil
}

type faults struct {
	mu   sync.Mutex
	list []*Fault
}

func (f *faults) add(fault Fault) (Fault, error) {
	if err := fault.validate(); err != nil {
		return Fault{}, err
	}
	if fault.ID == "" {
		fault.ID = uuid.NewString()
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.list = append(f.list, &fault)
	return fault, nil
}

func (f *faults) remove(id string) (found bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	kept := f.list[:0]
	for _, fault := range f.list {
		if id != "" && fault.ID != id {
			kept = append(kept, fault)
		} else {
			found = true
		}
	}
	f.list = kept
	return found
}

func (f *faults) dump() []Fault {
	f.mu.Lock()
	defer f.mu.Unlock()
	list := []Fault{}
	for _, fault := range f.list {
		list = append(list, *fault)
	}
	return list
}

// take returns the first fault that hits the call and uses it up.
func (f *faults) take(c Call) *Fault {
	f.mu.Lock()
	defer f.mu.Unlock()
	target := key(c.Path + "?" + c.Query)
	if plain, err := url.QueryUnescape(c.Query); err == nil {
		target += "\n" + key(plain)
	}
	for i, fault := range f.list {
		if (fault.Service != "" && fault.Service != c.Service) || (fault.Operation != "" && fault.Operation != c.Operation) ||
			!strings.Contains(target, key(fault.Match)) || !strings.Contains(key(c.Body), key(fault.BodyMatch)) {
			continue
		}
		if fault.Skip > 0 {
			fault.Skip--
			continue
		}
		hit := *fault
		if fault.Count > 0 {
			if fault.Count--; fault.Count == 0 {
				f.list = append(f.list[:i:i], f.list[i+1:]...)
			}
		}
		return &hit
	}
	return nil
}

// answer has the effect of the fault on the connection. It reports whether the request is dealt with.
func (f *Fault) answer(ctx context.Context, w *callWriter) bool {
	switch {
	case f.Hang:
		w.call.Status, w.call.Error = 0, "hung"
		<-ctx.Done()
		return true
	case f.Drop:
		w.call.Status, w.call.Error = 0, "dropped"
		return true
	case f.Status == 0 || f.Async:
		return false
	}
	w.call.Status = 0
	retryAfter := time.Duration(f.RetryAfter) * time.Second
	if f.RetryAfterDate && f.RetryAfter > 0 {
		w.Header().Set("Retry-After", time.Now().Add(retryAfter).UTC().Format(http.TimeFormat))
		retryAfter = 0
	}
	switch {
	case f.RawBody != "":
		w.WriteHeader(f.Status)
		_, _ = w.Write([]byte(f.RawBody))
	case w.call.Service == ServiceARM:
		writeARMError(w, &apiError{Status: f.Status, Code: orDefault(f.Code, http.StatusText(f.Status)), Message: f.Message, RetryAfter: retryAfter})
	default:
		writeOAuthError(w, &apiError{Status: f.Status, Code: orDefault(f.Code, "server_error"), Message: f.Message, RetryAfter: retryAfter})
	}
	return true
}

func orDefault(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}

// sleep waits unless the client leaves first.
func sleep(ctx context.Context, d time.Duration) {
	if d <= 0 {
		return
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}
