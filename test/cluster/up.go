package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/aad-pod-identity/aad-pod-identity/test/cluster/image"
)

// Up brings the cluster to the state that the options describe: it builds what the cache lacks,
// starts what does not run, restarts what runs with other settings, and waits until the node is
// Ready and cert-manager issues certificates. On a healthy cluster it only checks.
func (c *Cluster) Up(ctx context.Context) error {
	if err := requireRootOnLinux("start a cluster"); err != nil {
		return err
	}
	unlock, err := lockFile(ctx, c.paths.lock())
	if err != nil {
		return err
	}
	defer unlock()
	start := time.Now()
	if err := c.up(ctx); err != nil {
		return err
	}
	c.progress.printf("cluster is up (%s): export KUBECONFIG=%s PATH=%s:$PATH", roundDuration(time.Since(start)), c.Kubeconfig(), c.BinDir())
	return nil
}

func (c *Cluster) up(ctx context.Context) error {
	if err := c.checkConflicts(); err != nil {
		return err
	}
	if err := c.installPackages(ctx); err != nil {
		return err
	}
	if err := c.ensureBinaries(ctx, allPrograms); err != nil {
		return err
	}
	if err := c.prepare(ctx); err != nil {
		return err
	}
	group, gctx := errgroup.WithContext(ctx)
	group.Go(func() error { return c.startControlPlane(gctx) })
	group.Go(func() error {
		if err := c.startContainerd(gctx); err != nil {
			return err
		}
		return c.loadImages(gctx, c.baseImages()...)
	})
	if err := group.Wait(); err != nil {
		return err
	}
	if err := c.startNode(ctx); err != nil {
		return err
	}
	if c.opts.WithoutCertManager {
		return nil
	}
	return c.ensureCertManager(ctx)
}

// baseImages are the images of the cluster itself.
func (c *Cluster) baseImages() []image.Spec {
	specs := []image.Spec{image.Pause(pauseImage)}
	if !c.opts.WithoutCertManager {
		specs = append(specs, image.CertManager(certManagerRepository, certManagerVersion)...)
	}
	return specs
}

// pauseImage keeps a pod's sandbox alive; it has no registry, so the name is only a name.
const pauseImage = "aad-pod-identity.local/pause:v1"

// prepare writes files, cgroups and the network that the processes find at their start.
func (c *Cluster) prepare(ctx context.Context) (err error) {
	done := c.progress.step("preparing certificates, configuration and network")
	defer func() { done(err) }()
	if err := c.checkRecorded(ctx); err != nil {
		return err
	}
	if err := c.paths.make(); err != nil {
		return err
	}
	if err := ensurePKI(c.paths, c.opts.NodeName, time.Now()); err != nil {
		return err
	}
	if err := c.writeConfigs(); err != nil {
		return err
	}
	if err := ensureCgroup(); err != nil {
		return err
	}
	if err := shareMounts(c.paths.kubelet()); err != nil {
		return err
	}
	if err := ensureNetwork(ctx); err != nil {
		return err
	}
	return c.record()
}

// checkRecorded compares with the settings of an earlier Up. After a reboot it removes what
// would be on a tmpfs elsewhere: containerd would otherwise look for shims that no longer exist.
func (c *Cluster) checkRecorded(ctx context.Context) error {
	recorded, err := readSettings(c.paths.settings())
	if err != nil {
		return err
	}
	if recorded.NodeName != "" && recorded.NodeName != c.opts.NodeName {
		return fmt.Errorf("the cluster in %s has the node %s, not %s; remove it first (localcluster down)", c.paths.root, recorded.NodeName, c.opts.NodeName)
	}
	boot, err := bootID()
	if err != nil {
		return err
	}
	if recorded.BootID == "" || recorded.BootID == boot {
		return nil
	}
	c.progress.printf("  the machine was rebooted since the last start: resetting volatile state")
	if err := c.killAll(ctx); err != nil {
		return err
	}
	if err := unmountBelow(c.paths.root); err != nil {
		return err
	}
	for _, dir := range []string{c.paths.containerdState(), c.paths.runcState(), c.paths.pid(""), c.paths.cniState()} {
		if err := os.RemoveAll(dir); err != nil {
			return fmt.Errorf("resetting volatile state: %w", err)
		}
	}
	return nil
}

