package server

import (
	"sync"
	"time"
)

const (
	// fullRate is how many lines of one kind about one pod are written in a second;
	// of what is beyond, every sampleOf-th.
	fullRate = 20
	sampleOf = 100
	// maxSampled bounds the pods and kinds that are counted.
	maxSampled = 4096
)

// sampler decides which lines are written when there are many: a pod that asks in a
// loop must not cost NMI more than answers, nor push other lines out of the log.
type sampler[K comparable] struct {
	mu     sync.Mutex
	counts map[K]*sampled
}

// sampled are the lines of one kind about one pod.
type sampled struct {
	second int64 // of the Unix epoch
	lines  int   // in that second
	left   int   // out, since one was written
}

func newSampler[K comparable]() *sampler[K] { return &sampler[K]{counts: map[K]*sampled{}} }

// take says whether a line is to be written, and how many like it were left out
// since the last one.
func (s *sampler[K]) take(key K, now time.Time) (write bool, left int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c, ok := s.counts[key]
	if !ok {
		if len(s.counts) >= maxSampled {
			s.forget(now)
		}
		c = &sampled{}
		s.counts[key] = c
	}
	if second := now.Unix(); c.second != second {
		c.second, c.lines = second, 0
	}
	c.lines++
	if c.lines > fullRate && c.lines%sampleOf != 0 {
		c.left++
		return false, 0
	}
	left, c.left = c.left, 0
	return true, left
}

// forget drops what was not counted lately, or all if that is nothing.
func (s *sampler[K]) forget(now time.Time) {
	for key, c := range s.counts {
		if now.Unix()-c.second > 10 {
			delete(s.counts, key)
		}
	}
	if len(s.counts) >= maxSampled {
		clear(s.counts)
	}
}
