package azure

import (
	"math"
	"net/http"
	"slices"
	"strconv"
	"time"
)

// Provisioning and operation states as ARM names them.
const (
	stateSucceeded   = "Succeeded"
	stateUpdating    = "Updating"
	stateFailed      = "Failed"
	stateDeleting    = "Deleting"
	statusInProgress = "InProgress"
)

// Operation is a long-running PATCH. It ends lazily: whoever looks after EndTime finds it done, so nothing runs in the background.
type Operation struct {
	ID        string    `json:"id"`
	Resource  string    `json:"resource"`
	Status    string    `json:"status"`
	StartTime time.Time `json:"startTime"`
	EndTime   time.Time `json:"endTime"`
	// Result is the resource as it will be; it becomes visible to GET and IMDS when the operation succeeds.
	Result Compute `json:"result"`
	// Failure makes the operation fail and leaves the identities as they were.
	Failure *Failure `json:"failure,omitempty"`
	// ETagMoves is Settings.ETagMoves as it was when the operation began.
	ETagMoves bool `json:"etagMoves,omitempty"`
}

// Failure is the error of a failed operation.
type Failure struct {
	Code    string `json:"code"`
	Message string `json:"message"`
}

// finish applies an operation to its resource, unless that was deleted meanwhile.
func (r *registry) finish(op *Operation) {
	op.Status = stateSucceeded
	if op.Failure != nil {
		op.Status = stateFailed
	}
	c, ok := r.compute[key(op.Resource)]
	if !ok {
		return
	}
	if op.ETagMoves || op.Failure != nil {
		c.Version++
	}
	if op.Failure == nil {
		c.SystemAssigned, c.SystemPrincipalID, c.SystemClientID = op.Result.SystemAssigned, op.Result.SystemPrincipalID, op.Result.SystemClientID
		before := c.UserAssigned
		c.UserAssigned, c.Tags = op.Result.UserAssigned, op.Result.Tags
		for i, a := range c.UserAssigned {
			if !slices.ContainsFunc(before, func(b Assignment) bool { return key(b.ID) == key(a.ID) }) {
				c.UserAssigned[i].Since = op.EndTime
			}
		}
	}
	if c.ProvisioningState == stateUpdating {
		c.ProvisioningState = op.Status
	}
}

// running returns the unfinished operation of a resource, nil if there is none.
func (r *registry) running(id string) *Operation {
	for _, op := range r.operations {
		if op.Status == statusInProgress && key(op.Resource) == key(id) {
			return op
		}
	}
	return nil
}

// forget drops operations that ended long ago, as ARM does, so that a benchmark does not grow without bound.
func (r *registry) forget(before time.Time) {
	for id, op := range r.operations {
		if op.Status != statusInProgress && op.EndTime.Before(before) {
			delete(r.operations, id)
		}
	}
}

// setPollHeaders tells the client when to poll next: whole seconds in Retry-After, as ARM does, or
// milliseconds in a header that azcore knows when an emulated operation is shorter than that.
func setPollHeaders(h http.Header, wait time.Duration) {
	switch {
	case wait <= 0:
	case wait < time.Second:
		h.Set("x-ms-retry-after-ms", strconv.FormatInt(max(wait.Milliseconds(), 1), 10))
	default:
		h.Set("Retry-After", strconv.Itoa(int(math.Ceil(wait.Seconds()))))
	}
}

// pollAfter is how long a client should wait before it polls an operation.
func (s Settings) pollAfter(left time.Duration) time.Duration {
	if s.PollAfter != 0 {
		return time.Duration(s.PollAfter)
	}
	return min(left, 10*time.Second)
}
