package policy_test

import "testing"

func TestWithoutWebhook(t *testing.T) {
	s := startServer(t)
	// In the order of a cluster's life: objects are stored under the CRDs of the
	// 1.8 releases, then this version's CRDs and policies come.
	s.applyCRDs(t, openCRDs(t))
	stored := s.store(t)
	s.applyCRDs(t, ourCRDs(t))
	s.installPolicies(t)
	t.Run("what is stored and bad can still be worked with", func(t *testing.T) { s.testRatchet(t, stored) })
	t.Run("MIC upgrades names", s.testUpgrade)
	t.Run("MIC writes copies of bad objects", s.testCopies)
	t.Run("kubectl apply is refused with the right words", s.testKubectl)
	t.Run("the API server and the webhook agree", s.testDifferential)
}
