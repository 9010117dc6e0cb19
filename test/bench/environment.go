package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const chart = "charts/aad-pod-identity"

// environment is what all scenarios use: a scratch directory and the binaries.
type environment struct {
	dir, assets string
	churn       time.Duration // that pods come and go for
}

// command runs a program to its end and returns what it printed.
func (e *environment) command(ctx context.Context, name string, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	// Helm keeps its settings away from those of the user.
	cmd.Env = append(os.Environ(), "HELM_CONFIG_HOME="+e.dir, "HELM_CACHE_HOME="+e.dir, "HELM_DATA_HOME="+e.dir)
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w: %s", filepath.Base(name), strings.Join(args, " "), err, strings.TrimSpace(stderr.String()))
	}
	return out, nil
}

// build builds a main package as the release does.
func (e *environment) build(ctx context.Context, pkg string) (string, error) {
	binary := filepath.Join(e.dir, filepath.Base(pkg))
	_, err := e.command(ctx, "go", "build", "-trimpath", "-ldflags", "-s -w", "-o", binary, pkg)
	return binary, err
}

// template renders one template of the chart.
func (e *environment) template(ctx context.Context, file string, values ...string) ([]byte, error) {
	args := []string{"template", "aad-pod-identity", chart, "--namespace", "default", "--show-only", "templates/" + file, "--kube-version", "1.30.0"}
	for _, v := range values {
		args = append(args, "--set", v)
	}
	return e.command(ctx, filepath.Join(e.assets, "helm"), args...)
}

// process is a running component.
type process struct {
	cmd *exec.Cmd
	log string
}

// start runs a component until stop, with its output in a file.
func (e *environment) start(ctx context.Context, binary string, args ...string) (*process, error) {
	return e.startWith(ctx, nil, binary, args...)
}

// startWith is start with more in the component's environment.
func (e *environment) startWith(ctx context.Context, variables []string, binary string, args ...string) (*process, error) {
	p := &process{log: filepath.Join(e.dir, filepath.Base(binary)+".log")}
	file, err := os.Create(p.log)
	if err != nil {
		return nil, fmt.Errorf("creating the log: %w", err)
	}
	defer func() { _ = file.Close() }() // the child has its own copy
	p.cmd = exec.CommandContext(ctx, binary, args...)
	p.cmd.Env = append(os.Environ(), variables...)
	p.cmd.Stdout, p.cmd.Stderr = file, file
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("starting %s: %w", binary, err)
	}
	return p, nil
}

func (p *process) stop() error {
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return fmt.Errorf("stopping %s: %w", p.cmd.Path, err)
	}
	if err := p.cmd.Wait(); err != nil {
		return fmt.Errorf("%s ended with %w; its log is %s", p.cmd.Path, err, p.log)
	}
	return nil
}

// memory returns a line of /proc/<pid>/status in MiB: VmRSS is the memory now,
// VmHWM the most there ever was.
func (p *process) memory(line string) (float64, error) {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	if err != nil {
		return 0, fmt.Errorf("reading the memory of %s: %w", p.cmd.Path, err)
	}
	for l := range strings.Lines(string(raw)) {
		if value, ok := strings.CutPrefix(l, line+":"); ok {
			kib, err := strconv.ParseFloat(strings.TrimSuffix(strings.TrimSpace(value), " kB"), 64)
			if err != nil {
				return 0, fmt.Errorf("reading %s: %w", line, err)
			}
			return kib / 1024, nil
		}
	}
	return 0, fmt.Errorf("no %s in the status of %s", line, p.cmd.Path)
}

// waitReady waits until a component's probe answers 200.
func waitReady(ctx context.Context, port string) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	last := errors.New("not asked yet")
	for {
		select {
		case <-ctx.Done():
			return fmt.Errorf("waiting for readiness: %w: %w", ctx.Err(), last)
		case <-tick.C:
		}
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://127.0.0.1:"+port+"/readyz", nil)
		if err != nil {
			return fmt.Errorf("making a request: %w", err)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			last = err
			continue
		}
		_ = resp.Body.Close()
		if resp.StatusCode == http.StatusOK {
			return nil
		}
		last = errors.New(resp.Status)
	}
}
