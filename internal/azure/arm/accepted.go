package arm

import (
	"net/http"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
)

// acceptedPatch lets a PATCH be answered by 202. ARM's contract of asynchronous
// operations allows 200 and 202 alike, while the operations of armcompute take
// only the status that its API description lists, 200, and fail otherwise,
// although the change is under way. A 202 that does not say where to ask for the
// outcome stays what it is.
type acceptedPatch struct{}

// Do implements policy.Policy.
func (acceptedPatch) Do(req *policy.Request) (*http.Response, error) {
	r, err := req.Next()
	if err != nil || req.Raw().Method != http.MethodPatch || r.StatusCode != http.StatusAccepted {
		return r, err
	}
	if r.Header.Get("Azure-AsyncOperation") != "" || r.Header.Get("Location") != "" {
		r.StatusCode, r.Status = http.StatusOK, "200 OK"
	}
	return r, nil
}
