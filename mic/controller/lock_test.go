package controller

import (
	"context"
	"encoding/json"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
)

const lockName = "aad-pod-identity-mic"

// oldMIC holds the lock of the 1.8 releases as they did.
type oldMIC struct {
	t      *testing.T
	client *fake.Clientset
}

func (o oldMIC) write(holder string, seconds int) {
	o.t.Helper()
	now := metav1.Now()
	raw, err := json.Marshal(resourcelock.LeaderElectionRecord{HolderIdentity: holder, LeaseDurationSeconds: seconds, AcquireTime: now, RenewTime: now})
	check(o.t, err)
	e := &corev1.Endpoints{ObjectMeta: metav1.ObjectMeta{ //nolint:staticcheck // deprecated, and where the old lock is
		Namespace: "default", Name: lockName, Annotations: map[string]string{"control-plane.alpha.kubernetes.io/leader": string(raw)},
	}}
	_, err = o.client.CoreV1().Endpoints("default").Update(o.t.Context(), e, metav1.UpdateOptions{})
	if apierrors.IsNotFound(err) {
		_, err = o.client.CoreV1().Endpoints("default").Create(o.t.Context(), e, metav1.CreateOptions{})
	}
	check(o.t, err)
}

// record is what an old MIC sees.
func (o oldMIC) record() *resourcelock.LeaderElectionRecord {
	o.t.Helper()
	e, err := o.client.CoreV1().Endpoints("default").Get(o.t.Context(), lockName, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	check(o.t, err)
	r := &resourcelock.LeaderElectionRecord{}
	check(o.t, json.Unmarshal([]byte(e.Annotations["control-plane.alpha.kubernetes.io/leader"]), r))
	return r
}

// elect runs for the lead with the timing that MIC uses by default.
func elect(ctx context.Context, t *testing.T, client *fake.Clientset, instance string) *leaderelection.LeaderElector {
	t.Helper()
	e, err := leaderelection.NewLeaderElector(leaderelection.LeaderElectionConfig{
		Lock: NewLock(client, "default", lockName, instance), LeaseDuration: 15 * time.Second, RenewDeadline: 7500 * time.Millisecond, RetryPeriod: 3750 * time.Millisecond,
		ReleaseOnCancel: true,
		Callbacks:       leaderelection.LeaderCallbacks{OnStartedLeading: func(context.Context) {}, OnStoppedLeading: func() {}},
	})
	check(t, err)
	go e.Run(ctx)
	return e
}

func TestLockRespectsTheOldOne(t *testing.T) {
	for name, test := range map[string]struct {
		// end is what the old MIC does after a minute of leading.
		end func(oldMIC)
		// within is how long the new one may take then.
		within time.Duration
	}{
		// client-go looks every 3.75 s to 8.25 s, the retry period with its jitter: once to
		// see the last renewal, from which the 15 s of the lock count, and once after them.
		"the old leader dies":     {end: func(oldMIC) {}, within: 32 * time.Second},
		"the old leader releases": {end: func(o oldMIC) { o.write("", 1) }, within: 10 * time.Second},
		"the old lock is deleted": {end: func(o oldMIC) {
			check(o.t, o.client.CoreV1().Endpoints("default").Delete(o.t.Context(), lockName, metav1.DeleteOptions{}))
		}, within: 10 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				client := fake.NewClientset()
				old := oldMIC{t, client}
				old.write("old-mic", 15)
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				elector := elect(ctx, t, client, "new-mic")
				for range 12 {
					pass(5 * time.Second)
					old.write("old-mic", 15)
					synctest.Wait()
					if elector.IsLeader() {
						t.Fatal("two leaders")
					}
				}
				test.end(old)
				pass(test.within)
				synctest.Wait()
				if !elector.IsLeader() {
					t.Fatalf("does not lead %s later", test.within)
				}
				// An old MIC that comes back by a rollback has to wait.
				pass(time.Minute)
				synctest.Wait()
				if r := old.record(); r == nil || r.HolderIdentity != "new-mic" || time.Since(r.RenewTime.Time) > 15*time.Second {
					t.Errorf("an old MIC sees %+v", r)
				}
				cancel()
				synctest.Wait()
				if r := old.record(); r.HolderIdentity != "" {
					t.Errorf("after an orderly end the old lock is held by %q", r.HolderIdentity)
				}
			})
		})
	}
}

func TestOnlyOneNewMICLeads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client := fake.NewClientset()
		firstCtx, stopFirst := context.WithCancel(t.Context())
		secondCtx, stopSecond := context.WithCancel(t.Context())
		defer stopSecond()
		first := elect(firstCtx, t, client, "first")
		pass(10 * time.Second)
		second := elect(secondCtx, t, client, "second")
		pass(2 * time.Minute)
		synctest.Wait()
		if !first.IsLeader() || second.IsLeader() {
			t.Fatalf("first leads: %v, second leads: %v", first.IsLeader(), second.IsLeader())
		}
		stopFirst()
		pass(10 * time.Second)
		synctest.Wait()
		if first.IsLeader() || !second.IsLeader() {
			t.Errorf("after the first ended, first leads: %v, second leads: %v", first.IsLeader(), second.IsLeader())
		}
		stopSecond()
		synctest.Wait()
	})
}

func TestALostOldLockLosesTheLead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client := fake.NewClientset()
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		elector := elect(ctx, t, client, "new-mic")
		pass(10 * time.Second)
		synctest.Wait()
		if !elector.IsLeader() {
			t.Fatal("does not lead")
		}
		// An old MIC took it by force: our version of the object is stale.
		client.PrependReactor("update", "endpoints", func(a clienttesting.Action) (bool, runtime.Object, error) {
			return true, nil, apierrors.NewConflict(schema.GroupResource{Resource: "endpoints"}, lockName, errors.New("stale"))
		})
		check(t, client.Tracker().Update(corev1.SchemeGroupVersion.WithResource("endpoints"), &corev1.Endpoints{ //nolint:staticcheck // see above
			ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: lockName, Annotations: map[string]string{
				"control-plane.alpha.kubernetes.io/leader": `{"holderIdentity":"old-mic","leaseDurationSeconds":15,"acquireTime":null,"renewTime":null,"leaderTransitions":1}`,
			}},
		}, "default"))
		pass(15 * time.Second)
		synctest.Wait()
		if elector.IsLeader() {
			t.Error("leads although an old MIC holds the lock")
		}
		lease, err := client.CoordinationV1().Leases("default").Get(ctx, lockName, metav1.GetOptions{})
		check(t, err)
		if lease.Spec.RenewTime != nil && time.Since(lease.Spec.RenewTime.Time) < 10*time.Second {
			t.Errorf("the lease was renewed without the old lock: %+v", lease.Spec)
		}
	})
}

// pass lets the time of a synctest bubble pass.
func pass(d time.Duration) {
	<-time.After(d)
}
