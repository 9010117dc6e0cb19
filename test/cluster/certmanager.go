package cluster

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const (
	// certManagerVersion is that of the module test/cluster/binaries/certmanager, whose chart is installed.
	certManagerVersion    = "v1.21.2"
	certManagerModule     = "test/cluster/binaries/certmanager"
	certManagerRepository = "quay.io/jetstack"
	certManagerNamespace  = "cert-manager"
)

// certManagerValues make one replica of each part, ready as soon as it can be: a test cluster waits for them.
func certManagerValues() map[string]any {
	fastProbe := map[string]any{"initialDelaySeconds": 1, "periodSeconds": 1, "failureThreshold": 60}
	return map[string]any{
		"crds":            map[string]any{"enabled": true, "keep": false},
		"global":          map[string]any{"leaderElection": map[string]any{"namespace": certManagerNamespace}},
		"startupapicheck": map[string]any{"enabled": false}, // ensureCertManager issues a real certificate instead
		"prometheus":      map[string]any{"enabled": false},
		"webhook":         map[string]any{"readinessProbe": fastProbe},
	}
}

// ensureCertManager installs cert-manager's own chart with images built from its packages, and
// waits until it has really issued a certificate once. Later calls only check that it is available.
func (c *Cluster) ensureCertManager(ctx context.Context) (err error) {
	values, err := json.MarshalIndent(certManagerValues(), "", "  ")
	if err != nil {
		return fmt.Errorf("encoding the values of cert-manager: %w", err)
	}
	stamp := c.paths.chart("cert-manager.installed")
	key := fmt.Sprintf("%s %x", certManagerVersion, sha256.Sum256(values))
	installed, err := os.ReadFile(stamp)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("reading what is installed: %w", err)
	}
	fresh := string(installed) != key
	if fresh {
		if err := c.installCertManager(ctx, values); err != nil {
			return fmt.Errorf("installing cert-manager: %w", err)
		}
	}
	done := c.progress.step("waiting for cert-manager to issue certificates")
	defer func() { done(err) }()
	if err := c.waitDeployments(ctx, certManagerNamespace); err != nil {
		return err
	}
	if !fresh {
		return nil
	}
	if err := c.probeCertManager(ctx); err != nil {
		return fmt.Errorf("issuing a certificate: %w", err)
	}
	return writeFile(stamp, []byte(key), 0o644)
}

func (c *Cluster) installCertManager(ctx context.Context, values []byte) (err error) {
	done := c.progress.step("installing cert-manager " + certManagerVersion)
	defer func() { done(err) }()
	if err := c.copyCertManagerChart(ctx); err != nil {
		return err
	}
	valuesFile := c.paths.chart("cert-manager-values.json")
	if err := writeFile(valuesFile, values, 0o644); err != nil {
		return err
	}
	return c.helm(ctx, "upgrade", "--install", "cert-manager", c.paths.chart("cert-manager"),
		"--namespace", certManagerNamespace, "--create-namespace", "--values", valuesFile)
}

// copyCertManagerChart takes the chart out of the module and sets its version, as cert-manager's release tool does.
func (c *Cluster) copyCertManagerChart(ctx context.Context) error {
	cmd := exec.CommandContext(ctx, "go", "mod", "download", "-json", "github.com/cert-manager/cert-manager@"+certManagerVersion)
	cmd.Dir = filepath.Join(c.opts.SourceDir, filepath.FromSlash(certManagerModule))
	cmd.Env = append(os.Environ(), "GOWORK=off")
	out, err := cmd.Output()
	if err != nil {
		return fmt.Errorf("downloading its module: %w: %s", err, strings.TrimSpace(string(out)))
	}
	var module struct{ Dir string }
	if err := json.Unmarshal(out, &module); err != nil {
		return fmt.Errorf("reading the output of go mod download: %w", err)
	}
	target := c.paths.chart("cert-manager")
	if err := os.RemoveAll(target); err != nil {
		return fmt.Errorf("replacing its chart: %w", err)
	}
	if err := os.CopyFS(target, os.DirFS(filepath.Join(module.Dir, "deploy", "charts", "cert-manager"))); err != nil {
		return fmt.Errorf("copying its chart: %w", err)
	}
	file := filepath.Join(target, "Chart.yaml")
	chart, err := os.ReadFile(file)
	if err != nil {
		return fmt.Errorf("reading its chart: %w", err)
	}
	if err := os.Chmod(file, 0o644); err != nil { // files of the module cache are read-only
		return fmt.Errorf("writing its chart: %w", err)
	}
	if err := os.WriteFile(file, setChartVersion(chart, certManagerVersion), 0o644); err != nil {
		return fmt.Errorf("writing its chart: %w", err)
	}
	return nil
}

