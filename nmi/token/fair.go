package token

import (
	"context"
	"sync"
)

// Fair lets at most a few requests of one identity at a time through to the source
// below it. IMDS answers few at a time and a second; without this one pod that asks
// for many resources at once would hold up all others.
type Fair struct {
	next Source
	each int

	mu    sync.Mutex
	turns map[string]*turns // by Key.Identity, while someone is there
}

type turns struct {
	free  chan struct{}
	users int
}

// NewFair makes a Fair that lets each requests of an identity through.
func NewFair(next Source, each int) *Fair {
	return &Fair{next: next, each: each, turns: map[string]*turns{}}
}

// Token implements Source.
func (f *Fair) Token(ctx context.Context, req Request) (Token, error) {
	identity := req.Key().Identity
	t := f.enter(identity)
	defer f.leave(identity, t)
	select {
	case t.free <- struct{}{}:
		defer func() { <-t.free }()
	case <-ctx.Done():
		return Token{}, ended(ctx, "waiting for other requests of the identity")
	}
	return f.next.Token(ctx, req)
}

func (f *Fair) enter(identity string) *turns {
	f.mu.Lock()
	defer f.mu.Unlock()
	t, ok := f.turns[identity]
	if !ok {
		t = &turns{free: make(chan struct{}, f.each)}
		f.turns[identity] = t
	}
	t.users++
	return t
}

func (f *Fair) leave(identity string, t *turns) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if t.users--; t.users == 0 {
		delete(f.turns, identity)
	}
}
