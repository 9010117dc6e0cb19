package main

import (
	"context"
	"fmt"
	"os"
	"time"

	"k8s.io/apimachinery/pkg/watch"

	v1 "github.com/aad-pod-identity/aad-pod-identity/api/v1"
)

// hear notes when a watch tells that identities are withdrawn, until ctx ends; ended
// is closed then. The API server ends each watch within an hour; what happens until
// the next one has begun is not noted.
func (c *churn) hear(ctx context.Context) (ended <-chan struct{}, err error) {
	done := make(chan struct{})
	_, changes, err := c.w.listAndWatch(ctx)
	if err != nil {
		close(done)
		return done, err
	}
	go func() {
		defer close(done)
		for {
			for e := range changes {
				c.heardOf(e, time.Now())
			}
			err := persist(ctx, func(ctx context.Context) (err error) {
				_, changes, err = c.w.listAndWatch(ctx)
				return err
			})
			if ctx.Err() != nil {
				return
			}
			if err != nil {
				fmt.Fprintln(os.Stderr, "bench: the watch beside NMI:", err)
				return
			}
		}
	}()
	return done, nil
}

func (c *churn) heardOf(e watch.Event, at time.Time) {
	a, ok := e.Object.(*v1.AzureAssignedIdentity)
	if !ok || e.Type != watch.Deleted {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	var n int
	if _, err := fmt.Sscanf(a.Spec.Pod, podNameFormat, &n); err == nil && c.asking[n] != nil {
		c.asking[n].heard = at
	}
}
