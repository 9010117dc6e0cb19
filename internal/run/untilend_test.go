package run

import (
	"context"
	"errors"
	"testing"
)

func TestUntilEnd(t *testing.T) {
	failure := errors.New("failure")
	closed := make(chan struct{})
	close(closed)
	end := make(chan struct{}) // of what nobody waits for
	tests := map[string]struct {
		begun chan struct{}
		start func(context.Context) error
		want  error
		// alone: it ends although nothing is stopped.
		alone bool
	}{
		"what ends by itself is heard": {
			begun: make(chan struct{}),
			start: func(context.Context) error { return failure },
			want:  failure, alone: true,
		},
		"what has begun is waited for": {
			begun: closed,
			start: func(ctx context.Context) error { <-ctx.Done(); return failure },
			want:  failure,
		},
		"what hangs before it has begun is not": {
			begun: make(chan struct{}),
			start: func(context.Context) error { <-end; return failure },
			want:  context.Canceled,
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			ended := make(chan error, 1)
			go func() { ended <- UntilEnd(ctx, tt.begun, tt.start) }()
			if tt.alone {
				defer cancel()
			} else {
				cancel()
			}
			if err := <-ended; !errors.Is(err, tt.want) {
				t.Errorf("got %v, want %v", err, tt.want)
			}
		})
	}
	close(end)
}