func (c *Cluster) record() error {
	boot, err := bootID()
	if err != nil {
		return err
	}
	data, err := json.MarshalIndent(settings{
		NodeName: c.opts.NodeName, ProviderID: c.opts.ProviderID, APIServerArgs: c.opts.APIServerArgs,
		CertManager: !c.opts.WithoutCertManager, BootID: boot,
	}, "", "  ")
	if err != nil {
		return fmt.Errorf("recording the cluster's settings: %w", err)
	}
	return writeFile(c.paths.settings(), append(data, '\n'), 0o644)
}

func (c *Cluster) startControlPlane(ctx context.Context) (err error) {
	done := c.progress.step("starting etcd and kube-apiserver")
	defer func() { done(err) }()
	if _, err := c.ensure(ctx, c.etcd()); err != nil {
		return err
	}
	if _, err := c.ensure(ctx, c.apiServer()); err != nil {
		return err
	}
	if err := c.waitAPI(ctx); err != nil {
		return err
	}
	for _, p := range []process{c.controllerManager(), c.scheduler()} {
		if _, err := c.ensure(ctx, p); err != nil {
			return err
		}
	}
	return nil
}

func (c *Cluster) startContainerd(ctx context.Context) (err error) {
	done := c.progress.step("starting containerd")
	defer func() { done(err) }()
	if _, err := c.ensure(ctx, c.containerd()); err != nil {
		return err
	}
	return c.waitFor(ctx, containerdName, 30*time.Second, func(ctx context.Context) error {
		_, err := c.ctr(ctx, "version")
		return err
	})
}

func (c *Cluster) startNode(ctx context.Context) (err error) {
	done := c.progress.step("starting the kubelet and waiting for node " + c.opts.NodeName)
	defer func() { done(err) }()
	started := time.Now()
	restarted, err := c.ensure(ctx, c.kubelet())
	if err != nil {
		return err
	}
	if !restarted {
		started = time.Time{}
	}
	if err := c.waitNode(ctx, started); err != nil {
		return err
	}
	// Not before the node exists: kube-proxy gives up waiting for it after a while,
	// and ends when it appears later.
	_, err = c.ensure(ctx, c.kubeProxy())
	return err
}

// waitFor repeats check until it succeeds, the component dies, or the time is over; the error says where its log is.
func (c *Cluster) waitFor(ctx context.Context, component string, limit time.Duration, check func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for {
		err := check(ctx)
		if err == nil {
			return nil
		}
		if _, _, ok := c.running(component); !ok {
			return fmt.Errorf("%s ended; the last lines of %s:\n%s", component, c.paths.log(component), c.logTail(component))
		}
		if pause(ctx) != nil {
			return fmt.Errorf("%s is not ready: %w; the last lines of %s:\n%s", component, err, c.paths.log(component), c.logTail(component))
		}
	}
}

func (c *Cluster) logTail(component string) string {
	data, err := os.ReadFile(c.paths.log(component))
	if errors.Is(err, fs.ErrNotExist) {
		return "(no log)"
	}
	if err != nil {
		return err.Error()
	}
	return lastLines(string(data), 15)
}

// ctr runs containerd's client against the cluster's containerd, in the kubelet's namespace.
func (c *Cluster) ctr(ctx context.Context, args ...string) (string, error) {
	return run(ctx, "", "ctr", append([]string{"--address", c.paths.containerdSocket(), "--namespace", "k8s.io"}, args...)...)
}

// kubectl runs kubectl as administrator.
func (c *Cluster) kubectl(ctx context.Context, stdin string, args ...string) (string, error) {
	return run(ctx, stdin, filepath.Join(c.BinDir(), "kubectl"), append([]string{"--kubeconfig", c.Kubeconfig()}, args...)...)
}
