package cluster

import (
	"context"
	"errors"
	"fmt"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// ErrNotRunning says that at least one part of the cluster does not run.
var ErrNotRunning = errors.New("the cluster does not run")

// Status prints the state of each process and of the node to Out. It returns an error that
// wraps ErrNotRunning unless all is well.
func (c *Cluster) Status(ctx context.Context) error {
	if err := requireRootOnLinux("look at a cluster"); err != nil {
		return err
	}
	var down []error
	names, err := c.recordedNames()
	if err != nil {
		return err
	}
	for _, name := range names {
		if info, _, ok := c.running(name); ok {
			c.progress.printf("%-24s running, pid %d, log %s", name, info.pid, c.paths.log(name))
			continue
		}
		c.progress.printf("%-24s not running", name)
		down = append(down, fmt.Errorf("%w: %s", ErrNotRunning, name))
	}
	if len(down) > 0 {
		return errors.Join(down...)
	}
	client, err := c.client()
	if err != nil {
		return err
	}
	node, err := client.CoreV1().Nodes().Get(ctx, c.opts.NodeName, metav1.GetOptions{})
	if err != nil {
		return fmt.Errorf("%w: reading the node: %w", ErrNotRunning, err)
	}
	if reason := nodeNotUsable(node); reason != "" {
		return fmt.Errorf("%w: the node is %s", ErrNotRunning, reason)
	}
	c.progress.printf("%-24s Ready, %s, %s, %s", "node "+node.Name, node.Status.NodeInfo.KubeletVersion,
		node.Status.NodeInfo.ContainerRuntimeVersion, node.Spec.ProviderID)
	c.progress.printf("export KUBECONFIG=%s PATH=%s:$PATH", c.Kubeconfig(), c.BinDir())
	return nil
}
