package main

import (
	"errors"
	"strings"
	"testing"

	"github.com/spf13/pflag"

	"github.com/aad-pod-identity/aad-pod-identity/internal/run"
)

// wantUsage asserts that err is a mistake on the command line and says it all.
func wantUsage(t *testing.T, err error, texts ...string) {
	t.Helper()
	var usage *run.UsageError
	if !errors.As(err, &usage) {
		t.Fatalf("got %v, want a usage error", err)
	}
	for _, text := range texts {
		if !strings.Contains(err.Error(), text) {
			t.Errorf("got %q, want %q in it", err, text)
		}
	}
}

func TestCommandLineMistakes(t *testing.T) {
	tests := map[string]struct {
		args []string
		want string
	}{
		"an unknown command": {[]string{"server"}, `unknown command "server", must be one of cleanup, lint, prepare, serve, uninstall`},
		"an unknown flag":    {[]string{"--ports=1"}, "unknown flag: --ports"},
		"an unexpected word": {[]string{"serve", "now"}, `unexpected argument "now"`},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			wantUsage(t, command(t.Context(), tt.args), tt.want)
		})
	}
}

// optionsTest is a command line.
type optionsTest struct {
	args []string
	want []string // texts in the error; nothing: valid
}

func checkOptions(t *testing.T, tests map[string]optionsTest) {
	t.Helper()
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			o := newOptions()
			fs := pflag.NewFlagSet("webhook", pflag.ContinueOnError)
			o.addFlags(fs)
			if err := fs.Parse(tt.args); err != nil {
				t.Fatal(err)
			}
			err := o.validate()
			if len(tt.want) == 0 {
				if err != nil {
					t.Fatal(err)
				}
				return
			}
			wantUsage(t, err, tt.want...)
		})
	}
}

func TestOptions(t *testing.T) {
	checkOptions(t, map[string]optionsTest{
		"the defaults":          {nil, nil},
		"TLS 1.3":               {[]string{"--tls-min-version=VersionTLS13"}, nil},
		"an impossible port":    {[]string{"--port=70000"}, []string{`--port="70000": must be a port number`}},
		"an old TLS version":    {[]string{"--tls-min-version=VersionTLS10"}, []string{`--tls-min-version="VersionTLS10": must be VersionTLS12 or VersionTLS13`}},
		"a warning about an ID": {[]string{"--resource-id-case=warn"}, nil},
		"an unknown policy":     {[]string{"--resource-id-case=Warn"}, []string{`--resource-id-case="Warn": must be reject, warn or canonicalize`}},
		"no directory":          {[]string{"--cert-dir="}, []string{"--cert-dir: must not be empty"}},
		"a negative delay":      {[]string{"--shutdown-delay=-1s"}, []string{"--shutdown-delay=-1s: must not be negative"}},
		"all pods gated":        {[]string{"--readiness-gate=all", "--inject-selector"}, nil},
		"an unknown gate mode":  {[]string{"--readiness-gate=on"}, []string{`--readiness-gate="on": must be off, opt-in or all`}},
		"all mistakes together": {[]string{"--port=0", "--http-probe-port=x", "--cert-dir="}, []string{"--port=", "--http-probe-port=", "--cert-dir"}},
	})
}

func TestAnUnreadableKubeconfigIsAnErrorThatNamesIt(t *testing.T) {
	o := newOptions()
	o.kubeconfig = "/does/not/exist"
	if _, err := clientConfig(o); err == nil || !strings.Contains(err.Error(), `reading the kubeconfig "/does/not/exist"`) {
		t.Errorf("got %v", err)
	}
}
