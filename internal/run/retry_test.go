package run

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-logr/logr/funcr"
	"k8s.io/klog/v2"
)

func TestRetry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var lines []string
		ctx := klog.NewContext(t.Context(), funcr.New(func(_, args string) { lines = append(lines, args) }, funcr.Options{}))
		answers := []string{"refused", "refused", "refused", "forbidden", "forbidden", "forbidden", "forbidden", ""}
		var at []time.Duration
		start := time.Now()
		err := Retry(ctx, "to do it", func(context.Context) error {
			at = append(at, time.Since(start))
			if text := answers[len(at)-1]; text != "" {
				return errors.New(text)
			}
			return nil
		})
		if err != nil || len(at) != len(answers) {
			t.Fatalf("%d attempts, %v", len(at), err)
		}
		// 1+2+4+8+16+30+30
		if at[1] != time.Second || at[7] != 91*time.Second {
			t.Errorf("attempts at %v", at)
		}
		if len(lines) != 2 || !strings.Contains(lines[0], "refused") || !strings.Contains(lines[1], "forbidden") {
			t.Errorf("the log: %q", lines)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := Retry(ctx, "to do it", func(context.Context) error { return errors.New("never") }); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("error %v", err)
		}
	})
}
