package token

import (
	"context"
	"errors"
	"strconv"
	"testing"
	"testing/synctest"
)

// TestFair: one that asks for much does not hold up another.
func TestFair(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &fakeSource{lifetime: dayLong, hang: make(chan struct{})}
		f := NewFair(s, 2)
		ctx, leave := context.WithCancel(t.Context())
		got := make(chan error, 100)
		ask := func(ctx context.Context, client, resource string) {
			go func() { _, err := f.Token(ctx, Request{ClientID: client, Resource: resource}); got <- err }()
		}
		for n := range 50 {
			ask(ctx, "greedy", strconv.Itoa(n))
		}
		synctest.Wait()
		ask(t.Context(), "other", "r")
		synctest.Wait()
		if n := s.count(); n != 3 {
			t.Errorf("%d requests at a time, want 2 of the greedy one and that of the other", n)
		}
		leave()
		for range 50 {
			if err := <-got; !errors.Is(err, context.Canceled) {
				t.Errorf("error %v", err)
			}
		}
		close(s.hang)
		if err := <-got; err != nil {
			t.Error(err)
		}
		if n := s.count(); n != 3 {
			t.Errorf("%d requests: those that left were not to be sent", n)
		}
		if len(f.turns) != 0 {
			t.Errorf("left: %v", f.turns)
		}
	})
}
