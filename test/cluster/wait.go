package cluster

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
)

// client returns an administrator's client; it does not connect yet.
func (c *Cluster) client() (*kubernetes.Clientset, error) {
	config, err := clientcmd.BuildConfigFromFlags("", c.Kubeconfig())
	if err != nil {
		return nil, fmt.Errorf("reading the kubeconfig: %w", err)
	}
	config.Timeout = 10 * time.Second
	config.QPS = -1 // one process that waits for one cluster needs no throttling
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("creating a client: %w", err)
	}
	return client, nil
}

// waitAPI waits until the API server has finished its start, bootstrap roles included,
// and pods could be created.
func (c *Cluster) waitAPI(ctx context.Context) error {
	client, err := c.client()
	if err != nil {
		return err
	}
	return c.waitFor(ctx, apiServerName, time.Minute, func(ctx context.Context) error {
		return client.Discovery().RESTClient().Get().AbsPath("/readyz").Do(ctx).Error()
	})
}

// waitNode waits until the node is usable. What the API server says of it may be from before a
// crash, so a kubelet that was started just now must have reported since, and every container
// that is said to run must run.
func (c *Cluster) waitNode(ctx context.Context, since time.Time) error {
	client, err := c.client()
	if err != nil {
		return err
	}
	return c.waitFor(ctx, kubeletName, 2*time.Minute, func(ctx context.Context) error {
		lease, err := client.CoordinationV1().Leases(corev1.NamespaceNodeLease).Get(ctx, c.opts.NodeName, metav1.GetOptions{})
		if err != nil {
			return fmt.Errorf("reading the node's Lease: %w", err)
		}
		if lease.Spec.RenewTime == nil || lease.Spec.RenewTime.Time.Before(since) {
			return errors.New("the kubelet has not reported yet")
		}
		node, err := client.CoreV1().Nodes().Get(ctx, c.opts.NodeName, metav1.GetOptions{})
		if err != nil {
			return fmt.Errorf("reading the node: %w", err)
		}
		if reason := nodeNotUsable(node); reason != "" {
			return fmt.Errorf("the node is %s", reason)
		}
		if _, err := client.CoreV1().ServiceAccounts(metav1.NamespaceDefault).Get(ctx, "default", metav1.GetOptions{}); err != nil {
			return fmt.Errorf("reading the default service account: %w", err)
		}
		pods, err := client.CoreV1().Pods(metav1.NamespaceAll).List(ctx, metav1.ListOptions{FieldSelector: "spec.nodeName=" + c.opts.NodeName})
		if err != nil {
			return fmt.Errorf("listing pods: %w", err)
		}
		tasks, err := c.ctr(ctx, "tasks", "list")
		if err != nil {
			return fmt.Errorf("listing containers: %w", err)
		}
		if pod := staleStatus(pods.Items, parseTasks(tasks)); pod != "" {
			return fmt.Errorf("the kubelet has not yet noticed that a container of pod %s ended", pod)
		}
		return nil
	})
}

// parseTasks returns the IDs of running containers from the output of `ctr tasks list`.
func parseTasks(text string) map[string]bool {
	running := map[string]bool{}
	for line := range strings.Lines(text) {
		if f := strings.Fields(line); len(f) == 3 && f[2] == "RUNNING" {
			running[f[0]] = true
		}
	}
	return running
}

// staleStatus returns the name of a pod whose status claims a running container that does not run, or "".
func staleStatus(pods []corev1.Pod, running map[string]bool) string {
	for _, p := range pods {
		for _, s := range p.Status.ContainerStatuses {
			id := strings.TrimPrefix(s.ContainerID, "containerd://")
			if s.State.Running != nil && !running[id] {
				return p.Namespace + "/" + p.Name
			}
		}
	}
	return ""
}

// nodeNotUsable says why no pod would be scheduled and run on the node, or "".
func nodeNotUsable(node *corev1.Node) string {
	ready := false
	for _, cond := range node.Status.Conditions {
		if cond.Type == corev1.NodeReady {
			if cond.Status != corev1.ConditionTrue {
				return "not ready: " + cond.Message
			}
			ready = true
		}
	}
	if !ready {
		return "without a Ready condition"
	}
	for _, taint := range node.Spec.Taints {
		if taint.Effect == corev1.TaintEffectNoSchedule || taint.Effect == corev1.TaintEffectNoExecute {
			return "tainted " + taint.Key
		}
	}
	return ""
}
