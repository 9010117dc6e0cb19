package compute

import (
	"sync"
	"time"
)

// answers remembers whether the ETag in the answer to a PATCH is still that of
// the resource once the operation has ended. It saves the GET before the next
// PATCH; where Azure moves it on, the next PATCH would be refused each time.
type answers struct {
	mu    sync.Mutex
	until time.Time
}

// distrustFor is how long the ETags of answers are not used after one was
// refused although nothing of interest had changed. That may have been a mere
// coincidence, such as an autoscaler at work.
const distrustFor = time.Hour

func (a *answers) distrust(now time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.until = now.Add(distrustFor)
}

func (a *answers) trusted(now time.Time) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return !now.Before(a.until)
}
