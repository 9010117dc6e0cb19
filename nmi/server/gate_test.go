package server

import (
	"context"
	"errors"
	"net/netip"
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"
)

var addrA, addrB, addrC = netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.2"), netip.MustParseAddr("10.0.0.3")

// queue asks for entry in the background and notes who gets in.
func queue(ctx context.Context, g *gate, order chan<- netip.Addr, addresses ...netip.Addr) {
	for _, a := range addresses {
		go func() {
			if g.enter(ctx, a) == nil {
				order <- a
			}
		}()
		synctest.Wait()
	}
}

func inOrder(order chan netip.Addr) []netip.Addr {
	var got []netip.Addr
	for len(order) > 0 {
		got = append(got, <-order)
	}
	return got
}

func TestGateTakesTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGate(1, 1)
		order := make(chan netip.Addr, 10)
		queue(t.Context(), g, order, addrA, addrA, addrA, addrA, addrB, addrC)
		for inside := addrA; ; {
			g.leave(inside)
			synctest.Wait()
			if len(g.turns) == 0 {
				break
			}
			g.mu.Lock()
			for a := range g.inside {
				inside = a
			}
			g.mu.Unlock()
		}
		want := []netip.Addr{addrA, addrA, addrB, addrC, addrA, addrA}
		if diff := cmp.Diff(want, inOrder(order), cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
			t.Errorf("order (-want +got):\n%s", diff)
		}
	})
}

func TestGateKeepsShares(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGate(4, 2)
		order := make(chan netip.Addr, 10)
		queue(t.Context(), g, order, addrA, addrA, addrA, addrB)
		want := []netip.Addr{addrA, addrA, addrB}
		if diff := cmp.Diff(want, inOrder(order), cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
			t.Errorf("inside (-want +got):\n%s", diff)
		}
		g.leave(addrA)
		synctest.Wait()
		if got := inOrder(order); len(got) != 1 || got[0] != addrA {
			t.Errorf("after one left: %v", got)
		}
		for _, a := range []netip.Addr{addrA, addrA, addrB} {
			g.leave(a)
		}
		if g.free != 4 || len(g.inside)+len(g.queues)+len(g.turns) != 0 {
			t.Errorf("left: %+v", g)
		}
	})
}

func TestGateForgetsWhoLeavesTheQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGate(1, 1)
		if err := g.enter(t.Context(), addrA); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		failed := make(chan error, 1)
		go func() { failed <- g.enter(ctx, addrB) }()
		synctest.Wait()
		cancel()
		if err := <-failed; !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
		g.leave(addrA)
		if g.free != 1 || len(g.inside)+len(g.queues)+len(g.turns) != 0 {
			t.Errorf("left: %+v", g)
		}
	})
}
