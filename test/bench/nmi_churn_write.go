package main

import (
	"context"
	"errors"
	"net"
	"syscall"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	v1 "github.com/aad-pod-identity/aad-pod-identity/api/v1"
	"github.com/aad-pod-identity/aad-pod-identity/test/azure"
)

// What scheduler, kubelet and MIC write about a pod. In an hour on a busy machine the
// API server or etcd is slow once, and nobody knows then whether what was written is
// there: each write can be repeated.

// persist repeats a write as long as only the API server's state is the reason that it
// fails, for churnPatience.
func persist(ctx context.Context, write func(context.Context) error) error {
	patience, cancel := context.WithTimeout(ctx, churnPatience)
	defer cancel()
	for {
		err := write(patience)
		if !passing(err) {
			return err
		}
		if waited := pause(patience, time.Second); waited != nil {
			return errors.Join(err, ctx.Err())
		}
	}
}

// passing says whether an error is one of an API server that is slow or busy.
func passing(err error) bool {
	var timeout net.Error
	return apierrors.IsServerTimeout(err) || apierrors.IsTimeout(err) || apierrors.IsTooManyRequests(err) ||
		apierrors.IsServiceUnavailable(err) || apierrors.IsInternalError(err) || apierrors.IsConflict(err) ||
		errors.Is(err, syscall.ECONNRESET) || errors.As(err, &timeout) && timeout.Timeout()
}

// create makes a pod on the node.
func (c *churn) create(ctx context.Context, name string) (created *corev1.Pod, err error) {
	pods := c.w.clientset.CoreV1().Pods(micNamespace)
	err = persist(ctx, func(ctx context.Context) (err error) {
		created, err = pods.Create(ctx, podOn(nodeName(0), name), metav1.CreateOptions{})
		if apierrors.IsAlreadyExists(err) { // names are used once: it is this one
			created, err = pods.Get(ctx, name, metav1.GetOptions{})
		}
		return err
	})
	return created, err
}

// report says that the pod runs and which address it has.
func (c *churn) report(ctx context.Context, pod *corev1.Pod, address string) error {
	pods := c.w.clientset.CoreV1().Pods(micNamespace)
	pod.Status = runningAt(address)
	return persist(ctx, func(ctx context.Context) error {
		_, err := pods.UpdateStatus(ctx, pod, metav1.UpdateOptions{})
		if apierrors.IsConflict(err) {
			now, failed := pods.Get(ctx, pod.Name, metav1.GetOptions{})
			if failed != nil {
				return failed
			}
			pod.ResourceVersion = now.ResourceVersion
		}
		return err
	})
}

// assign gives a pod an identity: the object first, then that it is on the node.
func (c *churn) assign(ctx context.Context, pod *corev1.Pod, id azure.Identity) (*v1.AzureAssignedIdentity, error) {
	assigned := assignedIdentity(pod.Name, nodeName(0), id, v1.AssignedIDCreated)
	assigned.Annotations = map[string]string{v1.PodUIDAnnotationKey: string(pod.UID)}
	err := persist(ctx, func(ctx context.Context) error {
		err := c.w.client.Create(ctx, assigned)
		if apierrors.IsAlreadyExists(err) {
			return c.w.client.Get(ctx, client.ObjectKeyFromObject(assigned), assigned)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return assigned, persist(ctx, func(ctx context.Context) error {
		assigned.Status.Status = v1.AssignedIDAssigned
		err := c.w.client.Update(ctx, assigned)
		if apierrors.IsConflict(err) {
			return errors.Join(c.w.client.Get(ctx, client.ObjectKeyFromObject(assigned), assigned), err)
		}
		return err
	})
}

// remove repeats a deletion until the object is gone or going.
func remove(ctx context.Context, deletion func(context.Context) error) error {
	return persist(ctx, func(ctx context.Context) error { return client.IgnoreNotFound(deletion(ctx)) })
}
