package server

import (
	"context"
	"errors"
	"net/http"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/aad-pod-identity/aad-pod-identity/nmi/podindex"
)

// SelfTestPath is what the self-test pod of the node asks at the address of the
// instance metadata service, which itself has no such path: the answer proves that
// requests from a pod's network namespace come to NMI, whatever the node's network
// does with iptables.
const SelfTestPath = "/nmi/selftest"

// selfTestPatience is how long there may be a self-test pod and no request of it;
// it asks every ten seconds.
const selfTestPatience = 35 * time.Second

// SelfTestAnswer is the body of the answer.
type SelfTestAnswer struct {
	// NMI is the node of the NMI that answers.
	NMI string `json:"nmi"`
}

// selfTest knows when the self-test pod was last heard.
type selfTest struct {
	mu    sync.Mutex
	last  time.Time
	pod   types.UID // the one that is expected to ask
	since time.Time
}

func (s *selfTest) heard(now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.last = now
}

func (s *selfTest) ever() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return !s.last.IsZero()
}

// overdue says whether the pod has not been heard for too long; none is never
// overdue.
func (s *selfTest) overdue(pod types.UID, now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if pod != s.pod {
		s.pod, s.since = pod, now
	}
	from := s.since
	if s.last.After(from) {
		from = s.last
	}
	return pod != "" && now.Sub(from) > selfTestPatience
}

// tester says whether a pod is the self-test's: it runs as the chart's service
// account for it, as nobody's own pods do.
func (s *Server) tester(p *podindex.Pod) bool {
	return s.o.SelfTest.Name != "" && p.Namespace == s.o.SelfTest.Namespace && p.ServiceAccount == s.o.SelfTest.Name
}

func (s *Server) serveSelfTest(w http.ResponseWriter, r *http.Request, note *note) error {
	v, err := s.caller(r)
	if err != nil {
		return err
	}
	note.pod = v.Pod
	if !s.tester(v.Pod) {
		return &apiError{status: http.StatusNotFound, code: "not_found", description: "Not found"}
	}
	s.selfTest.heard(time.Now())
	respondJSON(w, http.StatusOK, tokenContentType, SelfTestAnswer{s.o.Node})
	return nil
}

// ProvenBySelfTest fails until a request of a self-test pod has arrived, if there are such
// pods at all: the first that is told of the node's network.
func (s *Server) ProvenBySelfTest(context.Context) error {
	if s.o.SelfTest.Name != "" && !s.selfTest.ever() {
		return errors.New("no self-test pod of this node was heard yet")
	}
	return nil
}

// SelfTested fails when the requests of the node's self-test pod do not arrive.
// Without such a pod nothing is known, which is no failure.
func (s *Server) SelfTested(context.Context) error {
	var pod types.UID
	if p := s.pods.Find(func(p *podindex.Pod) bool { return len(p.IPs) > 0 && p.Deadline.IsZero() && s.tester(p) }); p != nil {
		pod = p.UID
	}
	if s.selfTest.overdue(pod, time.Now()) {
		return errors.New("the self-test pod of this node is not heard: pods' requests for the instance metadata service do not come to NMI; the pod's log says what answers")
	}
	return nil
}
