// Command demo tells the story of pod identity on a real Kubernetes node: it
// starts the local cluster and the Azure emulator, installs the chart with Helm,
// and shows step by step what a user sees, with the real commands and their real
// output. Each step ends in ✓ or ✗; the exit code is 0 only without a ✗.
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/pflag"

	"github.com/aad-pod-identity/aad-pod-identity/test/stack"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	code, err := run(ctx, os.Args[1:], os.Stdout)
	if err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		code = 1
	}
	os.Exit(code)
}

func run(ctx context.Context, args []string, out io.Writer) (int, error) {
	fs := pflag.NewFlagSet("demo", pflag.ContinueOnError)
	keep := fs.Bool("keep", true, "leave the cluster up at the end; otherwise uninstall and remove it")
	if err := fs.Parse(args); err != nil {
		return 2, err
	}
	start := time.Now()
	s, err := stack.New(out)
	if err != nil {
		return 1, err
	}
	t := &teller{out: out, stack: s}
	fmt.Fprintln(out, "Starting a Kubernetes node and the Azure emulator on this machine.")
	if err := s.Up(ctx); err != nil {
		return 1, err
	}
	if err := prepare(ctx, t); err != nil {
		return 1, err
	}
	tell(ctx, t)
	if !*keep {
		t.uninstall(ctx)
		if err := s.Down(ctx); err != nil {
			return 1, err
		}
		t.nothingLeft(ctx)
	}
	fmt.Fprintf(out, "\ndemo: %d passed, %d failed (%s)\n", t.passed, t.failed, time.Since(start).Round(time.Second))
	if *keep {
		fmt.Fprintf(out, "\nThe cluster is still up. To look around:\n\n  export KUBECONFIG=%s PATH=%s:$PATH\n\n"+
			"'make demo-down' removes it.\n", s.Cluster.Kubeconfig(), s.Cluster.BinDir())
	}
	if t.failed > 0 {
		return 1, ctx.Err()
	}
	return 0, ctx.Err()
}
