package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	v1 "github.com/aad-pod-identity/aad-pod-identity/api/v1"
	"github.com/aad-pod-identity/aad-pod-identity/test/azure"
)

// micScenario runs one measurement in a world of its own.
func micScenario(sets int, settings azure.Settings, measure func(context.Context, *micWorld) ([]Result, error)) func(context.Context, *environment) ([]Result, error) {
	return func(ctx context.Context, e *environment) (_ []Result, err error) {
		w, err := newMICWorld(ctx, e, sets, settings)
		if err != nil {
			return nil, err
		}
		defer func() { err = errors.Join(err, w.close()) }()
		if err := w.makeNodes(ctx); err != nil {
			return nil, err
		}
		return measure(ctx, w)
	}
}

// beginWith makes so many identities, each with a binding, and starts MIC.
func (w *micWorld) beginWith(ctx context.Context, identities int) error {
	if err := w.makeIdentities(ctx, identities); err != nil {
		return err
	}
	if err := w.bind(ctx, identities); err != nil {
		return err
	}
	return w.startMIC(ctx)
}

// Settings of the scenarios: operations that take a while, or writes that ARM
// answers after a second.
var (
	shortOperations = azure.Settings{VMSSOperation: azure.Duration(300 * time.Millisecond)}
	slowWrites      = azure.Settings{ARMWrite: azure.Duration(time.Second)}
)

// latencySamples pods are measured, and one before that is not: with it both sides sign
// in to Azure and open their connections.
const (
	latencySamples = 100
	latencyPods    = latencySamples + 1
	// latencySets are two for each, half of them being the baseline's.
	latencySets = 2 * latencyPods
)

// micLatency measures single pods, each with an identity and a scale set of its
// own, in turn with the bare client: the difference is MIC's part.
func micLatency(ctx context.Context, w *micWorld) ([]Result, error) {
	if err := w.beginWith(ctx, latencyPods); err != nil {
		return nil, err
	}
	bare, err := w.bareClient()
	if err != nil {
		return nil, err
	}
	t, err := w.track(ctx)
	if err != nil {
		return nil, err
	}
	defer t.stop()
	var ours, baseline durations
	for i := range latencyPods {
		started := time.Now()
		if err := w.makePod(ctx, podName(i), 2*i*nodesPerSet, i); err != nil {
			return nil, err
		}
		at, err := t.waitFor(ctx, i+1, time.Minute)
		if err != nil {
			return nil, err
		}
		ours = append(ours, at.Sub(started))
		started = time.Now()
		if err := bare.assign(ctx, 2*i+1, i); err != nil {
			return nil, err
		}
		baseline = append(baseline, time.Since(started))
	}
	ours, baseline = ours[1:], baseline[1:]
	return []Result{
		figure("mic: pod scheduled to Assigned, ARM's operations of 0.3 s, p50", ours.percentile(50), "ms").against(baseline.percentile(50)),
		figure("mic: pod scheduled to Assigned, ARM's operations of 0.3 s, p99", ours.percentile(99), "ms").against(baseline.percentile(99)),
		figure("mic: of it beyond ARM's time, p50", ours.percentile(50)-baseline.percentile(50), "ms"),
		figure("mic: of it beyond ARM's time, p99", ours.percentile(99)-baseline.percentile(50), "ms").atMost(100),
	}, nil
}

const (
	burstPods, burstSets = 1000, 10
	micIdentities        = 20
)

// micBurst creates 1,000 pods as fast as the API server takes them.
func micBurst(ctx context.Context, w *micWorld) ([]Result, error) {
	if err := w.beginWith(ctx, micIdentities); err != nil {
		return nil, err
	}
	t, err := w.track(ctx)
	if err != nil {
		return nil, err
	}
	defer t.stop()
	started := time.Now()
	if err := w.makePods(ctx, 0, burstPods, micIdentities); err != nil {
		return nil, err
	}
	created := time.Now()
	last, err := t.waitFor(ctx, burstPods, 5*time.Minute)
	if err != nil {
		return nil, err
	}
	writes, reads, polls, err := w.armCalls(ctx)
	if err != nil {
		return nil, err
	}
	peak, err := w.mic.memory("VmHWM")
	if err != nil {
		return nil, err
	}
	bare, err := w.bareBurst(ctx, burstSets)
	if err != nil {
		return nil, err
	}
	fmt.Printf("bench: creating %d pods took %s\n", burstPods, created.Sub(started).Round(time.Millisecond))
	return []Result{
		figure("mic: 1,000 pods on 10 scale sets: all Assigned after the last was created", last.Sub(created).Seconds(), "s").against(bare.Seconds()).atMost(2.5),
		figure("mic: 1,000 pods: writes to ARM", writes, "").against(burstSets).atMost(20),
		figure("mic: 1,000 pods: reads from ARM", reads, "").atMost(10),
		figure("mic: 1,000 pods: polls of ARM's operations", polls, ""),
		figure("mic: 1,000 pods: memory", peak, "MiB").atMost(64),
	}, nil
}

