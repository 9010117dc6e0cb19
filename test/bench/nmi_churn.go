package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/aad-pod-identity/aad-pod-identity/test/azure"
)

const (
	// churnPods come and go each second.
	churnPods       = 5
	churnIdentities = 20
	// A pod asks for tokens for a time between these two, then its identity is
	// withdrawn, and withdrawnFor later it is deleted.
	shortestLife, longestLife = 5 * time.Second, 35 * time.Second
	withdrawnFor              = time.Second
	// churnPatience is how long a pod may be without any token.
	churnPatience = 5 * time.Minute
	// A sandbox is made within a time between these two, once the kubelet has heard of
	// the pod: sooner than any runtime has a container running.
	shortestSandbox, longestSandbox = 200 * time.Millisecond, 800 * time.Millisecond
	// churnSettled is from when on as many pods go as come, and so NMI's memory is
	// compared.
	churnSettled = longestLife + 25*time.Second
	// churnLate is how much later than any watch, in milliseconds, NMI may hear that an
	// identity is withdrawn. Pods ask every churnHurry then.
	churnLate = 100
)

// nmiChurn has pods come and go on a node whose addresses are used again at once,
// and counts the tokens that are another pod's. It asks little of the machine, so
// that it can run for hours beside other work.
func nmiChurn(ctx context.Context, w *nmiWorld) ([]Result, error) {
	ids, err := w.putIdentities(ctx, churnIdentities)
	if err != nil {
		return nil, err
	}
	if err := w.startNMI(ctx); err != nil {
		return nil, err
	}
	c := &churn{w: w, ids: ids, asking: map[int]*churning{}, last: map[string]*churning{}}
	for i := range nmiPods {
		c.free = append(c.free, podIP(i))
	}
	watching, stopWatching := context.WithCancel(ctx)
	watched, err := c.hear(watching)
	defer func() { stopWatching(); watched.Wait() }()
	if err != nil {
		return nil, err
	}
	stop, err := c.startPods(ctx)
	if err != nil {
		return nil, err
	}
	fmt.Printf("bench: %d pods a second for %s\n", churnPods, w.e.churn)
	memory, err := c.run(ctx, w.e.churn)
	if err := errors.Join(err, stop()); err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.wrongs) > 0 { // more than a missed goal
		return nil, fmt.Errorf("%d WRONG TOKENS, the first one: %s", len(c.wrongs), c.wrongs[0])
	}
	served, heard, after := c.late()
	const late = "nmi: churn: identity withdrawn to the last request that got its token, beside when a watch tells of it, "
	return append([]Result{
		figure(fmt.Sprintf("nmi: churn for %s: pods that came and went", w.e.churn), float64(c.pods), ""),
		figure("nmi: churn: tokens", float64(c.tokens), ""),
		figure("nmi: churn: tokens of another pod's identity", float64(len(c.wrongs)), "").atMost(0),
		figure("nmi: churn: pods that got no token", float64(c.without), "").atMost(0),
		figure(late+"p50", served.percentile(50), "ms").against(heard.percentile(50)),
		figure(late+"p99", served.percentile(99), "ms").against(heard.percentile(99)),
		figure(late+"at most", served.percentile(100), "ms").against(heard.percentile(100)),
		figure("nmi: churn: a watch tells of it to the last request that got its token, p99", after.percentile(99), "ms").atMost(churnLate),
		figure("nmi: churn: a watch tells of it to the last request that got its token, at most", after.percentile(100), "ms"),
	}, memory.results()...), nil
}

// late is of each pod how long it got tokens after its right was withdrawn, when a
// watch told of that, and how much later than that it got tokens still.
func (c *churn) late() (served, heard, after durations) {
	for _, p := range c.asking {
		if p.withdrawn.IsZero() || p.heard.IsZero() {
			continue
		}
		served = append(served, max(0, p.lastAsked.Sub(p.withdrawn)))
		heard = append(heard, p.heard.Sub(p.withdrawn))
		after = append(after, max(0, p.lastAsked.Sub(p.heard)))
	}
	return served, heard, after
}

// churn is what has come and gone.
type churn struct {
	w    *nmiWorld
	ids  []azure.Identity
	pods int
	to   io.Writer // the pods' processes

	mu      sync.Mutex
	free    []string             // addresses, the one that was freed last at the end
	last    map[string]*churning // the pod that had the address before
	asking  map[int]*churning
	tokens  int
	without int
	wrongs  []string
}

