// Package run is what the mains of the three components share: signals, exit
// codes, the common flags, logging, probes, metrics and profiling servers.
package run

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"k8s.io/klog/v2"
)

// Exit codes of the components.
const (
	exitOK    = 0
	exitError = 1
	exitUsage = 2
)

// UsageError is a mistake on the command line or in the environment: nothing was
// started, and starting again without a change will not help.
type UsageError struct{ err error }

// Error implements error.
func (e *UsageError) Error() string { return e.err.Error() }

// Unwrap gives the cause.
func (e *UsageError) Unwrap() error { return e.err }

// Usagef makes a UsageError.
func Usagef(format string, a ...any) error {
	return &UsageError{fmt.Errorf(format, a...)}
}

// ExitError ends a command with an exit code that is part of its answer.
type ExitError struct {
	Code int
	// Err, if not nil, is printed.
	Err error
}

// Error implements error.
func (e *ExitError) Error() string {
	if e.Err == nil {
		return fmt.Sprintf("exit code %d", e.Code)
	}
	return e.Err.Error()
}

// Unwrap gives the cause.
func (e *ExitError) Unwrap() error { return e.Err }

// Main runs the command of a component with os.Args and returns the exit code: 0
// for success and for an orderly stop by SIGTERM or SIGINT, 2 for a mistake on
// the command line, that of an ExitError, 1 for everything else. An error is one
// message on standard error, never a stack trace. A second signal ends the process
// at once.
func Main(component string, command func(ctx context.Context, args []string) error) int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	// After the first signal the default action is restored, so that a second
	// one ends a shutdown that hangs.
	context.AfterFunc(ctx, stop)
	defer klog.Flush()
	return finish(ctx, os.Stderr, component, command(ctx, os.Args[1:]))
}

func finish(ctx context.Context, stderr io.Writer, component string, err error) int {
	var usage *UsageError
	var exit *ExitError
	switch {
	case errors.As(err, &exit):
		if exit.Err != nil {
			fmt.Fprintf(stderr, "%s: %s\n", component, indent(exit.Err))
		}
		return exit.Code
	case err == nil, errors.Is(err, context.Canceled) && ctx.Err() != nil:
		return exitOK
	case errors.As(err, &usage):
		fmt.Fprintf(stderr, "%s: %s\nRun '%s --help' for the flags.\n", component, indent(err), component)
		return exitUsage
	default:
		klog.Flush()
		fmt.Fprintf(stderr, "%s: %s\n", component, indent(err))
		return exitError
	}
}

// indent keeps the lines of a joined error together under the first one.
func indent(err error) string {
	return strings.ReplaceAll(err.Error(), "\n", "\n  ")
}
