package uninstall

import (
	"cmp"
	"context"
	"fmt"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	v1 "github.com/aad-pod-identity/aad-pod-identity/api/v1"
	marker "github.com/aad-pod-identity/aad-pod-identity/internal/uninstall"
)

// gather looks at the cluster once.
func gather(ctx context.Context, c client.Client, o options) (facts, error) {
	f := facts{mic: micFacts{expected: o.micDeployment != ""}}

	cm := &corev1.ConfigMap{}
	err := c.Get(ctx, client.ObjectKey{Namespace: o.Namespace, Name: marker.Name}, cm)
	if client.IgnoreNotFound(err) != nil {
		return f, fmt.Errorf("reading ConfigMap %s: %w", marker.Name, err)
	}
	f.marker = cm.Data

	if f.mic.expected {
		mic := &appsv1.Deployment{}
		err := c.Get(ctx, client.ObjectKey{Namespace: o.Namespace, Name: o.micDeployment}, mic)
		if client.IgnoreNotFound(err) != nil {
			return f, fmt.Errorf("reading Deployment %s: %w", o.micDeployment, err)
		}
		if err == nil {
			f.mic.replicas, f.mic.ready = 1, mic.Status.ReadyReplicas
			if mic.Spec.Replicas != nil {
				f.mic.replicas = *mic.Spec.Replicas
			}
		}
	}
	if f.assigned, err = countAssigned(ctx, c); err != nil {
		return f, err
	}
	ledgers := &metav1.PartialObjectMetadataList{}
	ledgers.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("ConfigMapList"))
	if err := c.List(ctx, ledgers, client.InNamespace(o.Namespace), client.MatchingLabels{v1.LedgerLabelKey: "true"}); err != nil {
		return f, fmt.Errorf("listing ownership ledgers: %w", err)
	}
	f.ledgers = len(ledgers.Items)

	return f, f.gatherNMIs(ctx, c, o)
}

// countAssigned counts the AzureAssignedIdentities of all namespaces. There are
// none where their CRD is gone.
func countAssigned(ctx context.Context, c client.Client) (int, error) {
	list := &metav1.PartialObjectMetadataList{}
	list.SetGroupVersionKind(v1.GroupVersion.WithKind("AzureAssignedIdentityList"))
	err := c.List(ctx, list)
	if meta.IsNoMatchError(err) || apierrors.IsNotFound(err) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("listing AzureAssignedIdentities: %w", err)
	}
	return len(list.Items), nil
}

func (f *facts) gatherNMIs(ctx context.Context, c client.Client, o options) error {
	ds := &appsv1.DaemonSet{}
	err := c.Get(ctx, client.ObjectKey{Namespace: o.Namespace, Name: o.nmiDaemonSet}, ds)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("reading DaemonSet %s: %w", o.nmiDaemonSet, err)
	}
	selector, err := metav1.LabelSelectorAsSelector(ds.Spec.Selector)
	if err != nil {
		return fmt.Errorf("selector of DaemonSet %s: %w", o.nmiDaemonSet, err)
	}
	pods := &corev1.PodList{}
	if err := c.List(ctx, pods, client.InNamespace(o.Namespace), client.MatchingLabelsSelector{Selector: selector}); err != nil {
		return fmt.Errorf("listing NMI pods: %w", err)
	}
	nodes := &corev1.NodeList{}
	if err := c.List(ctx, nodes); err != nil {
		return fmt.Errorf("listing nodes: %w", err)
	}
	ready := map[string]bool{}
	for _, n := range nodes.Items {
		for _, cond := range n.Status.Conditions {
			if cond.Type == corev1.NodeReady {
				ready[n.Name] = cond.Status == corev1.ConditionTrue
			}
		}
	}
	covered := map[string]bool{} // in an update a node has two
	for _, p := range pods.Items {
		if p.Status.Phase == corev1.PodFailed || p.Status.Phase == corev1.PodSucceeded {
			continue // evicted; the DaemonSet makes another
		}
		n := nmiFacts{pod: p.Name, node: p.Spec.NodeName, nodeReady: ready[p.Spec.NodeName]}
		n.started, n.why = containerState(p)
		f.nmis = append(f.nmis, n)
		covered[cmp.Or(n.node, "/"+n.pod)] = true
	}
	f.nmiMissing = max(0, int(ds.Status.DesiredNumberScheduled)-len(covered))
	f.nmiUnchanged = ds.Generation <= 1
	return nil
}

// containerState says whether the pod's container ever ran, and why it does not
// run now.
func containerState(p corev1.Pod) (started bool, why string) {
	if len(p.Status.ContainerStatuses) == 0 {
		return false, "no container yet"
	}
	s := p.Status.ContainerStatuses[0]
	started = s.RestartCount > 0 || s.State.Running != nil || s.State.Terminated != nil || s.LastTerminationState.Terminated != nil
	switch {
	case s.State.Waiting != nil:
		why = s.State.Waiting.Reason
	case s.State.Terminated != nil:
		why = s.State.Terminated.Reason
	}
	return started, why
}
