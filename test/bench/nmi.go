package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"

	v1 "github.com/aad-pod-identity/aad-pod-identity/api/v1"
	"github.com/aad-pod-identity/aad-pod-identity/test/azure"
)

// beginNMI makes pods on the node, each with one of the identities, and starts NMI.
func (w *nmiWorld) beginNMI(ctx context.Context, pods, identities int) error {
	ids, err := w.putIdentities(ctx, identities)
	if err != nil {
		return err
	}
	if err := w.runPods(ctx, 0, pods); err != nil {
		return err
	}
	if err := w.assignAll(ctx, 0, pods, ids); err != nil {
		return err
	}
	return w.startNMI(ctx)
}

func podIPs(n int) []string {
	var all []string
	for i := range n {
		all = append(all, podIP(i))
	}
	return all
}

// nmiThroughput asks for a token that NMI has, from one pod, in turn with the
// baseline, which writes the same bytes.
func nmiThroughput(ctx context.Context, w *nmiWorld) ([]Result, error) {
	const (
		rounds = 7
		each   = 2.0 // seconds
		warmUp = 0.5
	)
	if err := w.beginNMI(ctx, 1, 1); err != nil {
		return nil, err
	}
	once, err := w.send(ctx, traffic{To: metadataTo, Path: tokenPath, From: podIPs(1), Connections: 1, Requests: 1})
	if err != nil {
		return nil, err
	}
	if err := w.startBare(ctx, []byte(once.Body)); err != nil {
		return nil, err
	}
	var results []Result
	for _, connections := range []int{1, 16, 256} {
		measure := func(to string, p *process) (r trafficResult, cpu float64, err error) {
			l := traffic{To: to, Path: tokenPath, From: podIPs(1), Connections: connections, Seconds: warmUp}
			if _, err := w.send(ctx, l); err != nil {
				return r, 0, err
			}
			before, err := p.processor()
			if err != nil {
				return r, 0, err
			}
			l.Seconds = each
			if r, err = w.send(ctx, l); err != nil {
				return r, 0, err
			}
			after, err := p.processor()
			return r, (after - before).Seconds() / float64(r.Answered) * 1000, err
		}
		var ours, bare rounded
		for range rounds {
			r, cpu, err := measure(bareTo, w.bare)
			if err != nil {
				return nil, err
			}
			bare.add(r, cpu)
			if r, cpu, err = measure(metadataTo, w.nmi); err != nil {
				return nil, err
			}
			ours.add(r, cpu)
		}
		name := fmt.Sprintf("nmi: cached token, %d connections", connections)
		rate := figure(name, ours.rate(), "/s").against(bare.rate())
		p99 := figure(name+", p99", ours.p99(), "ms").against(bare.p99())
		if connections == 16 {
			rate, p99 = rate.ratioAtLeast(0.6), p99.ratioAtMost(3)
		}
		results = append(results, rate,
			figure(name+", p50", ours.p50(), "ms").against(bare.p50()), p99,
			figure(name+", processor time for 1,000 requests", ours.cpu(), "s").against(bare.cpu()))
	}
	return results, nil
}

// rounded are several rounds of one measurement, of which the median counts.
type rounded struct{ rates, p50s, p99s, cpus []float64 }

func (r *rounded) add(l trafficResult, cpu float64) {
	r.rates, r.p50s, r.p99s, r.cpus = append(r.rates, l.rate()), append(r.p50s, l.P50), append(r.p99s, l.P99), append(r.cpus, cpu)
}

func (r *rounded) rate() float64 { return median(r.rates) }
func (r *rounded) p50() float64  { return median(r.p50s) }
func (r *rounded) p99() float64  { return median(r.p99s) }
func (r *rounded) cpu() float64  { return median(r.cpus) }

func median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	return sorted[len(sorted)/2]
}

