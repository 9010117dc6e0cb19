package cluster

import (
	"context"
	"encoding/json"
	"fmt"
)

// Stop ends every process and container of the cluster, as when the machine loses its
// power, and leaves everything else: Up starts the same cluster again.
func (c *Cluster) Stop(ctx context.Context) (err error) {
	if err := requireRootOnLinux("stop a cluster"); err != nil {
		return err
	}
	unlock, err := lockFile(ctx, c.paths.lock())
	if err != nil {
		return err
	}
	defer unlock()
	done := c.progress.step("stopping the cluster's processes and containers")
	defer func() { done(err) }()
	recorded, err := readSettings(c.paths.settings())
	if err != nil {
		return err
	}
	// Up then takes what it finds for what is left after a reboot.
	recorded.BootID = "stopped"
	data, err := json.MarshalIndent(recorded, "", "  ")
	if err != nil {
		return fmt.Errorf("recording the stop: %w", err)
	}
	if err := writeFile(c.paths.settings(), append(data, '\n'), 0o644); err != nil {
		return err
	}
	return c.killAll(ctx)
}
