package run

import (
	"context"
	"time"

	"k8s.io/klog/v2"
)

// Waits between two attempts of Retry.
const (
	firstRetry = time.Second
	lastRetry  = 30 * time.Second
)

// Retry calls step until it returns nil, with growing waits between, or until ctx
// ends: then it returns ctx's error. What names the step in the log, where each reason
// for another attempt is said when it changes. A step that went well for longer than
// the longest wait begins with the shortest again.
func Retry(ctx context.Context, what string, step func(context.Context) error) error {
	wait, said := firstRetry, ""
	for {
		start := time.Now()
		err := step(ctx)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err == nil {
			return nil
		}
		if time.Since(start) > lastRetry {
			wait, said = firstRetry, ""
		}
		if text := err.Error(); text != said {
			said = text
			klog.FromContext(ctx).Error(err, "Trying again: "+what)
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		case <-timer.C:
		}
		wait = min(2*wait, lastRetry)
	}
}
