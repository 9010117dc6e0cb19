package azure

import (
	"errors"
	"fmt"
	"net/http"
	"time"
)

// Duration is a time.Duration that reads and writes as text ("1.5s") in JSON.
type Duration time.Duration

// MarshalText implements encoding.TextMarshaler.
func (d Duration) MarshalText() ([]byte, error) { return []byte(time.Duration(d).String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (d *Duration) UnmarshalText(text []byte) error {
	parsed, err := time.ParseDuration(string(text))
	*d = Duration(parsed)
	return err
}

// Settings are the knobs that may change while the emulator runs. The zero value is a
// cloud that answers at once, ends every operation by the time it is first polled, and
// throttles nobody.
type Settings struct {
	// ARMRead and ARMWrite delay the answer to a GET and to the first answer of a PATCH.
	ARMRead  Duration `json:"armRead,omitzero"`
	ARMWrite Duration `json:"armWrite,omitzero"`
	// VMOperation and VMSSOperation are how long an accepted PATCH runs (10–20 s and 40–60 s in Azure).
	VMOperation   Duration `json:"vmOperation,omitzero"`
	VMSSOperation Duration `json:"vmssOperation,omitzero"`
	// PollAfter overrides the Retry-After of long-running operations; 0 derives it from the time left, 10 s at most.
	PollAfter Duration `json:"pollAfter,omitzero"`
	// PatchStatus is the status of an accepted PATCH: 202, which ARM's contract of asynchronous operations prescribes and 0 means, or
	// 200, which Compute's API description lists and without which armcompute by itself fails.
	PatchStatus int `json:"patchStatus,omitzero"`
	// PatchWithoutBody answers an accepted PATCH by its headers alone, without the resource and its ETag.
	PatchWithoutBody bool `json:"patchWithoutBody,omitzero"`
	// ETagMoves gives a resource another ETag when an operation on it ends; else it keeps the one that the PATCH was answered with.
	ETagMoves bool `json:"etagMoves,omitzero"`
	// IDStyle is the capitalisation of IDs that ARM returns.
	IDStyle IDStyle `json:"idStyle,omitzero"`
	// Throttle switches ARM's request limits on.
	Throttle Throttle `json:"throttle,omitzero"`

	// AAD delays answers of the token endpoint, IMDS those of identity requests.
	AAD  Duration `json:"aad,omitzero"`
	IMDS Duration `json:"imds,omitzero"`
	// IMDSLag is how long after an operation IMDS still does not know the identities that it added.
	IMDSLag Duration `json:"imdsLag,omitzero"`
	// IMDSPerSecond and IMDSConcurrent limit identity requests of one node (20 and 5 in Azure); 0 is no limit.
	IMDSPerSecond  int `json:"imdsPerSecond,omitzero"`
	IMDSConcurrent int `json:"imdsConcurrent,omitzero"`
	// TokenLifetime is that of AAD's tokens (default 1 h), IMDSTokenLifetime that of managed identities' (default 24 h).
	TokenLifetime     Duration `json:"tokenLifetime,omitzero"`
	IMDSTokenLifetime Duration `json:"imdsTokenLifetime,omitzero"`
	// RefreshIn makes IMDS and AAD answer refresh_in; 0 leaves it out.
	RefreshIn Duration `json:"refreshIn,omitzero"`
}

// Throttle holds ARM's token buckets. A bucket of size 0 is off.
type Throttle struct {
	// Reads and Writes are kept for each pair of subscription and principal. Azure: 250 refilled by 25/s, 200 by 10/s.
	Reads  Bucket `json:"reads,omitzero"`
	Writes Bucket `json:"writes,omitzero"`
	// Resource is kept for each VM or scale set, over reads and writes together.
	Resource Bucket `json:"resource,omitzero"`
}

// Bucket is a token bucket: Size requests at once, refilled by PerSecond.
type Bucket struct {
	Size      int     `json:"size"`
	PerSecond float64 `json:"perSecond"`
}

// DefaultThrottle is what ARM documents for one subscription and principal.
func DefaultThrottle() Throttle {
	return Throttle{Reads: Bucket{Size: 250, PerSecond: 25}, Writes: Bucket{Size: 200, PerSecond: 10}}
}

func (s Settings) validate() error {
	var errs []error
	if !s.IDStyle.valid() {
		errs = append(errs, fmt.Errorf("idStyle %q is unknown", s.IDStyle))
	}
	if s.PatchStatus != 0 && s.PatchStatus != http.StatusOK && s.PatchStatus != http.StatusAccepted {
		errs = append(errs, fmt.Errorf("patchStatus %d is neither 200 nor 202", s.PatchStatus))
	}
	for name, b := range map[string]Bucket{"reads": s.Throttle.Reads, "writes": s.Throttle.Writes, "resource": s.Throttle.Resource} {
		if b.Size < 0 || b.PerSecond < 0 || (b.Size > 0 && b.PerSecond == 0) {
			errs = append(errs, fmt.Errorf("throttle.%s needs a positive size and perSecond", name))
		}
	}
	for name, d := range map[string]Duration{
		"armRead": s.ARMRead, "armWrite": s.ARMWrite, "vmOperation": s.VMOperation, "vmssOperation": s.VMSSOperation, "pollAfter": s.PollAfter,
		"aad": s.AAD, "imds": s.IMDS, "imdsLag": s.IMDSLag, "tokenLifetime": s.TokenLifetime, "imdsTokenLifetime": s.IMDSTokenLifetime, "refreshIn": s.RefreshIn,
	} {
		if d < 0 {
			errs = append(errs, fmt.Errorf("%s must not be negative", name))
		}
	}
	if s.IMDSPerSecond < 0 || s.IMDSConcurrent < 0 {
		errs = append(errs, errors.New("imdsPerSecond and imdsConcurrent must not be negative"))
	}
	return errors.Join(errs...)
}

func (s Settings) patchStatus() int {
	if s.PatchStatus == 0 {
		return http.StatusAccepted
	}
	return s.PatchStatus
}

func (s Settings) tokenLifetime() time.Duration {
	if s.TokenLifetime == 0 {
		return time.Hour
	}
	return time.Duration(s.TokenLifetime)
}

func (s Settings) imdsTokenLifetime() time.Duration {
	if s.IMDSTokenLifetime == 0 {
		return 24 * time.Hour
	}
	return time.Duration(s.IMDSTokenLifetime)
}
