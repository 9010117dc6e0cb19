package azure

import (
	"bytes"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"
)

// Services that a call or a fault can belong to.
const (
	ServiceARM  = "arm"
	ServiceAAD  = "aad"
	ServiceIMDS = "imds"
)

// Operations, the names by which calls are counted and faults are aimed.
const (
	OpVMGet         = "vm_get"
	OpVMUpdate      = "vm_update"
	OpVMSSGet       = "vmss_get"
	OpVMSSUpdate    = "vmss_update"
	OpOperationGet  = "operation_get"
	OpTenants       = "tenants"
	OpSubscriptions = "subscriptions"
	// OpForbidden is every request that could touch instances (manualupgrade, reimage, restart, …) or replace a
	// resource. The emulator refuses it; a test asserts that there was none.
	OpForbidden = "forbidden"

	OpToken     = "token"
	OpDiscovery = "discovery"
	OpKeys      = "keys"

	OpIMDSToken    = "imds_token"
	OpIMDSInstance = "imds_instance"

	// OpUnknown is a request to no known endpoint.
	OpUnknown = "unknown"
)

// Call is one request that the emulator answered.
type Call struct {
	Seq       int64     `json:"seq"`
	Time      time.Time `json:"time"`
	Duration  Duration  `json:"duration"`
	Service   string    `json:"service"`
	Operation string    `json:"operation"`
	Method    string    `json:"method"`
	Path      string    `json:"path"`
	// Query is left out for the token endpoint of AAD, whose parameters are secrets.
	Query  string `json:"query,omitempty"`
	Status int    `json:"status"`
	// Error is the code of the error answered, empty for none. A dropped connection has status 0 and error "dropped".
	Error string `json:"error,omitempty"`
	// Principal is the caller's object ID and AppID its client ID, as its token (ARM) or credential (AAD) says.
	Principal string `json:"principal,omitempty"`
	AppID     string `json:"appID,omitempty"`
	// Node is the VM or instance whose IMDS was asked.
	Node         string `json:"node,omitempty"`
	Source       string `json:"source,omitempty"`
	UserAgent    string `json:"userAgent,omitempty"`
	ForwardedFor string `json:"forwardedFor,omitempty"`
	RequestID    string `json:"requestID,omitempty"`
	// Body is that of an ARM PATCH.
	Body string `json:"body,omitempty"`
}

// CallFilter selects calls; empty fields match all.
type CallFilter struct {
	Service   string
	Operation string
	// PathContains is compared without regard to case.
	PathContains string
	// After selects calls with a greater Seq.
	After int64
}

func (f CallFilter) match(c Call) bool {
	return (f.Service == "" || f.Service == c.Service) &&
		(f.Operation == "" || f.Operation == c.Operation) &&
		(f.PathContains == "" || strings.Contains(key(c.Path), key(f.PathContains))) &&
		c.Seq > f.After
}

// maxCalls bounds the memory of a long benchmark; the oldest calls are forgotten first.
const maxCalls = 200_000

type recorder struct {
	mu    sync.Mutex
	seq   int64
	calls []Call
	log   func(Call)
}

func (r *recorder) add(c Call) {
	r.mu.Lock()
	r.seq++
	c.Seq = r.seq
	if len(r.calls) >= maxCalls {
		r.calls = slices.Delete(r.calls, 0, maxCalls/10)
	}
	r.calls = append(r.calls, c)
	log := r.log
	r.mu.Unlock()
	if log != nil {
		log(c)
	}
}

func (r *recorder) list(f CallFilter) []Call {
	r.mu.Lock()
	defer r.mu.Unlock()
	found := []Call{}
	for _, c := range r.calls {
		if f.match(c) {
			found = append(found, c)
		}
	}
	return found
}

// clear forgets the calls. Seq goes on, so that a filter by After stays valid.
func (r *recorder) clear() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.calls = nil
}

// callWriter notes what a handler answers.
type callWriter struct {
	http.ResponseWriter
	call *Call
}

func (w *callWriter) WriteHeader(status int) {
	if w.call.Status == 0 {
		w.call.Status = status
	}
	w.ResponseWriter.WriteHeader(status)
}

func (w *callWriter) Write(p []byte) (int, error) {
	if w.call.Status == 0 {
		w.call.Status = http.StatusOK
	}
	return w.ResponseWriter.Write(p)
}

// noteError records the error code of an answer.
func noteError(w http.ResponseWriter, code string) {
	if cw, ok := w.(*callWriter); ok {
		cw.call.Error = code
	}
}

// noteCaller records who calls.
func noteCaller(w http.ResponseWriter, principal, appID string) {
	if cw, ok := w.(*callWriter); ok {
		cw.call.Principal, cw.call.AppID = principal, appID
	}
}

// lostWriter takes an answer that nobody gets.
type lostWriter struct{ header http.Header }

func (w lostWriter) Header() http.Header         { return w.header }
func (w lostWriter) Write(p []byte) (int, error) { return len(p), nil }
func (w lostWriter) WriteHeader(int)             {}

// memoryWriter keeps an answer in memory.
type memoryWriter struct {
	header http.Header
	status int
	body   bytes.Buffer
}

func (w *memoryWriter) Header() http.Header         { return w.header }
func (w *memoryWriter) Write(p []byte) (int, error) { return w.body.Write(p) }
func (w *memoryWriter) WriteHeader(status int)      { w.status = status }

func (w *memoryWriter) sendTo(to http.ResponseWriter) {
	to.WriteHeader(w.status)
	_, _ = to.Write(w.body.Bytes()) // the client may be gone
}