// nmiCold sends 10,000 requests at once, of one token that NMI does not have, from
// 250 pods. IMDS takes long enough for all of them to come meanwhile.
func nmiCold(ctx context.Context, w *nmiWorld) ([]Result, error) {
	const (
		requests = 10_000
		latency  = 20 * time.Second
	)
	if err := w.control.SetSettings(ctx, azure.Settings{IMDS: azure.Duration(latency)}); err != nil {
		return nil, err
	}
	if err := w.beginNMI(ctx, nmiPods, 1); err != nil {
		return nil, err
	}
	before, err := w.nmi.memory("VmRSS")
	if err != nil {
		return nil, err
	}
	r, err := w.send(ctx, traffic{To: metadataTo, Path: tokenPath, From: podIPs(nmiPods), Connections: requests, Requests: 1})
	if err != nil {
		return nil, err
	}
	calls, err := w.control.Calls(ctx, azure.CallFilter{Operation: azure.OpIMDSToken})
	if err != nil {
		return nil, err
	}
	peak, err := w.nmi.memory("VmHWM")
	if err != nil {
		return nil, err
	}
	return []Result{
		figure("nmi: 10,000 requests at once of a token it does not have: requests to IMDS", float64(len(calls)), "").against(requests).atMost(1),
		figure("nmi: 10,000 requests at once: all answered after", r.Seconds, "s").against(latency.Seconds()),
		figure("nmi: 10,000 requests at once: memory", peak, "MiB"),
		figure("nmi: 10,000 requests at once: memory for each connection that waits", (peak-before)*1024/requests, "KiB"),
	}, nil
}

// nmiWake measures how long after its identity is Assigned a waiting request is
// answered, beside how long the API server takes to tell a watch of it.
func nmiWake(ctx context.Context, w *nmiWorld) ([]Result, error) {
	const samples = 100
	ids, err := w.putIdentities(ctx, 1)
	if err != nil {
		return nil, err
	}
	if err := w.runPods(ctx, 0, samples+1); err != nil {
		return nil, err
	}
	if err := w.assignAll(ctx, samples, samples+1, ids); err != nil {
		return nil, err
	}
	if err := w.startNMI(ctx); err != nil {
		return nil, err
	}
	request := func(i int) (trafficResult, error) {
		return w.send(ctx, traffic{To: metadataTo, Path: tokenPath, From: []string{podIP(i)}, Connections: 1, Requests: 1})
	}
	if _, err := request(samples); err != nil { // so that the token is there
		return nil, err
	}
	seen := &watched{}
	watching, stop := context.WithCancel(ctx) // or the API server does not end
	defer stop()
	if err := seen.follow(watching, w); err != nil {
		return nil, err
	}
	var ours, bare durations
	for i := range samples {
		a := assignedIdentity(podName(i), nodeName(0), ids[0], v1.AssignedIDCreated)
		if err := w.client.Create(ctx, a); err != nil {
			return nil, err
		}
		type answer struct {
			trafficResult
			err error
		}
		got := make(chan answer, 1)
		go func() {
			r, err := request(i)
			got <- answer{r, err}
		}()
		if err := poll(ctx, time.Minute, "a request that waits", func() error { return w.waiting(ctx, 1) }); err != nil {
			return nil, errors.Join(err, (<-got).err)
		}
		a.Status.Status = v1.AssignedIDAssigned
		started := time.Now()
		if err := w.client.Update(ctx, a); err != nil {
			return nil, err
		}
		answered := <-got
		if answered.err != nil {
			return nil, answered.err
		}
		ours = append(ours, time.Unix(0, answered.Last).Sub(started))
		if err := poll(ctx, time.Minute, "the watch", func() error { return seen.events(i + 1) }); err != nil {
			return nil, err
		}
		bare = append(bare, time.Unix(0, seen.last.Load()).Sub(started))
	}
	return []Result{
		figure("nmi: identity written as Assigned to the answer of a waiting request, p50", ours.percentile(50), "ms").against(bare.percentile(50)),
		figure("nmi: identity written as Assigned to the answer of a waiting request, p99", ours.percentile(99), "ms").against(bare.percentile(99)),
	}, nil
}

// watched notes when a watch tells of identities that became Assigned.
type watched struct{ number, last atomic.Int64 }

