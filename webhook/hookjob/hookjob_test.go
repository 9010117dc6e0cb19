package hookjob

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/spf13/pflag"

	"github.com/aad-pod-identity/aad-pod-identity/internal/run"
)

func TestUntil(t *testing.T) {
	type answer struct {
		waiting string
		err     error
	}
	tests := map[string]struct {
		answers []answer // the last one repeats
		wantErr string   // "" for none
		wantLog string
		took    time.Duration
	}{
		"done at once": {answers: []answer{{}}},
		"done after a while, each state said once": {
			answers: []answer{{waiting: "a"}, {waiting: "a"}, {waiting: "b"}, {}},
			wantLog: "   0s  waiting: a\n   2s  waiting: b\n", took: 3 * time.Second,
		},
		"an error passes": {
			answers: []answer{{err: errors.New("connection refused")}, {}},
			wantLog: "   0s  waiting: connection refused\n", took: time.Second,
		},
		"time is up": {
			answers: []answer{{waiting: "a"}},
			wantErr: "timed out after 10s: a",
			wantLog: "   0s  waiting: a\n", took: 10 * time.Second,
		},
		"an error that lasts is the reason": {
			answers: []answer{{waiting: "a"}, {err: context.DeadlineExceeded}},
			wantErr: "timed out after 10s: context deadline exceeded",
			wantLog: "   0s  waiting: a\n   1s  waiting: context deadline exceeded\n", took: 10 * time.Second,
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var log strings.Builder
				start, calls := time.Now(), 0
				err := Until(t.Context(), 10*time.Second, time.Second, NewProgress(&log), func(context.Context) (string, error) {
					a := tc.answers[min(calls, len(tc.answers)-1)]
					calls++
					return a.waiting, a.err
				})
				if tc.wantErr == "" && err != nil || tc.wantErr != "" && (err == nil || err.Error() != tc.wantErr) {
					t.Errorf("error %v, want %q", err, tc.wantErr)
				}
				if errors.Is(err, ErrTimeout) != (tc.wantErr != "") {
					t.Errorf("errors.Is(%v, ErrTimeout) is wrong", err)
				}
				if log.String() != tc.wantLog {
					t.Errorf("log %q, want %q", log.String(), tc.wantLog)
				}
				if took := time.Since(start); took != tc.took {
					t.Errorf("took %s, want %s", took, tc.took)
				}
			})
		})
	}
	t.Run("a step that hangs is ended, and the state before it is said", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			calls := 0
			err := Until(t.Context(), 10*time.Second, time.Second, NewProgress(&strings.Builder{}), func(ctx context.Context) (string, error) {
				if calls++; calls == 1 {
					return "two pods", nil
				}
				<-ctx.Done()
				return "", ctx.Err()
			})
			if err == nil || err.Error() != "timed out after 10s: two pods" {
				t.Errorf("error %v", err)
			}
		})
	})
	t.Run("a signal ends the wait and is not a timeout", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			err := Until(ctx, time.Hour, time.Second, NewProgress(&strings.Builder{}), func(context.Context) (string, error) {
				cancel()
				return "a", nil
			})
			if !errors.Is(err, context.Canceled) || errors.Is(err, ErrTimeout) {
				t.Errorf("error %v, want it cancelled", err)
			}
		})
	})
}

func TestParse(t *testing.T) {
	tests := map[string]struct {
		args []string
		want []string // parts of the error; none for success
	}{
		"a namespace is enough":       {args: []string{"--namespace=a"}},
		"everything wrong at once":    {args: []string{"--timeout=-1s"}, want: []string{"--namespace is required", "--timeout=-1s"}},
		"an unknown flag":             {args: []string{"--namespace=a", "--nmaespace=b"}, want: []string{"unknown flag: --nmaespace"}},
		"an argument that is no flag": {args: []string{"--namespace=a", "b"}, want: []string{`unexpected argument "b"`}},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			f := Flags{Timeout: time.Minute}
			fs := pflag.NewFlagSet("prepare", pflag.ContinueOnError)
			f.AddFlags(fs)
			_, err := f.Parse(fs, tc.args)
			if len(tc.want) == 0 && err != nil {
				t.Fatal(err)
			}
			for _, want := range tc.want {
				if err == nil || !strings.Contains(err.Error(), want) {
					t.Errorf("error %v, want one that says %q", err, want)
				}
			}
			var usage *run.UsageError
			if err != nil && !errors.As(err, &usage) {
				t.Errorf("%T is not a usage error", err)
			}
		})
	}
}

func TestClientWithoutAClusterSaysWhatIsMissing(t *testing.T) {
	t.Setenv("KUBERNETES_SERVICE_HOST", "")
	if _, err := (&Flags{}).Client(nil); err == nil || !strings.Contains(err.Error(), "--kubeconfig is required") {
		t.Errorf("error %v", err)
	}
}

func TestOutcomeOfAStoppedJobIsAnError(t *testing.T) {
	if Outcome(nil) != nil {
		t.Error("success became an error")
	}
	if err := Outcome(ErrTimeout); !errors.Is(err, ErrTimeout) {
		t.Errorf("another error became %v", err)
	}
	if err := Outcome(fmt.Errorf("deleting: %w", context.Canceled)); !errors.Is(err, ErrStopped) || errors.Is(err, context.Canceled) {
		t.Errorf("a stop became %v", err)
	}
}
