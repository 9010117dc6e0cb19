package main

import (
	"context"
	"fmt"
	"os"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/watch"

	v1 "github.com/aad-pod-identity/aad-pod-identity/api/v1"
)

// hear watches what NMI watches, until ctx ends: pods as the kubelet does, which acts
// by it, and assigned identities, to know when anybody can have heard of a withdrawal.
func (c *churn) hear(ctx context.Context) (*sync.WaitGroup, error) {
	ended := &sync.WaitGroup{}
	for what, begin := range map[string]func(context.Context) (<-chan watch.Event, error){
		"pods":                c.followPods,
		"assigned identities": c.followAssigned,
	} {
		events, err := begin(ctx)
		if err != nil {
			return ended, err
		}
		ended.Go(func() {
			for {
				for e := range events {
					c.heardOf(e, time.Now())
				}
				// The API server ends each watch within an hour.
				err := persist(ctx, func(ctx context.Context) (err error) {
					events, err = begin(ctx)
					return err
				})
				if ctx.Err() != nil {
					return
				}
				if err != nil {
					fmt.Fprintf(os.Stderr, "bench: watching %s: %v\n", what, err)
					return
				}
			}
		})
	}
	return ended, nil
}

// followAssigned misses what happens between two watches.
func (c *churn) followAssigned(ctx context.Context) (<-chan watch.Event, error) {
	_, events, err := c.w.listAndWatch(ctx)
	return events, err
}

// followPods tells of the pods that there are as well.
func (c *churn) followPods(ctx context.Context) (<-chan watch.Event, error) {
	pods := c.w.clientset.CoreV1().Pods(micNamespace)
	ofNode := fields.OneTermEqualSelector("spec.nodeName", nodeName(0)).String()
	there, err := pods.List(ctx, metav1.ListOptions{FieldSelector: ofNode})
	if err != nil {
		return nil, fmt.Errorf("listing pods: %w", err)
	}
	for i := range there.Items {
		c.heardOf(watch.Event{Type: watch.Modified, Object: &there.Items[i]}, time.Now())
	}
	watcher, err := pods.Watch(ctx, metav1.ListOptions{FieldSelector: ofNode, ResourceVersion: there.ResourceVersion})
	if err != nil {
		return nil, fmt.Errorf("watching pods: %w", err)
	}
	return watcher.ResultChan(), nil
}

func (c *churn) heardOf(e watch.Event, at time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch o := e.Object.(type) {
	case *corev1.Pod:
		p := c.named(o.Name)
		if p == nil {
			return
		}
		once(p.scheduled)
		if o.DeletionTimestamp != nil && p.deleted.IsZero() {
			p.deleted = at
			close(p.ending)
		}
	case *v1.AzureAssignedIdentity:
		if p := c.named(o.Spec.Pod); p != nil && e.Type == watch.Deleted {
			p.heard = at
		}
	}
}

// named finds a pod, or nil.
func (c *churn) named(name string) *churning {
	var n int
	if _, err := fmt.Sscanf(name, podNameFormat, &n); err != nil {
		return nil
	}
	return c.asking[n]
}

// once closes a channel that may be closed already.
func once(c chan struct{}) {
	select {
	case <-c:
	default:
		close(c)
	}
}
