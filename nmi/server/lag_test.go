package server

import (
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	v1 "github.com/aad-pod-identity/aad-pod-identity/api/v1"
	"github.com/aad-pod-identity/aad-pod-identity/test/azure"
)

// assignedFor is an object that became Assigned that long ago.
func assignedFor(ago time.Duration) func(*v1.AzureAssignedIdentity) {
	return func(a *v1.AzureAssignedIdentity) {
		meta.SetStatusCondition(&a.Status.Conditions, metav1.Condition{
			Type: v1.ConditionAssigned, Status: metav1.ConditionTrue, Reason: v1.ReasonAssigned, LastTransitionTime: metav1.NewTime(time.Now().Add(-ago)),
		})
	}
}

// TestIMDSLearnsOfAnAssignmentLate: MIC has said Assigned, and IMDS does not know yet.
func TestIMDSLearnsOfAnAssignmentLate(t *testing.T) {
	w := newWorld(t, func(o *Options) { o.Waiting.Assigned = time.Minute })
	late := w.identity("late")
	w.assign("web", late, v1.AssignedIDAssigned, assignedFor(0))
	answers := make(chan reply, 1)
	go func() { answers <- w.get(webIP, tokenURL, nil) }()
	eventually(t, "IMDS refuses", func() bool { return w.tokenCalls() == 1 })
	if _, err := w.azure.PutCompute(azure.Compute{ID: vmID, SystemAssigned: true, UserAssigned: []azure.Assignment{{ID: late.ID}}}); err != nil {
		t.Fatal(err)
	}
	answer := <-answers
	if m := answer.tokenOf(t); m["client_id"] != late.ClientID {
		t.Errorf("token of %s", m["client_id"])
	}
	if n := w.tokenCalls(); n != 2 {
		t.Errorf("IMDS was asked %d times, want once and once more", n)
	}
}

// TestIMDSDoesNotKnowAnIdentityForGood: nobody waits for one that was assigned long ago,
// nor longer than for MIC.
func TestIMDSDoesNotKnowAnIdentityForGood(t *testing.T) {
	for name, test := range map[string]struct {
		assigned func(*v1.AzureAssignedIdentity)
		patience time.Duration
	}{
		"assigned long ago":                   {assignedFor(2 * imdsLag), 24 * time.Hour},
		"by the 1.8 releases, without a time": {func(*v1.AzureAssignedIdentity) {}, 24 * time.Hour},
		"assigned just now":                   {assignedFor(0), 2 * imdsLagPoll},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, func(o *Options) { o.Waiting.Assigned = test.patience })
			w.assign("web", w.identity("gone"), v1.AssignedIDAssigned, test.assigned)
			if r := w.get(webIP, tokenURL, nil); r.status != 403 || r.oauth.Description != "Identity not found" {
				t.Errorf("%d %+v", r.status, r.oauth)
			}
			if n := w.tokenCalls(); n != 1 { // the refusal is kept for longer than anybody waits here
				t.Errorf("IMDS was asked %d times", n)
			}
		})
	}
}
