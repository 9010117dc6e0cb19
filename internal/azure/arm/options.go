package arm

import (
	"net/http"
	"time"

	azarm "github.com/Azure/azure-sdk-for-go/sdk/azcore/arm"
	azpolicy "github.com/Azure/azure-sdk-for-go/sdk/azcore/arm/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"

	"github.com/aad-pod-identity/aad-pod-identity/internal/azure/cloud"
)

// tryTimeout bounds one HTTP exchange. ARM answers within seconds; answers that
// took a quarter of an hour have been seen, and a new try is quicker.
const tryTimeout = 60 * time.Second

// ClientOptions returns the options for clients of c's Resource Manager. All
// clients of the process must share one budget. userAgent goes in front of the
// SDK's own.
func ClientOptions(c *cloud.Cloud, budget *Budget, userAgent string) *azarm.ClientOptions {
	return &azpolicy.ClientOptions{
		ClientOptions: policy.ClientOptions{
			Cloud:     c.Environment.Configuration,
			Transport: c.HTTP,
			Retry: policy.RetryOptions{
				MaxRetries:    2,
				RetryDelay:    500 * time.Millisecond,
				MaxRetryDelay: 5 * time.Second,
				TryTimeout:    tryTimeout,
				// 429 is not among them: the budget and the caller's queue wait, not
				// a worker, and everybody waits, not only this call.
				StatusCodes: []int{http.StatusRequestTimeout, http.StatusInternalServerError, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout},
			},
			PerCallPolicies:  []policy.Policy{userAgentPolicy(userAgent), acceptedPatch{}},
			PerRetryPolicies: []policy.Policy{budget, refusedToken{c}, countSent{}},
		},
		// The compute provider is registered in any subscription that has nodes,
		// and MIC may not register providers.
		DisableRPRegistration: true,
	}
}

// userAgentPolicy sets the product's name: azcore's own option for it is cut at
// 24 characters.
type userAgentPolicy string

// Do implements policy.Policy.
func (p userAgentPolicy) Do(req *policy.Request) (*http.Response, error) {
	if p != "" {
		req.Raw().Header.Set("User-Agent", string(p)+" "+req.Raw().Header.Get("User-Agent"))
	}
	return req.Next()
}

// refusedToken tells the credential of tokens that ARM does not take.
type refusedToken struct{ cloud *cloud.Cloud }

// Do implements policy.Policy.
func (p refusedToken) Do(req *policy.Request) (*http.Response, error) {
	response, err := req.Next()
	if err == nil && response.StatusCode == http.StatusUnauthorized {
		p.cloud.Credential.Refused()
	}
	return response, err
}
