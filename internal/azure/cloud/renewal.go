package cloud

import (
	"context"
	"sync"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
)

// renewEvery is how often a credential is begun anew at most: whoever is refused for
// another reason must not ask for a token each time.
const renewEvery = time.Minute

// Renewable is a credential that can be begun anew, without the tokens it has. Those of
// azidentity give the same token until it expires by this machine's clock: when that is
// set back, or a token revoked, Azure refuses what they go on giving.
type Renewable struct {
	begin func() (azcore.TokenCredential, error)

	mu      sync.Mutex
	current azcore.TokenCredential
	begun   time.Time
}

// NewRenewable returns a credential that begin makes, now and whenever it is renewed.
func NewRenewable(begin func() (azcore.TokenCredential, error)) (*Renewable, error) {
	current, err := begin()
	if err != nil {
		return nil, err
	}
	return &Renewable{begin: begin, current: current}, nil
}

// GetToken implements azcore.TokenCredential.
func (r *Renewable) GetToken(ctx context.Context, o policy.TokenRequestOptions) (azcore.AccessToken, error) {
	r.mu.Lock()
	current := r.current
	r.mu.Unlock()
	return current.GetToken(ctx, o)
}

// Refused says that Azure did not take a token (401), so the next one shall be new. It
// does so once a minute at most.
func (r *Renewable) Refused() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if time.Since(r.begun) < renewEvery {
		return
	}
	// What could be made once can be made again; if not, what there is stays.
	if current, err := r.begin(); err == nil {
		r.current, r.begun = current, time.Now()
	}
}
