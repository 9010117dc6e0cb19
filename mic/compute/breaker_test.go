package compute

import (
	"testing"
	"time"
)

func TestOneTargetProbes(t *testing.T) {
	now := time.Now()
	same := func(d time.Duration) time.Duration { return d }
	b := newBreaker(Backoff{First: time.Minute, Max: time.Hour}, same)
	b.refuse("id", "one", Failure{Code: "x"}, true, now)
	for _, target := range []string{"one", "two", "three"} {
		if f, ok := b.admit("id", target, now); ok || f.Code != "x" || f.Attempts != 1 || !f.RetryAt.Equal(now.Add(time.Minute)) {
			t.Errorf("%s: admitted %v, %+v", target, ok, f)
		}
	}
	now = now.Add(time.Minute)
	if _, ok := b.admit("id", "two", now); !ok {
		t.Error("nobody probes after the backoff")
	}
	if f, ok := b.admit("id", "three", now); ok || !f.RetryAt.Equal(now.Add(probeTime)) {
		t.Errorf("a second target probes, or does not know when to ask again: %+v", f)
	}
	if f, open := b.look("id", "three", now); !open || !f.RetryAt.Equal(now.Add(probeTime)) {
		t.Errorf("look says %+v", f)
	}
	// The prober learns nothing, such as when Azure throttles.
	b.giveUp("two")
	if _, ok := b.admit("id", "three", now); !ok {
		t.Error("nobody probes after the first gave up")
	}
	// The prober never comes back.
	if _, ok := b.admit("id", "one", now.Add(probeTime)); !ok {
		t.Error("a prober that went away is waited for")
	}
	b.refuse("id", "one", Failure{Code: "y"}, true, now)
	if f, ok := b.admit("id", "three", now.Add(time.Minute)); ok || f.Attempts != 2 || f.Code != "y" || !f.RetryAt.Equal(now.Add(2*time.Minute)) {
		t.Errorf("after the second refusal: %+v", f)
	}
	if woken := b.succeed("id", "three"); len(woken) != 2 || b.count() != 0 {
		t.Errorf("woken %q, %d refused", woken, b.count())
	}
	if woken := b.succeed("id", "three"); woken != nil {
		t.Errorf("woken twice: %q", woken)
	}
}

func TestAnIdentityThatNobodyNeedsIsForgotten(t *testing.T) {
	now := time.Now()
	b := newBreaker(Backoff{First: time.Minute, Max: time.Hour}, func(d time.Duration) time.Duration { return d })
	b.refuse("id", "one", Failure{}, true, now)
	b.admit("id", "two", now)
	b.forget("one", map[string]bool{"id": true})
	b.forget("one", nil)
	if b.count() != 1 {
		t.Error("forgotten although another target waits for it")
	}
	b.forget("two", nil)
	if _, ok := b.admit("id", "three", now); !ok || b.count() != 0 {
		t.Error("remembered although nobody needs it")
	}
}
