package cluster

import (
	"fmt"
	"io"
	"sync"
	"time"
)

// announceAfter is how long a step may run before its start is printed too:
// quick steps take one line, long ones say early what is being waited for.
const announceAfter = 2 * time.Second

// progress prints steps with their duration; steps may run at the same time.
type progress struct {
	mu  sync.Mutex
	out io.Writer
}

func newProgress(out io.Writer) *progress { return &progress{out: out} }

func (p *progress) printf(format string, args ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	fmt.Fprintf(p.out, format+"\n", args...)
}

// step starts a step; the returned function ends it and prints how long it took.
func (p *progress) step(name string) func(error) {
	start := time.Now()
	announce := time.AfterFunc(announceAfter, func() { p.printf("  … %s", name) })
	return func(err error) {
		announce.Stop()
		took := time.Since(start)
		if err != nil {
			p.printf("  ✗ %s (%s)", name, roundDuration(took))
			return
		}
		p.printf("  ✓ %s %s", name, roundDuration(took))
	}
}

func roundDuration(d time.Duration) string {
	if d < 10*time.Second {
		return d.Round(100 * time.Millisecond).String()
	}
	return d.Round(time.Second).String()
}