// churning is a pod.
type churning struct {
	identity  int
	before    *churning     // that had its address
	first     chan struct{} // closed with its first token
	scheduled chan struct{} // closed when the kubelet has heard of it
	ending    chan struct{} // closed when the kubelet has heard of its deletion
	ended     chan struct{} // closed when its processes have
	got       int
	lastAsked time.Time // of the requests that got a token
	withdrawn time.Time
	heard     time.Time // that it was, by a watch
	deleted   time.Time // that it was, by the kubelet
}

// run lets pods come for a time, and returns what NMI's memory was.
func (c *churn) run(ctx context.Context, duration time.Duration) (*churnMemory, error) {
	pods, podsCtx := errgroup.WithContext(ctx)
	come := time.NewTicker(time.Second / churnPods)
	defer come.Stop()
	sample := time.NewTicker(max(time.Second, duration/400))
	defer sample.Stop()
	minute := time.NewTicker(time.Minute)
	defer minute.Stop()
	end := time.NewTimer(duration)
	defer end.Stop()
	memory, started := &churnMemory{}, time.Now()
	for {
		select {
		case <-come.C:
			n := c.pods
			c.pods++
			pods.Go(func() error { return c.pod(podsCtx, n) })
		case <-sample.C:
			if time.Since(started) < churnSettled {
				continue
			}
			if err := memory.sample(ctx, c.w); err != nil {
				return nil, errors.Join(err, podsCtx.Err())
			}
		case <-minute.C:
			if err := c.progress(time.Since(started), memory); err != nil {
				return nil, err
			}
		case <-end.C:
			return memory, pods.Wait()
		case <-podsCtx.Done():
			return nil, errors.Join(ctx.Err(), pods.Wait())
		}
	}
}

// pod is the life of one pod, as scheduler, kubelet and MIC bring it about. The
// kubelet knows of it what a watch of its own tells, as NMI does.
func (c *churn) pod(ctx context.Context, n int) error {
	p := &churning{first: make(chan struct{}), scheduled: make(chan struct{}), ending: make(chan struct{}), ended: make(chan struct{})}
	c.mu.Lock()
	c.asking[n] = p
	c.mu.Unlock()
	name := podName(n)
	object, err := c.create(ctx, name)
	if err != nil {
		return fmt.Errorf("creating a pod: %w", err)
	}
	if err := happened(ctx, p.scheduled, "the kubelet to hear of a pod"); err != nil {
		return err
	}
	address, free := c.take(p)
	for !free { // a busy machine does not let pods end as fast as they come
		if err := pause(ctx, time.Second/churnPods); err != nil {
			return err
		}
		address, free = c.take(p)
	}
	if err := pause(ctx, shortestSandbox+rand.N(longestSandbox-shortestSandbox)); err != nil { //nolint:gosec // not a secret
		return err
	}
	// Its processes run before its address is reported and its identity assigned.
	if err := c.tell(churnOrder{Pod: n, Address: address}); err != nil {
		return err
	}
	if err := c.report(ctx, object, address); err != nil {
		return fmt.Errorf("reporting a pod: %w", err)
	}
	assigned, err := c.assign(ctx, object, c.ids[p.identity])
	if err != nil {
		return fmt.Errorf("assigning an identity: %w", err)
	}

	if err := pause(ctx, shortestLife+rand.N(longestLife-shortestLife)); err != nil { //nolint:gosec // not a secret
		return err
	}
	if err := happened(ctx, p.first, "a token"); err != nil {
		if ctx.Err() != nil {
			return err
		}
		c.mu.Lock()
		c.without++
		c.mu.Unlock()
	}
	if err := c.tell(churnOrder{Pod: n, Address: address, Hurry: true}); err != nil {
		return err
	}
	if err := pause(ctx, 2*churnHurry); err != nil {
		return err
	}
	c.mu.Lock()
	p.withdrawn = time.Now()
	c.mu.Unlock()
	if err := remove(ctx, func(ctx context.Context) error { return c.w.client.Delete(ctx, assigned) }); err != nil {
		return fmt.Errorf("withdrawing an identity: %w", err)
	}
	if err := pause(ctx, withdrawnFor); err != nil {
		return err
	}
	pods := c.w.clientset.CoreV1().Pods(micNamespace)
	if err := remove(ctx, func(ctx context.Context) error { return pods.Delete(ctx, name, *metav1.NewDeleteOptions(30)) }); err != nil {
		return fmt.Errorf("deleting a pod: %w", err)
	}
	if err := happened(ctx, p.ending, "the kubelet to hear of a deletion"); err != nil {
		return err
	}
	if err := c.tell(churnOrder{Pod: n}); err != nil {
		return err
	}
	if err := happened(ctx, p.ended, "the processes of a pod to end"); err != nil {
		return err
	}
	// Its address is another pod's before its object is gone.
	c.mu.Lock()
	c.free, c.last[address] = append(c.free, address), p
	c.mu.Unlock()
	if err := pause(ctx, rand.N(time.Second)); err != nil { //nolint:gosec // not a secret
		return err
	}
	options := metav1.NewDeleteOptions(0)
	options.Preconditions = &metav1.Preconditions{UID: &object.UID}
	if err := remove(ctx, func(ctx context.Context) error { return pods.Delete(ctx, name, *options) }); err != nil {
		return fmt.Errorf("deleting a pod: %w", err)
	}
	return nil
}

