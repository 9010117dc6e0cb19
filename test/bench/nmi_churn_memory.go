package main

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// churnMemory is what NMI's memory was while pods came and went, from when on as many
// came as went.
type churnMemory struct {
	resident []float64 // MiB
	own      []float64 // MiB of it that are not pages of the binary
	heap     []float64 // MiB of what garbage collections found in use
	routines []float64
}

// sample takes one sample.
func (m *churnMemory) sample(ctx context.Context, w *nmiWorld) error {
	resident, err := w.nmi.memory("VmRSS")
	if err != nil {
		return err
	}
	own, err := w.nmi.memory("RssAnon")
	if err != nil {
		return err
	}
	// A garbage collection begins when the heap is GOGC = 100 % larger than what the
	// one before left in use.
	next, err := metricValues(ctx, w.metrics, "go_memstats_next_gc_bytes")
	if err != nil {
		return err
	}
	routines, err := metricValues(ctx, w.metrics, "go_goroutines")
	if err != nil {
		return err
	}
	if len(next) != 1 || len(routines) != 1 {
		return errors.New("NMI has no metrics of its heap and goroutines")
	}
	m.resident, m.own = append(m.resident, resident), append(m.own, own)
	m.heap, m.routines = append(m.heap, next[0]/2/(1<<20)), append(m.routines, routines[0])
	return nil
}

// results compare the last quarter with the first.
func (m *churnMemory) results() []Result {
	const name = "nmi: churn: in the last quarter, beside the first: "
	if len(m.resident) < 4 {
		return []Result{figure("nmi: churn: too short to compare memory, it takes more than "+churnSettled.String(), 0, "")}
	}
	compared := func(what, unit string, values []float64) Result {
		quarter := len(values) / 4
		return figure(name+what, mean(values[len(values)-quarter:]), unit).against(mean(values[:quarter]))
	}
	return []Result{
		compared("resident memory", "MiB", m.resident).ratioAtMost(1.1),
		compared("of it without pages of the binary", "MiB", m.own),
		compared("heap in use", "MiB", m.heap).ratioAtMost(1.1),
		compared("goroutines", "", m.routines),
	}
}

// progress prints how it stands.
func (c *churn) progress(since time.Duration, m *churnMemory) error {
	used, err := c.w.nmi.processor()
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	fmt.Printf("bench: %s: %d pods, %d tokens, %d wrong, %d pods without one, NMI %.1f %% of a processor", since.Round(time.Second),
		c.pods, c.tokens, len(c.wrongs), c.without, 100*used.Seconds()/since.Seconds())
	if n := len(m.resident); n > 0 {
		fmt.Printf(", %.1f MiB, %.1f of its own, heap %.1f MiB, %.0f goroutines", m.resident[n-1], m.own[n-1], m.heap[n-1], m.routines[n-1])
	}
	fmt.Println()
	return nil
}

func mean(values []float64) float64 {
	sum := 0.0
	for _, v := range values {
		sum += v
	}
	return sum / float64(len(values))
}
