package run

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/pflag"

	"github.com/aad-pod-identity/aad-pod-identity/test/freeport"
)

func TestFinish(t *testing.T) {
	stopped, cancel := context.WithCancel(context.Background())
	cancel()
	tests := map[string]struct {
		ctx    context.Context
		err    error
		code   int
		stderr string
	}{
		"success":             {ctx: context.Background()},
		"stopped by a signal": {ctx: stopped, err: fmt.Errorf("serving: %w", context.Canceled)},
		"a cancelled context of somebody else is an error": {
			ctx: context.Background(), err: context.Canceled, code: 1, stderr: "mic: context canceled\n",
		},
		"a usage error says where to look": {
			ctx: context.Background(), err: Usagef("unknown flag: --nodes"), code: 2,
			stderr: "mic: unknown flag: --nodes\nRun 'mic --help' for the flags.\n",
		},
		"an exit code that is an answer": {ctx: context.Background(), err: &ExitError{Code: 1}, code: 1},
		"an exit code with a reason": {
			ctx: stopped, err: fmt.Errorf("lint: %w", &ExitError{Code: 2, Err: errors.New("no file")}), code: 2, stderr: "mic: no file\n",
		},
		"several errors stay together": {
			ctx: context.Background(), err: errors.Join(errors.New("a"), errors.New("b")), code: 1, stderr: "mic: a\n  b\n",
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			var stderr bytes.Buffer
			if got := finish(tc.ctx, &stderr, "mic", tc.err); got != tc.code {
				t.Errorf("exit code %d, want %d", got, tc.code)
			}
			if diff := cmp.Diff(tc.stderr, stderr.String()); diff != "" {
				t.Errorf("standard error (-want +got):\n%s", diff)
			}
		})
	}
}

func TestDoubleDashes(t *testing.T) {
	fs := pflag.NewFlagSet("test", pflag.ContinueOnError)
	(&CommonFlags{}).AddFlags(fs)
	fs.String("kubeconfig", "", "")
	in := []string{"-kubeconfig=x", "-v=5", "-log-format", "json", "-unknown", "--version", "-", "--", "-kubeconfig"}
	want := []string{"--kubeconfig=x", "-v=5", "--log-format", "json", "-unknown", "--version", "-", "--", "-kubeconfig"}
	if diff := cmp.Diff(want, doubleDashes(fs, in)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestParseReportsMistakes(t *testing.T) {
	tests := map[string]struct {
		args []string
		want string
	}{
		"an unknown flag":       {[]string{"--nodes=a"}, "unknown flag: --nodes"},
		"a stray argument":      {[]string{"true"}, `unexpected argument "true"`},
		"an unknown log format": {[]string{"--log-format=xml"}, "logging flags"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			fs := pflag.NewFlagSet("test", pflag.ContinueOnError)
			var f CommonFlags
			f.AddFlags(fs)
			_, err := f.Parse(fs, "mic", tc.args)
			var usage *UsageError
			if !errors.As(err, &usage) || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("Parse(%q) = %v, want a usage error with %q", tc.args, err, tc.want)
			}
		})
	}
}

func TestValidatePorts(t *testing.T) {
	f := CommonFlags{ProbePort: "80a", PrometheusPort: "70000"}
	if errs := f.Validate(); len(errs) != 2 {
		t.Errorf("Validate = %v, want one error for each port", errs)
	}
	f = CommonFlags{ProbePort: "8080", PrometheusPort: "8888"}
	if errs := f.Validate(); len(errs) != 0 {
		t.Errorf("Validate = %v, want none", errs)
	}
}

func TestHealth(t *testing.T) {
	broken := func(text string) Check { return func(context.Context) error { return errors.New(text) } }
	fine := func(context.Context) error { return nil }
	tests := map[string]struct {
		live, ready Check
		active      bool
		want        map[string]string
	}{
		"all is well": {live: fine, ready: fine, active: true, want: map[string]string{
			"/healthz": "200 Active", "/livez": "200 ok", "/readyz": "200 ok",
		}},
		"a standby is healthy": {live: fine, ready: fine, want: map[string]string{
			"/healthz": "200 Not Active", "/livez": "200 ok", "/readyz": "200 ok",
		}},
		"not ready is no reason to restart": {live: fine, ready: broken("no sync"), active: true, want: map[string]string{
			"/healthz": "200 Active", "/livez": "200 ok", "/readyz": "503 ready: no sync",
		}},
		"broken is neither live nor ready": {live: broken("stuck"), ready: fine, active: true, want: map[string]string{
			"/healthz": "500 live: stuck", "/livez": "500 live: stuck", "/readyz": "503 live: stuck",
		}},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			h := NewHealth()
			h.AddLive("live", tc.live)
			h.AddReady("ready", tc.ready)
			srv := h.Handler(func() bool { return tc.active })
			got := map[string]string{}
			for path := range tc.want {
				rec := httptest.NewRecorder()
				srv.ServeHTTP(rec, httptest.NewRequestWithContext(t.Context(), http.MethodGet, path, nil))
				got[path] = fmt.Sprintf("%d %s", rec.Code, strings.TrimSpace(rec.Body.String()))
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("probes (-want +got):\n%s", diff)
			}
		})
	}
}

func TestServeLetsRequestsFinish(t *testing.T) {
	address := "127.0.0.1:" + freeport.Get(t)
	ctx, stop := context.WithCancel(t.Context())
	started, release := make(chan struct{}), make(chan struct{})
	served := make(chan error, 1)
	go func() {
		served <- Serve(ctx, "test", address, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			close(started)
			<-release
			_, _ = io.WriteString(w, "done")
		}))
	}()
	answer := make(chan string, 1)
	go func() { answer <- get(t, address) }()
	<-started
	stop()
	close(release)
	if got := <-answer; got != "done" {
		t.Errorf("the request under way at shutdown got %q", got)
	}
	if err := <-served; err != nil {
		t.Errorf("Serve = %v", err)
	}
}

func TestServeReportsAnOccupiedPort(t *testing.T) {
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	err = Serve(t.Context(), "probe", l.Addr().String(), http.NotFoundHandler())
	if err == nil || !strings.Contains(err.Error(), "probe server") {
		t.Errorf("Serve = %v, want an error that names the server", err)
	}
}

// get retries until the server listens; the test's own deadline bounds it.
func get(t *testing.T, address string) string {
	for {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+address, nil)
		if err != nil {
			return err.Error()
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			if t.Context().Err() != nil {
				return err.Error()
			}
			continue
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		if err != nil {
			return err.Error()
		}
		return string(b)
	}
}
