package token

import (
	"context"
	"errors"
	"time"

	"github.com/aad-pod-identity/aad-pod-identity/internal/metric"
)

// Metered measures each request to the source below it.
type Metered struct {
	next      Source
	metrics   *metric.NMI
	operation string
}

// NewMetered makes a Metered on top of a source that asks IMDS or Azure AD, under
// the name of the operation.
func NewMetered(next Source, m *metric.NMI, operation string) *Metered {
	return &Metered{next, m, operation}
}

// Token implements Source.
func (m *Metered) Token(ctx context.Context, req Request) (Token, error) {
	start := time.Now()
	t, err := m.next.Token(ctx, req)
	m.metrics.IMDSDuration.WithLabelValues(m.operation).Observe(time.Since(start).Seconds())
	if err != nil && !errors.Is(err, context.Canceled) { // nobody waits for it any more
		m.metrics.IMDSErrors.WithLabelValues(m.operation).Inc()
	}
	return t, err
}
