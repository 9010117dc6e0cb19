package server

import (
	"context"
	"net/netip"
	"slices"
	"sync"
)

// gate lets a bounded number of requests through to the real service at a time.
// Addresses take turns, and none has more than its share inside: a pod that asks
// as much as it can does not keep the others out, nor does it when the service
// hangs.
type gate struct {
	mu     sync.Mutex
	free   int
	each   int
	inside map[netip.Addr]int
	// queues are the requests that wait, by address, each as the channel that is
	// closed when its turn comes; turns are the addresses that have any.
	queues map[netip.Addr][]chan struct{}
	turns  []netip.Addr
}

func newGate(size, each int) *gate {
	return &gate{free: size, each: each, inside: map[netip.Addr]int{}, queues: map[netip.Addr][]chan struct{}{}}
}

// enter waits for the turn of a request, or until ctx ends. What has entered must
// leave.
func (g *gate) enter(ctx context.Context, a netip.Addr) error {
	g.mu.Lock()
	turn := make(chan struct{})
	if len(g.queues[a]) == 0 {
		g.turns = append(g.turns, a)
	}
	g.queues[a] = append(g.queues[a], turn)
	g.next()
	g.mu.Unlock()
	select {
	case <-turn:
		return nil
	case <-ctx.Done():
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	i := slices.Index(g.queues[a], turn)
	if i < 0 { // its turn came in this moment
		g.left(a)
		return ctx.Err()
	}
	if g.queues[a] = slices.Delete(g.queues[a], i, i+1); len(g.queues[a]) == 0 {
		g.unqueue(a)
	}
	return ctx.Err()
}

func (g *gate) leave(a netip.Addr) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.left(a)
}

func (g *gate) left(a netip.Addr) {
	g.free++
	if g.inside[a]--; g.inside[a] == 0 {
		delete(g.inside, a)
	}
	g.next()
}

// next lets in whoever may enter now.
func (g *gate) next() {
	for g.free > 0 {
		i := slices.IndexFunc(g.turns, func(a netip.Addr) bool { return g.inside[a] < g.each })
		if i < 0 {
			return
		}
		a := g.turns[i]
		g.turns = slices.Delete(g.turns, i, i+1)
		close(g.queues[a][0])
		if g.queues[a] = g.queues[a][1:]; len(g.queues[a]) > 0 {
			g.turns = append(g.turns, a)
		} else {
			delete(g.queues, a)
		}
		g.free--
		g.inside[a]++
	}
}

func (g *gate) unqueue(a netip.Addr) {
	delete(g.queues, a)
	g.turns = slices.DeleteFunc(g.turns, func(b netip.Addr) bool { return a == b })
}