// bareBurst takes the time of the fewest PATCHes that put all identities on so
// many scale sets, all at once.
func (w *micWorld) bareBurst(ctx context.Context, sets int) (time.Duration, error) {
	bare, err := w.bareClient()
	if err != nil {
		return 0, err
	}
	all := make([]int, micIdentities)
	for i := range all {
		all[i] = i
	}
	for set := range sets {
		if _, err := w.control.PutCompute(ctx, azure.Compute{ID: setID(set)}); err != nil {
			return 0, err
		}
	}
	started := time.Now()
	err = inParallel(ctx, sets, func(ctx context.Context, set int) error { return bare.assign(ctx, set, all...) })
	return time.Since(started), err
}

const (
	scalePods, scaleSets = 10_000, 100
	growthSets           = 50
	// alonePods is how many are written to know how long all of them take.
	alonePods = 2000
	churnRate = 100 // pods a second that go, and as many that come
	churnTime = 2 * time.Minute
)

// micScale binds 10,000 pods at once, then replaces 100 of them each second.
func micScale(ctx context.Context, w *micWorld) ([]Result, error) {
	fmt.Printf("bench: creating %d pods\n", scalePods)
	if err := w.makeIdentities(ctx, micIdentities); err != nil {
		return nil, err
	}
	if err := w.makePods(ctx, 0, scalePods, micIdentities); err != nil {
		return nil, err
	}
	alone, err := w.writesAlone(ctx, alonePods)
	if err != nil {
		return nil, err
	}
	if err := w.startMIC(ctx); err != nil {
		return nil, err
	}
	t, err := w.track(ctx)
	if err != nil {
		return nil, err
	}
	defer t.stop()
	before, err := w.requests(ctx)
	if err != nil {
		return nil, err
	}
	// Bindings are few, so the pods are all there in the same instant.
	if err := w.bind(ctx, micIdentities); err != nil {
		return nil, err
	}
	bound := time.Now()
	last, err := t.waitFor(ctx, scalePods, 10*time.Minute)
	if err != nil {
		return nil, err
	}
	after, err := w.requests(ctx)
	if err != nil {
		return nil, err
	}
	writes, reads, _, err := w.armCalls(ctx)
	if err != nil {
		return nil, err
	}
	peak, err := w.mic.memory("VmHWM")
	if err != nil {
		return nil, err
	}
	results := []Result{
		figure("mic: 10,000 pods on 100 scale sets at once: all Assigned", last.Sub(bound).Seconds(), "s").against(alone.Seconds() * scalePods / alonePods).atMost(20),
		figure("mic: 10,000 pods: writes to ARM for a scale set", writes/scaleSets, "").against(1).atMost(2),
		figure("mic: 10,000 pods: reads from ARM for a scale set", reads/scaleSets, ""),
		figure("mic: 10,000 pods: writes to ARM for a pod", writes/scalePods, ""),
		figure("mic: 10,000 pods: requests to the API server for a pod", (after-before)/scalePods, "").against(2),
		figure("mic: 10,000 pods: memory", peak, "MiB"),
	}
	churn, err := w.churn(ctx, t)
	return append(results, churn...), err
}

// writesAlone is the time in which the API server takes the writes that the
// outcome needs, one create and one patch for each pod, from a client that does
// nothing else: no MIC can be faster than that.
func (w *micWorld) writesAlone(ctx context.Context, n int) (time.Duration, error) {
	id := &v1.AzureIdentity{ObjectMeta: metav1.ObjectMeta{Namespace: micNamespace, Name: identityName(0)}}
	if err := w.client.Get(ctx, client.ObjectKeyFromObject(id), id); err != nil {
		return 0, fmt.Errorf("reading an identity: %w", err)
	}
	id.APIVersion, id.Kind = v1.GroupVersion.String(), v1.KindAzureIdentity
	const namespace = "kube-public" // MIC removes what it finds there, later
	started := time.Now()
	err := inParallel(ctx, n, func(ctx context.Context, i int) error {
		a := &v1.AzureAssignedIdentity{
			ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: podName(i)},
			Spec:       v1.AzureAssignedIdentitySpec{AzureIdentityRef: id, Pod: podName(i), PodNamespace: namespace, NodeName: nodeName(0)},
		}
		if err := w.client.Create(ctx, a); err != nil {
			return err
		}
		return w.client.Patch(ctx, a, client.RawPatch(types.MergePatchType, []byte(`{"status":{"status":"Assigned","availableReplicas":1}}`)))
	})
	took := time.Since(started)
	if err != nil {
		return 0, fmt.Errorf("writing by itself: %w", err)
	}
	return took, w.client.DeleteAllOf(ctx, &v1.AzureAssignedIdentity{}, client.InNamespace(namespace))
}

