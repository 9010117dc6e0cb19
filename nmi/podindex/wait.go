package podindex

import (
	"context"

	"k8s.io/apimachinery/pkg/types"
)

// signal wakes all who wait for the next event. The zero value is ready; it is
// guarded by the index's lock.
type signal struct{ c chan struct{} }

func (s *signal) wait() <-chan struct{} {
	if s.c == nil {
		s.c = make(chan struct{})
	}
	return s.c
}

func (s *signal) fire() {
	if s.c != nil {
		close(s.c)
		s.c = nil
	}
}

// Wait looks for a pod, by ByIP or ByName, again at each change of any until there is
// one or ctx ends: a container can ask before its pod's address has reached us. The
// error is the reason why there was none last.
func (x *Index) Wait(ctx context.Context, find func() (View, error)) (View, error) {
	for {
		// Taken before the look-up, so that no change between the two is missed.
		changed := x.PodsChanged()
		v, err := find()
		if err == nil {
			return v, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return View{}, err
		}
	}
}

// WaitSynced waits until the index is complete, or ctx ends.
func (x *Index) WaitSynced(ctx context.Context) error {
	for {
		changed := x.PodsChanged()
		x.mu.RLock()
		synced := x.synced
		x.mu.RUnlock()
		if synced {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// PodsChanged returns a channel that is closed at the next change of any pod.
func (x *Index) PodsChanged() <-chan struct{} {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.podsChanged.wait()
}

// Changed returns a channel that is closed at the next change of the pod or of
// what is assigned to it. For a pod that does not exist it is closed already.
func (x *Index) Changed(pod types.NamespacedName) <-chan struct{} {
	x.mu.Lock()
	defer x.mu.Unlock()
	if _, ok := x.pods[pod]; !ok {
		// Nothing would ever remove the entry.
		gone := make(chan struct{})
		close(gone)
		return gone
	}
	s, ok := x.changed[pod]
	if !ok {
		s = &signal{}
		x.changed[pod] = s
	}
	return s.wait()
}

// Waiters is the number of pods whose change someone waits for.
func (x *Index) Waiters() int {
	x.mu.RLock()
	defer x.mu.RUnlock()
	return len(x.changed)
}

func (x *Index) podChanged(pod types.NamespacedName) {
	x.podsChanged.fire()
	x.assignedChanged(pod)
}

func (x *Index) assignedChanged(pod types.NamespacedName) {
	if s, ok := x.changed[pod]; ok {
		s.fire()
		delete(x.changed, pod)
	}
}