func (s *watched) follow(ctx context.Context, w *nmiWorld) error {
	_, changes, err := w.listAndWatch(ctx)
	if err != nil {
		return err
	}
	go func() { // ends with ctx
		for e := range changes {
			if a, ok := e.Object.(*v1.AzureAssignedIdentity); ok && e.Type == watch.Modified && a.Status.Status == v1.AssignedIDAssigned {
				s.last.Store(time.Now().UnixNano())
				s.number.Add(1)
			}
		}
	}()
	return nil
}

func (s *watched) events(n int) error {
	if have := s.number.Load(); have < int64(n) {
		return fmt.Errorf("it told of %d", have)
	}
	return nil
}

// waiting says whether so many requests wait for MIC, by NMI's own count.
func (w *nmiWorld) waiting(ctx context.Context, n float64) error {
	have, err := metricValues(ctx, w.metrics, "aadpodidentity_nmi_waiting_requests")
	switch {
	case err != nil:
		return fmt.Errorf("NMI: %w", err)
	case len(have) != 1:
		return errors.New("NMI does not count the requests that wait")
	case have[0] != n:
		return fmt.Errorf("%g requests wait", have[0])
	}
	return nil
}

// nmiMemory measures NMI on a full node, and what the rest of the cluster adds.
func nmiMemory(ctx context.Context, w *nmiWorld) ([]Result, error) {
	const (
		identities = 100
		bindings   = 1000
		elsewhere  = 30_000
	)
	if err := w.makeIdentities(ctx, identities); err != nil {
		return nil, err
	}
	if err := inParallel(ctx, bindings, func(ctx context.Context, i int) error {
		return w.client.Create(ctx, &v1.AzureIdentityBinding{
			ObjectMeta: metav1.ObjectMeta{Namespace: micNamespace, Name: fmt.Sprintf("binding%04d", i)},
			Spec:       v1.AzureIdentityBindingSpec{AzureIdentity: identityName(i % identities), Selector: "sel"},
		})
	}); err != nil {
		return nil, err
	}
	if err := w.beginNMI(ctx, nmiPods, identities); err != nil {
		return nil, err
	}
	// Each pod asks 20 times on one connection, 100 tokens in all.
	ask := func(connections int) (now float64, err error) {
		if _, err := w.send(ctx, traffic{To: metadataTo, Path: tokenPath, From: podIPs(nmiPods), Connections: connections * nmiPods, Requests: 20}); err != nil {
			return 0, err
		}
		return w.nmi.memory("VmRSS")
	}
	quiet, err := w.nmi.memory("VmRSS")
	if err != nil {
		return nil, err
	}
	small, err := ask(1)
	if err != nil {
		return nil, err
	}
	fmt.Printf("bench: %d pods elsewhere in the cluster\n", elsewhere)
	id := azure.Identity{ID: azure.IdentityID(micSubscription, micIDGroup, identityName(0)), ClientID: micClientID}
	if err := w.fillElsewhere(ctx, elsewhere, id); err != nil {
		return nil, err
	}
	if err := poll(ctx, time.Minute, "pods elsewhere", func() error { return w.known(ctx, elsewhere) }); err != nil {
		return nil, err
	}
	if err := w.stopNMI(); err != nil {
		return nil, err
	}
	if err := w.startNMI(ctx); err != nil {
		return nil, err
	}
	large, err := ask(1)
	if err != nil {
		return nil, err
	}
	busy, err := ask(4)
	if err != nil {
		return nil, err
	}
	return []Result{
		figure("nmi: memory, 250 pods, 1,000 bindings, before any has asked", quiet, "MiB").atMost(40),
		figure("nmi: memory, 250 pods, 1,000 bindings, all have asked at once", small, "MiB").atMost(40),
		figure("nmi: the same with 30,000 further pods and their assigned identities on other nodes", large, "MiB").against(small).ratioAtMost(1.1),
		figure("nmi: the same, all have asked on 4 connections each at once", busy, "MiB"),
	}, nil
}