// happened waits for what should happen within churnPatience.
func happened(ctx context.Context, c <-chan struct{}, what string) error {
	patience := time.NewTimer(churnPatience)
	defer patience.Stop()
	select {
	case <-c:
		return nil
	case <-patience.C:
		return fmt.Errorf("waiting for %s: it took more than %s", what, churnPatience)
	case <-ctx.Done():
		return ctx.Err()
	}
}

func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// take gives a pod the address that was freed last, and another identity than the
// pod had that had it before.
func (c *churn) take(p *churning) (address string, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.free) == 0 {
		return "", false
	}
	address = c.free[len(c.free)-1]
	c.free = c.free[:len(c.free)-1]
	p.before = c.last[address]
	p.identity = rand.IntN(churnIdentities) //nolint:gosec // not a secret
	if p.before != nil {
		p.identity = (p.before.identity + 1 + rand.IntN(churnIdentities-1)) % churnIdentities //nolint:gosec // not a secret
	}
	return address, true
}

// churnOrder tells the processes of a pod to start, to ask often from now on, or
// without an address to end; churnAnswer is what one of its requests got.
type churnOrder struct {
	Pod     int
	Address string `json:",omitempty"`
	Hurry   bool   `json:",omitempty"`
}

type churnAnswer struct {
	Pod      int
	ClientID string
	Sent     time.Time
	Ended    bool `json:",omitempty"` // all processes of the pod have ended
}

// startPods starts the program that is the pods' processes.
func (c *churn) startPods(ctx context.Context) (stop func() error, err error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("finding this program: %w", err)
	}
	cmd := exec.CommandContext(ctx, "ip", "netns", "exec", podNamespace(c.w.scenario), self, churnCommand)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, fmt.Errorf("starting the pods' processes: %w", err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, fmt.Errorf("starting the pods' processes: %w", err)
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("starting the pods' processes: %w", err)
	}
	c.to = in
	read := make(chan error, 1)
	go func() { read <- c.read(out) }()
	return func() error {
		err := errors.Join(in.Close(), <-read)
		if waited := cmd.Wait(); waited != nil {
			err = errors.Join(err, fmt.Errorf("the pods' processes: %w", waited))
		}
		return err
	}, nil
}

func (c *churn) tell(o churnOrder) error {
	line, err := json.Marshal(o)
	if err != nil {
		return fmt.Errorf("encoding an order: %w", err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, err := c.to.Write(append(line, '\n')); err != nil {
		return fmt.Errorf("telling the pods' processes: %w", err)
	}
	return nil
}

// read judges the tokens that pods got.
func (c *churn) read(out io.Reader) error {
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		var a churnAnswer
		if err := json.Unmarshal(bytes.TrimSpace(lines.Bytes()), &a); err != nil {
			return fmt.Errorf("reading what pods got: %w", err)
		}
		c.judge(a)
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("reading what pods got: %w", err)
	}
	return nil
}

func (c *churn) judge(a churnAnswer) {
	c.mu.Lock()
	defer c.mu.Unlock()
	p := c.asking[a.Pod]
	if a.Ended {
		close(p.ended)
		return
	}
	c.tokens++
	if p.got++; p.got == 1 {
		close(p.first)
	}
	if a.Sent.After(p.lastAsked) {
		p.lastAsked = a.Sent
	}
	if own := c.ids[p.identity].ClientID; a.ClientID != own {
		wrong := fmt.Sprintf("pod %d, whose identity is %s, got a token of %s", a.Pod, own, a.ClientID)
		if b := p.before; b != nil && a.ClientID == c.ids[b.identity].ClientID {
			wrong += fmt.Sprintf(", which was withdrawn %s before the request from the pod that had the address, as watches told %s before; of that one's deletion they told %s before",
				a.Sent.Sub(b.withdrawn), a.Sent.Sub(b.heard), a.Sent.Sub(b.deleted))
		}
		c.wrongs = append(c.wrongs, wrong)
		fmt.Println("bench: WRONG:", wrong)
	}
}
