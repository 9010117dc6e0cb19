package token

import (
	"context"
	"time"

	"github.com/aad-pod-identity/aad-pod-identity/internal/metric"
)

// Metered measures each request to the source below it.
type Metered struct {
	next    Source
	metrics *metric.NMI
}

// NewMetered makes a Metered on top of a source that asks IMDS.
func NewMetered(next Source, m *metric.NMI) *Metered { return &Metered{next, m} }

// Token implements Source.
func (m *Metered) Token(ctx context.Context, req Request) (Token, error) {
	start := time.Now()
	t, err := m.next.Token(ctx, req)
	m.metrics.IMDSDuration.WithLabelValues(metric.OpTokenUserAssigned).Observe(time.Since(start).Seconds())
	if err != nil {
		m.metrics.IMDSErrors.WithLabelValues(metric.OpTokenUserAssigned).Inc()
	}
	return t, err
}
