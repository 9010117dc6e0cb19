package server

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

func TestSelfTestOverdue(t *testing.T) {
	var s selfTest
	now := time.Unix(1000, 0)
	step := func(what string, d time.Duration, pod types.UID, want bool) {
		t.Helper()
		now = now.Add(d)
		if got := s.overdue(pod, now); got != want {
			t.Errorf("%s: overdue = %v", what, got)
		}
	}
	step("without a pod", time.Hour, "", false)
	step("a pod has just come", time.Hour, "a", false)
	step("it has not asked yet", selfTestPatience, "a", false)
	step("nor for too long", time.Second, "a", true)
	s.heard(now)
	step("it asks", time.Second, "a", false)
	step("it asks no more", selfTestPatience, "a", true)
	step("another one has come", time.Second, "b", false)
	step("that does not ask either", 2*selfTestPatience, "b", true)
	step("it is gone", time.Second, "", false)
}

func TestSelfTestRequest(t *testing.T) {
	w := newWorld(t, func(o *Options) {
		o.Node, o.SelfTest = "node-1", types.NamespacedName{Namespace: "default", Name: "selftest"}
	})
	if err := w.server.ProvenBySelfTest(t.Context()); err == nil {
		t.Error("proven before the pod has asked")
	}
	w.setPod("tester", strangerIP, func(p *corev1.Pod) { p.Spec.ServiceAccountName = "selftest" })
	if r := w.get(strangerIP, SelfTestPath, nil); r.status != 200 || r.body != `{"nmi":"node-1"}` {
		t.Errorf("status %d, %s", r.status, r.body)
	}
	if r := w.get(webIP, SelfTestPath, nil); r.status != 404 {
		t.Errorf("another pod: status %d, %s", r.status, r.body)
	}
	if err := w.server.SelfTested(t.Context()); err != nil || w.server.selfTest.pod != "uid-tester" || w.server.selfTest.last.IsZero() {
		t.Errorf("%v, %+v", err, &w.server.selfTest.last)
	}
	if err := w.server.ProvenBySelfTest(t.Context()); err != nil {
		t.Error(err)
	}
	off := newWorld(t, nil)
	if err := off.server.ProvenBySelfTest(t.Context()); err != nil {
		t.Errorf("without the self-test: %v", err)
	}
	if r := off.get(webIP, SelfTestPath, nil); r.status != 404 || r.oauth.Code == "not_found" {
		t.Errorf("without the self-test, the path is IMDS's: status %d, %s", r.status, r.body)
	}
}
