// Command bench measures the figures that the design promises, each beside a
// baseline taken in the same run. It prints a table and writes it to
// test/bench/results.json. `make bench` runs it.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/go-logr/logr"
	"sigs.k8s.io/controller-runtime/pkg/log"
)

// scenario measures one component.
type scenario struct {
	name string
	run  func(ctx context.Context, e *environment) ([]Result, error)
}

// is says whether a name is that of the scenario or of the group it is in.
func (s scenario) is(name string) bool { return s.name == name || strings.HasPrefix(s.name, name+"-") }

func scenarios() []scenario {
	return []scenario{
		{"admission", admissionScenario},
		{"mic-latency", micScenario(latencySets, shortOperations, micLatency)},
		{"mic-burst", micScenario(burstSets, slowWrites, micBurst)},
		{"mic-scale", micScenario(scaleSets, slowWrites, micScale)},
		{"mic-growth", micScenario(growthSets, slowWrites, micGrowth)},
		nmiScenario("nmi-throughput"),
		nmiScenario("nmi-cold"),
		nmiScenario("nmi-wake"),
		nmiScenario("nmi-memory"),
		nmiScenario("nmi-churn"),
	}
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	log.SetLogger(logr.Discard()) // of the handlers that are measured
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	if len(args) > 0 {
		switch args[0] { // what this program starts of itself
		case insideCommand:
			return insideMain(ctx, args[1:])
		case loadCommand:
			return loadMain(ctx, args[1:], os.Stdout)
		case bareCommand:
			return bareMain(ctx, args[1:])
		case churnCommand:
			return churnMain(ctx, os.Stdin, os.Stdout)
		}
	}
	fs := flag.NewFlagSet("bench", flag.ContinueOnError)
	only := fs.String("only", "", "comma-separated scenarios to run, or the words before their hyphens; empty: all")
	assets := fs.String("assets", os.Getenv("KUBEBUILDER_ASSETS"), "directory of etcd, kube-apiserver and helm")
	churn := fs.Duration("churn", 2*time.Minute, "how long nmi-churn takes")
	out := fs.String("out", "test/bench/results.json", "file for the results")
	if err := fs.Parse(args); err != nil {
		return err
	}
	all := scenarios()
	if *only != "" {
		wanted := strings.Split(*only, ",")
		for _, name := range wanted {
			if !slices.ContainsFunc(all, func(s scenario) bool { return s.is(name) }) {
				return fmt.Errorf("--only=%q: there is no scenario %q", *only, name)
			}
		}
		all = slices.DeleteFunc(all, func(s scenario) bool { return !slices.ContainsFunc(wanted, s.is) })
	}
	dir, err := os.MkdirTemp("", "aad-pod-identity-bench-")
	if err != nil {
		return fmt.Errorf("making a working directory: %w", err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	e := &environment{dir: dir, assets: *assets, churn: *churn}
	var results []Result
	for _, s := range all {
		fmt.Printf("bench: %s\n", s.name)
		found, err := s.run(ctx, e)
		if err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
		results = append(results, found...)
	}
	fmt.Println()
	if err := writeTable(os.Stdout, results); err != nil {
		return fmt.Errorf("printing the results: %w", err)
	}
	if err := writeJSON(filepath.Clean(*out), results); err != nil {
		return err
	}
	missed := 0
	for _, r := range results {
		if !r.Met {
			missed++
		}
	}
	fmt.Printf("bench: %d figures, %d goals missed\n", len(results), missed)
	return nil
}
