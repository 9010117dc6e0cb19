package server

import (
	"context"
	"time"

	"github.com/aad-pod-identity/aad-pod-identity/nmi/podindex"
)

// forgetEvery is how often the metrics are rid of namespaces that are gone. It is
// longer than anybody takes between two scrapes.
const forgetEvery = 10 * time.Minute

// forgetNamespaces keeps the metrics within bounds until ctx ends: on a node that lives
// long, namespaces come and go, as those of a pipeline's runs.
func (s *Server) forgetNamespaces(ctx context.Context) {
	tick := time.NewTicker(forgetEvery)
	defer tick.Stop()
	var without map[string]bool
	for {
		select {
		case <-tick.C:
			without = s.forget(without)
		case <-ctx.Done():
			return
		}
	}
}

// forget drops the series of the namespaces that have no pod on the node, and had none
// at the look before. It returns the others without one.
func (s *Server) forget(before map[string]bool) (without map[string]bool) {
	without = s.metrics.Namespaces()
	s.pods.Find(func(p *podindex.Pod) bool {
		delete(without, p.Namespace)
		return false
	})
	for namespace := range without {
		if before[namespace] {
			s.metrics.ForgetNamespace(namespace)
			delete(without, namespace)
		}
	}
	return without
}
