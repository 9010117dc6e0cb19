package controller

import (
	"context"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/klog/v2"

	v1 "github.com/aad-pod-identity/aad-pod-identity/api/v1"
	"github.com/aad-pod-identity/aad-pod-identity/internal/logkey"
	"github.com/aad-pod-identity/aad-pod-identity/internal/metric"
	"github.com/aad-pod-identity/aad-pod-identity/internal/resourceid"
	"github.com/aad-pod-identity/aad-pod-identity/mic/compute"
)

// start is what a replica does on becoming leader, before it works: it reads the
// ownership ledgers, adopts what the release before this one assigned, and upgrades
// what releases before 1.6.0 stored. While it leads it has an eye on the ledgers. It is
// a manager.Runnable.
type start struct {
	world   *world
	engine  *compute.Engine
	metrics *metric.MIC
	// upgrade of stored objects; nil for none.
	upgrade *typeUpgrade
	done    chan struct{}
}

// NeedLeaderElection implements manager.LeaderElectionRunnable.
func (s *start) NeedLeaderElection() bool { return true }

// Start implements manager.Runnable. Caches are synced when it is called.
func (s *start) Start(ctx context.Context) error {
	log := klog.FromContext(ctx)
	log.Info("This replica became leader")
	s.metrics.NewLeaderElections.Inc()
	prepared := retrying().DelayFunc().Until(ctx, true, true, func(ctx context.Context) (bool, error) {
		err := s.prepare(ctx)
		if err != nil && ctx.Err() == nil {
			log.Error(err, "Cannot start to work yet")
		}
		return err == nil, nil
	})
	if prepared != nil {
		return nil //nolint:nilerr // ctx has ended: an orderly stop
	}
	upgraded := s.upgrade == nil || s.upgrade.before(ctx)
	if ctx.Err() != nil {
		return nil //nolint:nilerr // ctx has ended: an orderly stop
	}
	close(s.done)
	var g sync.WaitGroup
	if !upgraded {
		g.Go(func() { s.upgrade.after(ctx) }) // which may never succeed
	}
	s.engine.WatchLedgers(ctx)
	g.Wait()
	<-ctx.Done()
	return nil
}

// retrying is how what a leader has to do once is tried until it works. Until has no last
// attempt: a leader that gave up would hold the lock and do nothing. A backoff by itself
// ends once it has reached its cap.
func retrying() *wait.Backoff {
	return &wait.Backoff{Duration: time.Second, Factor: 2, Jitter: 0.2, Steps: 1 << 20, Cap: 30 * time.Second}
}

func (s *start) prepare(ctx context.Context) error {
	damaged, err := s.engine.Load(ctx)
	if err != nil {
		return err
	}
	for _, err := range damaged {
		klog.FromContext(ctx).Error(err, "The VM or scale set of this ledger is left alone")
	}
	before, err := s.world.assigned(ctx, indexAssignedBefore, fromBefore)
	if err != nil {
		return err
	}
	targets := map[string]resourceid.Compute{}
	ids := map[string][]string{}
	for _, a := range before {
		node, err := s.world.node(ctx, a.Spec.NodeName)
		if err != nil {
			return err
		}
		if node == nil {
			continue
		}
		if target, err := targetOf(node); err == nil {
			targets[target.Key()] = target
			ids[target.Key()] = append(ids[target.Key()], a.Spec.AzureIdentityRef.Spec.ResourceID)
		}
	}
	for key, target := range targets {
		klog.FromContext(ctx).Info("Adopting identities that the previous release assigned", logkey.Target, target.String(), logkey.Count, len(ids[key]))
		err := s.engine.Adopt(ctx, target, ids[key])
		if len(damaged) > 0 && apierrors.IsAlreadyExists(err) {
			// Its ledger is a damaged one, which must not keep MIC from the others.
			klog.FromContext(ctx).Error(err, "Not adopted", logkey.Target, target.String())
			continue
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// fromOldRelease says whether an identity was put on its VM by the 1.8
// releases: they kept no ledger, and did not annotate objects with the pod's
// UID, which this release does before it touches an object otherwise.
func fromOldRelease(a *v1.AzureAssignedIdentity) bool {
	_, annotated := a.Annotations[v1.PodUIDAnnotationKey]
	assigned := a.Status.Status == v1.AssignedIDAssigned || a.Status.Status == ""
	return !annotated && assigned && onTarget(a)
}

// working says whether this replica is the leader and at work.
func (s *start) working() bool {
	select {
	case <-s.done:
		return true
	default:
		return false
	}
}

// wait blocks until the leader may work. It reports false if ctx ends first.
func (s *start) wait(ctx context.Context) bool {
	select {
	case <-s.done:
		return true
	case <-ctx.Done():
		return false
	}
}