// setChartVersion replaces version and appVersion of a Chart.yaml.
func setChartVersion(chart []byte, version string) []byte {
	var out strings.Builder
	for line := range strings.Lines(string(chart)) {
		if key, _, ok := strings.Cut(line, ":"); ok && (key == "version" || key == "appVersion") {
			line = key + ": " + version + "\n"
		}
		out.WriteString(line)
	}
	return []byte(out.String())
}

// helm runs Helm as administrator, with its own cache and configuration below the run directory.
func (c *Cluster) helm(ctx context.Context, args ...string) error {
	cmd := exec.CommandContext(ctx, c.bin("helm"), append([]string{"--kubeconfig", c.Kubeconfig()}, args...)...)
	// HOME too: without it Helm caches what it learns of the API server in the working directory.
	for _, name := range []string{"HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME", "HOME"} {
		cmd.Env = append(cmd.Env, name+"="+c.paths.chart(".helm"))
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("helm %s: %w\n%s", args[0], err, strings.TrimSpace(string(out)))
	}
	return nil
}

// waitDeployments waits until every Deployment of a namespace has all its replicas available.
func (c *Cluster) waitDeployments(ctx context.Context, namespace string) error {
	client, err := c.client()
	if err != nil {
		return err
	}
	return c.waitFor(ctx, apiServerName, 3*time.Minute, func(ctx context.Context) error {
		list, err := client.AppsV1().Deployments(namespace).List(ctx, metav1.ListOptions{})
		if err != nil {
			return fmt.Errorf("listing Deployments in %s: %w", namespace, err)
		}
		for _, d := range list.Items {
			if !deploymentAvailable(&d) {
				return fmt.Errorf("the Deployment %s/%s has %d of its replicas available; see kubectl describe and logs of its pods",
					namespace, d.Name, d.Status.AvailableReplicas)
			}
		}
		return nil
	})
}

func deploymentAvailable(d *appsv1.Deployment) bool {
	want := int32(1)
	if d.Spec.Replicas != nil {
		want = *d.Spec.Replicas
	}
	return d.Status.ObservedGeneration >= d.Generation && d.Status.UpdatedReplicas == want && d.Status.AvailableReplicas == want
}

// probe is the smallest thing that needs cert-manager's webhook, its CA injection and its controllers.
const probe = `apiVersion: cert-manager.io/v1
kind: Issuer
metadata: {name: local-cluster-check, namespace: cert-manager}
spec: {selfSigned: {}}
---
apiVersion: cert-manager.io/v1
kind: Certificate
metadata: {name: local-cluster-check, namespace: cert-manager}
spec:
  secretName: local-cluster-check
  dnsNames: [local-cluster-check.example.com]
  privateKey: {algorithm: ECDSA, size: 256}
  issuerRef: {name: local-cluster-check}
`

func (c *Cluster) probeCertManager(ctx context.Context) error {
	// The webhook is refused until the injector has written its CA into the configuration.
	if err := c.waitFor(ctx, apiServerName, time.Minute, func(ctx context.Context) error {
		_, err := c.kubectl(ctx, probe, "apply", "--filename", "-")
		return err
	}); err != nil {
		return err
	}
	if _, err := c.kubectl(ctx, "", "wait", "--namespace", certManagerNamespace, "--for=condition=Ready",
		"certificate/local-cluster-check", "--timeout=60s"); err != nil {
		return err
	}
	_, err := c.kubectl(ctx, probe, "delete", "--filename", "-", "--wait=false", "--ignore-not-found")
	if err != nil {
		return err
	}
	_, err = c.kubectl(ctx, "", "delete", "secret", "local-cluster-check", "--namespace", certManagerNamespace, "--ignore-not-found")
	return err
}
