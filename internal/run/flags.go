package run

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/spf13/pflag"
	logsapi "k8s.io/component-base/logs/api/v1"
	_ "k8s.io/component-base/logs/json/register" // --logging-format=json
	"k8s.io/klog/v2"
	ctrllog "sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/aad-pod-identity/aad-pod-identity/internal/version"
)

// CommonFlags are the flags that every component has. A component sets its
// default ports, adds its own flags to the same set, and calls Parse.
type CommonFlags struct {
	// ProbePort serves the probes; PrometheusPort serves /metrics.
	ProbePort, PrometheusPort string
	// EnableProfile serves pprof on ProfileAddress.
	EnableProfile bool
	// CustomUserAgent is appended to the user agent sent to Azure.
	CustomUserAgent string

	version bool
	logging *logsapi.LoggingConfiguration
}

// AddFlags adds the common flags to a flag set.
func (f *CommonFlags) AddFlags(fs *pflag.FlagSet) {
	f.logging = logsapi.NewLoggingConfiguration()
	logsapi.AddFlags(f.logging, fs)
	fs.SetNormalizeFunc(func(_ *pflag.FlagSet, name string) pflag.NormalizedName {
		if name == "log-format" { // the name of the 1.8 releases
			name = "logging-format"
		}
		return pflag.NormalizedName(name)
	})
	fs.BoolVar(&f.version, "version", false, "print the version and exit")
	fs.StringVar(&f.ProbePort, "http-probe-port", f.ProbePort, "port of the probes /healthz, /livez and /readyz")
	fs.StringVar(&f.PrometheusPort, "prometheus-port", f.PrometheusPort, "port of /metrics")
	fs.BoolVar(&f.EnableProfile, "enableProfile", false, "serve pprof on "+ProfileAddress)
	fs.StringVar(&f.CustomUserAgent, "custom-user-agent", "", "text appended to the user agent sent to Azure")

	// Manifests written for older releases pass it; logs go there anyway.
	fs.Bool("logtostderr", true, "log to standard error")
	_ = fs.MarkDeprecated("logtostderr", "logs always go to standard error")
}

// Parse reads the command line. Done is true when the command line asked only
// for the version or the help text, which Parse has printed. Long flags are also
// taken with a single dash, as Go's flag package and so the 1.8 releases did.
// Logging is set up when Parse returns. The error is a UsageError.
func (f *CommonFlags) Parse(fs *pflag.FlagSet, component string, args []string) (done bool, err error) {
	fs.Usage = func() {
		fmt.Fprintf(os.Stdout, "Usage of %s:\n%s", component, fs.FlagUsages())
	}
	fs.SortFlags = true
	if err := fs.Parse(doubleDashes(fs, args)); err != nil {
		if errors.Is(err, pflag.ErrHelp) {
			return true, nil
		}
		return false, &UsageError{err}
	}
	if rest := fs.Args(); len(rest) > 0 {
		return false, Usagef("unexpected argument %q: all options are flags", rest[0])
	}
	if f.version {
		fmt.Fprintln(os.Stdout, version.String(component))
		return true, nil
	}
	if err := logsapi.ValidateAndApply(f.logging, nil); err != nil {
		return false, Usagef("logging flags: %w", err)
	}
	ctrllog.SetLogger(klog.Background())
	return false, nil
}

// Validate reports every common flag with an impossible value.
func (f *CommonFlags) Validate() []error {
	var errs []error
	for _, p := range []struct{ flag, value string }{
		{"http-probe-port", f.ProbePort},
		{"prometheus-port", f.PrometheusPort},
	} {
		if err := ValidatePort(p.flag, p.value); err != nil {
			errs = append(errs, err)
		}
	}
	return errs
}

// ValidatePort says what is wrong with the value of a port flag.
func ValidatePort(flag, value string) error {
	if n, err := strconv.Atoi(value); err != nil || n < 1 || n > 65535 {
		return fmt.Errorf("--%s=%q: must be a port number from 1 to 65535", flag, value)
	}
	return nil
}

// doubleDashes turns -name and -name=value into --name and --name=value where
// name is a known long flag, which pflag would read as a cluster of shorthands.
func doubleDashes(fs *pflag.FlagSet, args []string) []string {
	out := make([]string, len(args))
	for i, a := range args {
		out[i] = a
		if a == "--" {
			copy(out[i:], args[i:])
			break
		}
		if len(a) < 3 || a[0] != '-' || a[1] == '-' {
			continue
		}
		name, _, _ := strings.Cut(a[1:], "=")
		if len(name) > 1 && fs.Lookup(name) != nil {
			out[i] = "-" + a
		}
	}
	return out
}
