package lint

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/pflag"

	"github.com/aad-pod-identity/aad-pod-identity/internal/run"
	"github.com/aad-pod-identity/aad-pod-identity/internal/validation"
)

// Exit codes of the command; without findings it is 0.
const (
	// exitFindings says that admission would refuse something.
	exitFindings = 1
	// exitTrouble says that not everything could be judged: a mistake on the
	// command line, or a file that cannot be read.
	exitTrouble = 2
)

// Values of --output.
const (
	outputText = "text"
	outputJSON = "json"
)

type options struct {
	files     []string
	recursive bool
	output    string
	idCase    string
}

func (o *options) addFlags(fs *pflag.FlagSet) {
	fs.StringArrayVarP(&o.files, "filename", "f", nil, "`file` or directory with manifests, or - for standard input; may be repeated, and further arguments are files as well")
	fs.BoolVarP(&o.recursive, "recursive", "R", false, "look into the directories below as well")
	fs.StringVarP(&o.output, "output", "o", outputText, "`format`: text, one line for each finding, or json, an array of all findings")
	fs.StringVar(&o.idCase, "resource-id-case", string(validation.RejectCase), "`policy` of the cluster's webhook about a resource ID that is only miscapitalised: reject, warn or canonicalize")
}

func (o *options) validate() error {
	var errs []error
	if len(o.files) == 0 {
		errs = append(errs, errors.New("no manifests: name files or directories with -f, or - for standard input"))
	}
	if o.output != outputText && o.output != outputJSON {
		errs = append(errs, fmt.Errorf("--output=%q: must be %s or %s", o.output, outputText, outputJSON))
	}
	if _, err := validation.ParseIDCase(o.idCase); err != nil {
		errs = append(errs, fmt.Errorf("--resource-id-case=%q: %w", o.idCase, err))
	}
	return errors.Join(errs...)
}

// Command is the subcommand "lint".
func Command(ctx context.Context, args []string) error {
	return command(ctx, args, os.Stdin, os.Stdout, os.Stderr)
}

// command returns nil or a [run.ExitError].
func command(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) error {
	var o options
	fs := pflag.NewFlagSet("lint", pflag.ContinueOnError)
	fs.SetOutput(stderr)
	fs.Usage = func() {
		fmt.Fprintf(stdout, "Usage: webhook lint -f FILE|DIRECTORY|- ...\n\nJudges manifests as the webhook would judge them in a cluster.\n\n%s\n"+
			"Exit codes: 0 nothing would be refused, 1 something would be, 2 wrong usage or a file that cannot be read.\n", fs.FlagUsages())
	}
	o.addFlags(fs)
	if err := fs.Parse(args); errors.Is(err, pflag.ErrHelp) {
		return nil
	} else if err != nil {
		return usage(err)
	}
	o.files = append(o.files, fs.Args()...)
	if err := o.validate(); err != nil {
		return usage(err)
	}
	return lint(ctx, o, stdin, stdout, stderr)
}

func usage(err error) error {
	return &run.ExitError{Code: exitTrouble, Err: fmt.Errorf("lint: %w; 'webhook lint --help' prints the flags", err)}
}

// lint judges what the options name. A file that cannot be read does not keep
// the others from being judged.
func lint(ctx context.Context, o options, stdin io.Reader, stdout, stderr io.Writer) error {
	rules, err := validation.New()
	if err != nil {
		return &run.ExitError{Code: exitTrouble, Err: err}
	}
	sources, errs := find(o.files, o.recursive, stdin)
	l := &linter{rules: rules, idCase: validation.IDCase(o.idCase)}
	for _, s := range sources {
		if err := ctx.Err(); err != nil {
			errs = append(errs, err)
			break
		}
		text, err := s.read(ctx)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		l.file(s.name, text)
	}
	if err := l.report.write(stdout, o.output); err != nil {
		errs = append(errs, fmt.Errorf("writing the findings: %w", err))
	}
	fmt.Fprintln(stderr, l.report.summary())
	if len(errs) > 0 {
		return &run.ExitError{Code: exitTrouble, Err: errors.Join(errs...)}
	}
	if l.report.errors > 0 {
		return &run.ExitError{Code: exitFindings}
	}
	return nil
}
