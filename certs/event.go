package certs

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// eventController is the reporter of the events.
const eventController = "aadpodidentity.k8s.io/webhook"

// Pod is the pod that this process runs in; without a name there is none.
type Pod struct {
	Namespace, Name string
	// UID lets `kubectl describe pod` find the pod's events.
	UID types.UID
}

// Events returns a function that writes warnings about a pod, for NewWarner.
func Events(config *rest.Config, pod Pod) (func(ctx context.Context, reason, note string) error, error) {
	if pod.Name == "" {
		return func(context.Context, string, string) error { return nil }, nil
	}
	scheme := runtime.NewScheme()
	if err := eventsv1.AddToScheme(scheme); err != nil {
		return nil, fmt.Errorf("registering the API types: %w", err)
	}
	c, err := client.New(config, client.Options{Scheme: scheme})
	if err != nil {
		return nil, fmt.Errorf("preparing the client of events: %w", err)
	}
	return func(ctx context.Context, reason, note string) error {
		if err := c.Create(ctx, event(pod, reason, note, time.Now())); err != nil {
			return fmt.Errorf("creating an event about pod %s/%s: %w", pod.Namespace, pod.Name, err)
		}
		return nil
	}, nil
}

func event(pod Pod, reason, note string, now time.Time) *eventsv1.Event {
	return &eventsv1.Event{
		ObjectMeta:          metav1.ObjectMeta{Namespace: pod.Namespace, GenerateName: pod.Name + "-"},
		EventTime:           metav1.NewMicroTime(now),
		ReportingController: eventController,
		ReportingInstance:   pod.Name,
		Action:              "Serving",
		Reason:              reason,
		Regarding:           corev1.ObjectReference{APIVersion: "v1", Kind: "Pod", Namespace: pod.Namespace, Name: pod.Name, UID: pod.UID},
		Note:                note,
		Type:                corev1.EventTypeWarning,
	}
}
