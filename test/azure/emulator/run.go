package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/aad-pod-identity/aad-pod-identity/test/azure"
)

// run serves until ctx ends. It returns an error when it cannot start or when a server fails.
func run(ctx context.Context, o options, out io.Writer) error {
	endpoints, err := o.validate()
	if err != nil {
		return err
	}
	s, err := readSeed(o.seedFile)
	if err != nil {
		return err
	}
	lines := &lineWriter{out: out}
	emulator, err := azure.New(azure.Options{
		Listen: o.listen, HTTPListen: o.httpListen, PublicURL: o.publicURL, Hosts: o.hosts,
		TenantID: s.TenantID, StateDir: o.stateDir, Settings: s.Settings, Seed: s.State, Log: lines.access(o.quiet),
	})
	if err != nil {
		return err
	}
	defer emulator.Close()
	if err := emulator.Start(ctx); err != nil {
		return err
	}
	lines.printf("ARM and AAD: %s, tenant %s", emulator.Endpoint(), emulator.TenantID())
	for _, e := range endpoints {
		url, err := emulator.StartIMDS(ctx, e.resource, e.listen)
		if err != nil {
			return fmt.Errorf("IMDS at %s: %w", e.listen, err)
		}
		lines.printf("IMDS: %s for %s", url, e.resource)
	}
	if err := writeFiles(emulator, o.stateDir, s.AzureConfig); err != nil {
		return err
	}
	// Last, so that who waits for the control API finds everything else in place.
	control, err := emulator.ServeHTTP(ctx, o.control, emulator.ControlHandler())
	if err != nil {
		return fmt.Errorf("control API: %w", err)
	}
	lines.printf("control: %s", control)

	select {
	case <-ctx.Done():
		lines.printf("stopping")
		return nil
	case err := <-emulator.Failed():
		return err
	}
}

// writeFiles writes what clients need next to ca.pem, which the emulator wrote itself.
func writeFiles(e *azure.Emulator, dir string, config *azure.AzureConfig) error {
	if dir == "" {
		return nil
	}
	if err := os.WriteFile(filepath.Join(dir, "environment.json"), e.EnvironmentFile(), 0o644); err != nil {
		return fmt.Errorf("writing the environment file: %w", err)
	}
	if config == nil {
		return nil
	}
	// It holds a secret.
	if err := os.WriteFile(filepath.Join(dir, "azure.json"), e.AzureJSON(*config), 0o600); err != nil {
		return fmt.Errorf("writing azure.json: %w", err)
	}
	return nil
}

// lineWriter keeps lines of concurrent requests apart.
type lineWriter struct {
	mu  sync.Mutex
	out io.Writer
}

func (w *lineWriter) printf(format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	_, _ = fmt.Fprintf(w.out, format+"\n", args...) // nobody to tell when the log is gone
}

// access returns the access log: one line for each request. Queries are left out, they name clients.
func (w *lineWriter) access(quiet bool) func(azure.Call) {
	if quiet {
		return nil
	}
	return func(c azure.Call) {
		var detail strings.Builder
		for _, field := range []struct{ name, value string }{{"error", c.Error}, {"principal", c.Principal}, {"node", c.Node}, {"source", c.Source}} {
			if field.value != "" {
				detail.WriteString(" " + field.name + "=" + field.value)
			}
		}
		w.printf("%s %s %s %d %s %s %s%s", c.Time.UTC().Format("15:04:05.000"), c.Service, c.Operation, c.Status, c.Method, c.Path,
			time.Duration(c.Duration).Round(time.Microsecond), detail.String())
	}
}