// churn replaces pods at a rate and measures the newcomers.
func (w *micWorld) churn(ctx context.Context, t *tracker) ([]Result, error) {
	fmt.Printf("bench: %d pods a second go and come, for %s\n", churnRate, churnTime)
	if err := w.control.ClearCalls(ctx); err != nil {
		return nil, err
	}
	total := churnRate * int(churnTime/time.Second)
	scheduled := make([]time.Time, total)
	started := time.Now()
	err := inParallel(ctx, total, func(ctx context.Context, i int) error {
		due := time.NewTimer(time.Until(started.Add(time.Duration(i) * time.Second / churnRate)))
		defer due.Stop()
		select {
		case <-due.C:
		case <-ctx.Done():
			return ctx.Err()
		}
		if err := w.removePod(ctx, podName(i)); err != nil {
			return err
		}
		scheduled[i] = time.Now()
		return w.makePod(ctx, podName(scalePods+i), i%(scaleSets*nodesPerSet), i%micIdentities)
	})
	if err != nil {
		return nil, err
	}
	rate := float64(total) / time.Since(started).Seconds()
	if _, err := t.waitFor(ctx, scalePods+total, 10*time.Minute); err != nil {
		return nil, err
	}
	var took durations
	for i, at := range scheduled {
		assigned, _ := t.assigned(podName(scalePods + i))
		took = append(took, assigned.Sub(at))
	}
	writes, _, _, err := w.armCalls(ctx)
	if err != nil {
		return nil, err
	}
	rss, err := w.mic.memory("VmRSS")
	if err != nil {
		return nil, err
	}
	return []Result{
		figure("mic: churn: pods that went and came", rate, "/s").against(churnRate),
		figure("mic: churn: pod scheduled to Assigned, p50", took.percentile(50), "ms"),
		figure("mic: churn: pod scheduled to Assigned, p99", took.percentile(99), "ms"),
		figure("mic: churn: writes to ARM", writes, ""),
		figure("mic: churn: memory afterwards", rss, "MiB"),
	}, nil
}

// micGrowth shows what grows with the number of labelled pods, all of them with an
// assigned identity: memory, and the requests of a MIC that starts.
func micGrowth(ctx context.Context, w *micWorld) ([]Result, error) {
	if err := w.beginWith(ctx, micIdentities); err != nil {
		return nil, err
	}
	t, err := w.track(ctx)
	if err != nil {
		return nil, err
	}
	defer t.stop()
	var results []Result
	have := 0
	for _, pods := range []int{1_000, 10_000, 50_000} {
		fmt.Printf("bench: growing to %d pods\n", pods)
		before, err := w.requests(ctx)
		if err != nil {
			return nil, err
		}
		if err := w.makePods(ctx, have, pods, micIdentities); err != nil {
			return nil, err
		}
		if _, err := t.waitFor(ctx, pods, 20*time.Minute); err != nil {
			return nil, err
		}
		after, err := w.requests(ctx)
		if err != nil {
			return nil, err
		}
		peak, err := w.mic.memory("VmHWM")
		if err != nil {
			return nil, err
		}
		// A new MIC takes over what is there.
		if err := w.stopMIC(); err != nil {
			return nil, err
		}
		if err := w.startMIC(ctx); err != nil {
			return nil, err
		}
		taking, err := w.requests(ctx)
		if err != nil {
			return nil, err
		}
		if err := w.lookedAtAll(ctx, pods); err != nil {
			return nil, err
		}
		fresh, err := w.mic.memory("VmHWM")
		if err != nil {
			return nil, err
		}
		memory := figure(fmt.Sprintf("mic: memory at %d labelled pods", pods), peak, "MiB")
		if pods == 50_000 {
			memory = memory.atMost(400)
		}
		results = append(results, memory,
			figure(fmt.Sprintf("mic: memory at %d labelled pods, of a MIC that took over", pods), fresh, "MiB"),
			figure(fmt.Sprintf("mic: requests to the API server for each pod up to %d", pods), (after-before)/float64(pods-have), "").against(2),
			figure(fmt.Sprintf("mic: requests to the API server until a MIC works, %d pods", pods), taking, ""))
		have = pods
	}
	return results, nil
}
