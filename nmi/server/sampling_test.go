package server

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	v1 "github.com/aad-pod-identity/aad-pod-identity/api/v1"
	"github.com/aad-pod-identity/aad-pod-identity/nmi/podindex"
)

func TestSampler(t *testing.T) {
	s := newSampler[string]()
	now := time.Unix(1000, 0)
	count := func(key string, lines int) (written, left int) {
		for range lines {
			w, l := s.take(key, now)
			if w {
				written++
			}
			left += l
		}
		return written, left
	}
	if w, l := count("a", fullRate); w != fullRate || l != 0 {
		t.Errorf("up to the rate %d were written, %d left out", w, l)
	}
	w, l := count("a", 10*sampleOf-fullRate)
	if w != 10 {
		t.Errorf("beyond it %d were written", w)
	}
	if w, l := count("b", 1); w != 1 || l != 0 {
		t.Errorf("another pod: %d written, %d left out", w, l)
	}
	count("a", 5)
	now = now.Add(time.Second)
	w2, l2 := count("a", fullRate)
	if w2 != fullRate {
		t.Errorf("a second later %d were written", w2)
	}
	if all := fullRate + w + l + l2 + w2; all != 10*sampleOf+5+fullRate {
		t.Errorf("%d lines are accounted for", all)
	}
	for n := range 3 * maxSampled {
		now = now.Add(time.Millisecond)
		s.take(fmt.Sprint(n), now)
		if len(s.counts) > maxSampled {
			t.Fatalf("%d are counted", len(s.counts))
		}
	}
}

func TestGuideLinesAreSampled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var lines []string
		g := newGuideLog()
		g.printf = func(_ int, format string, args ...any) { lines = append(lines, fmt.Sprintf(format, args...)) }
		pod, id := &podindex.Pod{Namespace: "ns", Name: "web", UID: "1"}, &v1.AzureIdentity{}
		for range 99 {
			g.defaulted(pod, id)
		}
		g.matched(pod, id, "r")
		if len(lines) != fullRate+1 {
			t.Errorf("%d lines", len(lines))
		}
		<-time.After(time.Second)
		g.defaulted(pod, id)
		if got := lines[len(lines)-2]; got != "79 lines like the next one were left out: more than 20 a second" {
			t.Errorf("line %q", got)
		}
	})
}
