package server

import (
	"context"
	"fmt"
	"slices"
	"sync"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/klog/v2"
	"k8s.io/utils/lru"

	v1 "github.com/aad-pod-identity/aad-pod-identity/api/v1"
	"github.com/aad-pod-identity/aad-pod-identity/internal/logkey"
	"github.com/aad-pod-identity/aad-pod-identity/nmi/podindex"
)

const (
	// prefetchWorkers is how many tokens are prefetched at a time. Pods that ask
	// share the budget toward IMDS with them.
	prefetchWorkers = 2
	// prefetchedIdentities bounds the identities of one pod that tokens are
	// prefetched of.
	prefetchedIdentities = 8
	// rememberedWorkloads and rememberedResources bound what is remembered.
	rememberedWorkloads = 1024
	rememberedResources = 8
)

// workload is what the pods of one Deployment, say, have in common, together with
// an identity that they use.
type workload struct {
	namespace, serviceAccount, label string
	identity                         types.NamespacedName
}

func workloadOf(p *podindex.Pod, id *v1.AzureIdentity) workload {
	return workload{
		namespace: p.Namespace, serviceAccount: p.ServiceAccount, label: p.Labels[v1.BindingLabelKey],
		identity: types.NamespacedName{Namespace: id.Namespace, Name: id.Name},
	}
}

// habits are the resources that workloads got tokens for.
type habits struct {
	mu        sync.Mutex // of read and write of one entry
	workloads *lru.Cache // of []string by workload; slices are replaced, never changed
}

func newHabits() *habits { return &habits{workloads: lru.New(rememberedWorkloads)} }

func (h *habits) of(w workload) []string {
	known, ok := h.workloads.Get(w)
	if !ok {
		return nil
	}
	resources, _ := known.([]string)
	return resources
}

// learn remembers a resource; the one learnt first makes room.
func (h *habits) learn(w workload, resource string) {
	if slices.Contains(h.of(w), resource) {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	known := append(slices.Clone(h.of(w)), resource)
	if len(known) > rememberedResources {
		known = known[len(known)-rememberedResources:]
	}
	h.workloads.Add(w, known)
}

// wanted is a token that a pod is likely to ask for.
type wanted struct {
	identity *v1.AzureIdentity
	resource string
}

// prefetchable lists the tokens that are worth having when a pod's identities are
// there: those for the resources that the pod's annotation lists, and those that
// its like asked for before. It is pure.
func prefetchable(v podindex.View, forceNamespaced bool, before func(workload) []string) []wanted {
	var list []wanted
	var sel selector
	for range prefetchedIdentities {
		c := choose(v, sel, forceNamespaced)
		if c.progress != progressAssigned {
			break
		}
		sel.tried = append(sel.tried, c.identity)
		resources := slices.Clone(v.Pod.Resources)
		for _, r := range before(workloadOf(v.Pod, c.identity)) {
			if !slices.Contains(resources, r) {
				resources = append(resources, r)
			}
		}
		for _, r := range resources {
			list = append(list, wanted{c.identity, r})
		}
	}
	return list
}

// Prefetch gets tokens ahead for pods whose identities have become assigned, until
// ctx ends, so that they need not wait for IMDS. It puts them into the cache and
// gives them to nobody: whoever asks has to have the right to them then.
func (s *Server) Prefetch(ctx context.Context) error {
	if err := s.pods.WaitSynced(ctx); err != nil {
		return err
	}
	var workers sync.WaitGroup
	defer workers.Wait()
	for range prefetchWorkers {
		workers.Go(func() {
			for {
				pod, err := s.pods.NextAssigned(ctx)
				if err != nil {
					return
				}
				s.prefetch(ctx, pod)
			}
		})
	}
	<-ctx.Done()
	return ctx.Err()
}

func (s *Server) prefetch(ctx context.Context, pod types.NamespacedName) {
	v, err := s.pods.ByName(pod)
	if err != nil || s.bypassed(v) {
		return // gone, or served by the node's own identity
	}
	for _, w := range prefetchable(v, s.o.ForceNamespaced, s.habits.of) {
		requests, err := tokenRequests(w.identity, w.resource)
		if err != nil {
			continue // of a type that NMI does not know
		}
		for i := range requests {
			requests[i].Ahead = true
		}
		if _, err := s.acquire(ctx, w.identity, requests); err != nil && ctx.Err() == nil {
			klog.FromContext(ctx).V(2).Info("Cannot get a token ahead of the pod's request", logkey.Pod, pod.String(),
				logkey.Identity, fmt.Sprintf("%s/%s", w.identity.Namespace, w.identity.Name), logkey.Reason, err.Error())
		}
	}
}
