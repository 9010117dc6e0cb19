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
		if b.admit("id", target, now) {
			t.Errorf("%s is admitted", target)
		}
		if f, open := b.look("id", target, now); !open || f.Code != "x" || f.Attempts != 1 || !f.RetryAt.Equal(now.Add(time.Minute)) {
			t.Errorf("%s: open %v, %+v", target, open, f)
		}
	}
	now = now.Add(time.Minute)
	if !b.admit("id", "two", now) {
		t.Error("nobody probes after the backoff")
	}
	if b.admit("id", "three", now) {
		t.Error("a second target probes")
	}
	if f, open := b.look("id", "three", now); !open || !f.RetryAt.Equal(now.Add(probeTime)) {
		t.Errorf("look says %+v", f)
	}
	// The prober learns nothing, such as when Azure throttles.
	b.giveUp("two")
	if !b.admit("id", "three", now) {
		t.Error("nobody probes after the first gave up")
	}
	// The prober never comes back.
	if !b.admit("id", "one", now.Add(probeTime)) {
		t.Error("a prober that went away is waited for")
	}
	b.refuse("id", "one", Failure{Code: "y"}, true, now)
	if b.admit("id", "three", now.Add(time.Minute)) {
		t.Error("admitted before the second refusal's time")
	}
	if f, open := b.look("id", "three", now.Add(time.Minute)); !open || f.Attempts != 2 || f.Code != "y" || !f.RetryAt.Equal(now.Add(2*time.Minute)) {
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
	if !b.admit("id", "three", now) || b.count() != 0 {
		t.Error("remembered although nobody needs it")
	}
}
