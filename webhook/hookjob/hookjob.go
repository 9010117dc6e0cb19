// Package hookjob is what the Jobs behind the chart's Helm hooks share: their
// flags, a client, waiting within a time limit, and progress for whoever reads
// the log, which Helm shows when the Job ends.
package hookjob

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/pflag"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/controller-runtime/pkg/client"
	ctrllog "sigs.k8s.io/controller-runtime/pkg/log"

	"k8s.io/klog/v2"

	"github.com/aad-pod-identity/aad-pod-identity/internal/run"
	"github.com/aad-pod-identity/aad-pod-identity/internal/version"
)

// Pause between two looks at the cluster.
const Pause = time.Second

// Flags are common to all Jobs.
type Flags struct {
	// Kubeconfig is a file, or "" for the cluster that the process runs in.
	Kubeconfig string
	// Namespace of the release.
	Namespace string
	// Timeout ends the Job's work. It is to be shorter than Helm's own, so that
	// the log says what is missing.
	Timeout time.Duration
}

// AddFlags adds the flags to a flag set; their values are the defaults.
func (f *Flags) AddFlags(fs *pflag.FlagSet) {
	fs.StringVar(&f.Kubeconfig, "kubeconfig", f.Kubeconfig, "kubeconfig file; without it the cluster that the process runs in")
	fs.StringVar(&f.Namespace, "namespace", f.Namespace, "namespace of the release")
	fs.DurationVar(&f.Timeout, "timeout", f.Timeout, "time after which the command gives up and says what is missing")
}

// Parse reads the command line of the subcommand that the flag set is named
// after and checks the common flags. Done is true when only help was asked for.
// The error is a run.UsageError.
func (f *Flags) Parse(fs *pflag.FlagSet, args []string) (done bool, err error) {
	fs.Usage = func() {
		fmt.Fprintf(os.Stdout, "Usage of webhook %s:\n%s", fs.Name(), fs.FlagUsages())
	}
	if err := fs.Parse(args); err != nil {
		if errors.Is(err, pflag.ErrHelp) {
			return true, nil
		}
		return false, run.Usagef("%s: %w", fs.Name(), err)
	}
	if rest := fs.Args(); len(rest) > 0 {
		return false, run.Usagef("%s: unexpected argument %q", fs.Name(), rest[0])
	}
	var errs []error
	if f.Namespace == "" {
		errs = append(errs, errors.New("--namespace is required"))
	}
	if f.Timeout <= 0 {
		errs = append(errs, fmt.Errorf("--timeout=%s: must be longer than 0", f.Timeout))
	}
	if len(errs) > 0 {
		return false, run.Usagef("%s: %w", fs.Name(), errors.Join(errs...))
	}
	ctrllog.SetLogger(klog.Background())
	return false, nil
}

// Client connects to the cluster. It does not cache.
func (f *Flags) Client(scheme *runtime.Scheme) (client.Client, error) {
	cfg, err := f.config()
	if err != nil {
		return nil, err
	}
	cfg.UserAgent = version.UserAgent("Webhook", "")
	// Helm shows what a hook prints. Warnings, such as of a deprecated API whose objects
	// are deleted, are none of the user's business.
	cfg.WarningHandlerWithContext = rest.NoWarnings{}
	c, err := client.New(cfg, client.Options{Scheme: scheme})
	if err != nil {
		return nil, fmt.Errorf("making a client for %s: %w", cfg.Host, err)
	}
	return c, nil
}

func (f *Flags) config() (*rest.Config, error) {
	if f.Kubeconfig == "" {
		cfg, err := rest.InClusterConfig()
		if err != nil {
			return nil, run.Usagef("not running in a cluster, so --kubeconfig is required: %w", err)
		}
		return cfg, nil
	}
	cfg, err := clientcmd.BuildConfigFromFlags("", f.Kubeconfig)
	if err != nil {
		return nil, run.Usagef("reading --kubeconfig=%s: %w", f.Kubeconfig, err)
	}
	return cfg, nil
}

// ErrTimeout is wrapped by the error of Until when the time is up.
var ErrTimeout = errors.New("timed out")

// ErrStopped is wrapped by the error of Outcome.
var ErrStopped = errors.New("stopped before it was done")

// Outcome is what a Job's command returns for the error of its work. A server
// that ends when it is told to has done well, so run.Main takes a cancellation
// for success; a Job whose pod is evicted has not done its work, and Helm must
// not go on as if it had.
func Outcome(err error) error {
	if errors.Is(err, context.Canceled) {
		return fmt.Errorf("%w: %s", ErrStopped, err.Error())
	}
	return err
}

// Until calls step until it is done or fails, or the time is up. Step returns
// what it still waits for, which is printed when it changes; a step's error is
// taken for a passing one, since API servers restart and fresh permissions take
// a moment to be known, and is returned only when the time is up.
func Until(ctx context.Context, timeout, pause time.Duration, out *Progress, step func(context.Context) (waiting string, err error)) error {
	limited, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	for {
		waiting, err := step(limited)
		if err == nil && waiting == "" {
			return nil
		}
		if err != nil {
			waiting = err.Error()
		}
		if limited.Err() == nil {
			out.Waiting(waiting)
		}
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
			continue
		case <-limited.Done():
			timer.Stop()
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return fmt.Errorf("%w after %s: %s", ErrTimeout, timeout, out.last(waiting))
	}
}

// Progress prints lines with the time since its start.
type Progress struct {
	out     io.Writer
	now     func() time.Time
	start   time.Time
	waiting string
}

// NewProgress starts the clock.
func NewProgress(out io.Writer) *Progress {
	return &Progress{out: out, now: time.Now, start: time.Now()}
}

// Printf prints a line.
func (p *Progress) Printf(format string, args ...any) {
	fmt.Fprintf(p.out, "%4ds  %s\n", int(p.now().Sub(p.start).Seconds()), fmt.Sprintf(format, args...))
}

// Waiting prints what is waited for, unless it said so last.
func (p *Progress) Waiting(what string) {
	if what != p.waiting {
		p.waiting = what
		p.Printf("waiting: %s", what)
	}
}

// last is the latest state known before the time was up, which is more telling
// than an error that says only that the time was up.
func (p *Progress) last(now string) string {
	if p.waiting != "" {
		return p.waiting
	}
	return now
}
