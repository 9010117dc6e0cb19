package uninstall

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	marker "github.com/aad-pod-identity/aad-pod-identity/internal/uninstall"
)

func TestDecide(t *testing.T) {
	running := micFacts{expected: true, replicas: 2, ready: 1}
	down := micFacts{expected: true, replicas: 2}
	unassign := func(mic string) map[string]string {
		return map[string]string{marker.PhaseKey: marker.PhaseUnassign, marker.MICKey: mic}
	}
	redirect := func(pairs ...string) map[string]string {
		m := map[string]string{marker.PhaseKey: marker.PhaseRedirect, marker.MICKey: marker.Done}
		for i := 0; i < len(pairs); i += 2 {
			m[marker.NMIKey(pairs[i])] = pairs[i+1]
		}
		return m
	}
	nmi := func(node string) nmiFacts {
		return nmiFacts{pod: "nmi-" + node, node: node, started: true, nodeReady: true}
	}
	tests := map[string]struct {
		facts facts
		want  decision
	}{
		"without a marker MIC is told first": {
			facts: facts{mic: running, assigned: 3, nmis: []nmiFacts{nmi("a")}},
			want:  decision{phase: marker.PhaseUnassign},
		},
		"a marker without a phase is one that was not written yet": {
			facts: facts{marker: map[string]string{}, mic: running},
			want:  decision{phase: marker.PhaseUnassign},
		},
		"MIC at work is waited for, with its own words": {
			facts: facts{marker: unassign("2 left: vmss pool1"), mic: running, assigned: 2, ledgers: 1},
			want: decision{waiting: []string{
				"MIC is taking identities off the VMs: 2 AzureAssignedIdentities and 1 ownership ledgers are left; MIC says: 2 left: vmss pool1"}},
		},
		"MIC that runs is waited for even if nothing seems to be left, since it may be writing": {
			facts: facts{marker: unassign(""), mic: running},
			want: decision{waiting: []string{
				"MIC is taking identities off the VMs: 0 AzureAssignedIdentities and 0 ownership ledgers are left; MIC says: nothing yet"}},
		},
		"MIC is done": {
			facts: facts{marker: unassign(marker.Done), mic: running},
			want:  decision{phase: marker.PhaseRedirect},
		},
		"MIC was done before it went down": {
			facts: facts{marker: unassign(marker.Done), mic: down},
			want:  decision{phase: marker.PhaseRedirect},
		},
		"MIC that never became ready and assigned nothing is not waited for": {
			facts: facts{marker: unassign(""), mic: down},
			want:  decision{phase: marker.PhaseRedirect, notes: []string{"MIC is not running and nothing of its work is left"}},
		},
		"MIC that is down but has assigned identities is waited for": {
			facts: facts{marker: unassign(""), mic: down, assigned: 1},
			want: decision{waiting: []string{
				"none of MIC's 2 replicas is ready, but 1 AzureAssignedIdentities and 0 ownership ledgers are left"}},
		},
		"finalizers cleared by hand do not hide what the ledger says": {
			facts: facts{marker: unassign(""), mic: micFacts{expected: true}, ledgers: 1},
			want: decision{waiting: []string{
				"MIC is scaled to 0 or its Deployment is gone, but 0 AzureAssignedIdentities and 1 ownership ledgers are left"}},
		},
		"managed mode has no MIC": {
			facts: facts{marker: unassign("")},
			want:  decision{phase: marker.PhaseRedirect},
		},
		"managed mode after standard mode says what stays": {
			facts: facts{marker: unassign(""), assigned: 1},
			want: decision{phase: marker.PhaseRedirect, notes: []string{
				"1 AzureAssignedIdentities and 0 ownership ledgers are left of a time in standard mode; without MIC they stay"}},
		},
		"no NMI, nothing to wait for": {
			facts: facts{marker: redirect(), mic: running},
			want:  decision{},
		},
		"every NMI has removed its redirect": {
			facts: facts{marker: redirect("a", marker.Removed, "b", marker.Removed), nmis: []nmiFacts{nmi("a"), nmi("b")}},
			want:  decision{},
		},
		"NMIs that are at it, failed or do not run are named in order": {
			facts: facts{
				marker: redirect("a", "iptables: xtables lock is held"),
				nmis: []nmiFacts{
					{pod: "nmi-c", node: "c", started: true, nodeReady: true, why: "CrashLoopBackOff"}, nmi("b"), nmi("a")},
			},
			want: decision{waiting: []string{
				"NMI on node a: iptables: xtables lock is held",
				"NMI on node b has not removed its redirect yet",
				"NMI on node c does not run (CrashLoopBackOff)",
			}},
		},
		"a node that does not answer is not waited for": {
			facts: facts{marker: redirect(), nmis: []nmiFacts{{pod: "nmi-a", node: "a", started: true}}},
			want: decision{notes: []string{
				"node a does not answer: its redirect stays until it restarts or `nmi cleanup` is run there"}},
		},
		"a node that stopped answering after its NMI was done is no loss": {
			facts: facts{marker: redirect("a", marker.Removed), nmis: []nmiFacts{{pod: "nmi-a", node: "a", started: true}}},
			want:  decision{},
		},
		"an NMI that never ran since the first install made no redirect": {
			facts: facts{marker: redirect(), nmiUnchanged: true,
				nmis: []nmiFacts{{pod: "nmi-a", node: "a", nodeReady: true, why: "ImagePullBackOff"}}},
			want: decision{notes: []string{"pod nmi-a never ran (ImagePullBackOff), so there is nothing to remove on node a; if an earlier pod of NMI ran there, run `nmi cleanup`"}},
		},
		"a node whose NMI is being replaced is waited for": {
			facts: facts{marker: redirect("a", marker.Removed), nmis: []nmiFacts{nmi("a")}, nmiMissing: 1},
			want: decision{waiting: []string{
				"NMI's DaemonSet has no pod on 1 of its nodes: it is replacing those that failed or were deleted, which may have left their redirect"}},
		},
		"an NMI that never ran after an upgrade may have had a predecessor that did": {
			facts: facts{marker: redirect(),
				nmis: []nmiFacts{{pod: "nmi-a", node: "a", nodeReady: true, why: "ImagePullBackOff"}}},
			want: decision{waiting: []string{"NMI on node a does not run (ImagePullBackOff)"}},
		},
		"a pod without a node": {
			facts: facts{marker: redirect(), nmis: []nmiFacts{{pod: "nmi-x"}}},
			want: decision{notes: []string{
				"pod nmi-x was never scheduled; if an earlier NMI ran on its node, run `nmi cleanup` there"}},
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(tc.want, decide(tc.facts), cmp.AllowUnexported(decision{})); diff != "" {
				t.Errorf("decide (-want +got):\n%s", diff)
			}
		})
	}
}

// Whatever the state, telling MIC comes before telling NMI.
func TestDecideNeverSkipsMIC(t *testing.T) {
	for _, mic := range []micFacts{{}, {expected: true}, {expected: true, replicas: 2}, {expected: true, replicas: 2, ready: 2}} {
		for _, data := range []map[string]string{nil, {}, {marker.MICKey: marker.Done}, {marker.NMIKey("a"): marker.Removed}} {
			if got := decide(facts{marker: data, mic: mic}); got.phase != marker.PhaseUnassign {
				t.Errorf("decide(marker %v, MIC %+v) writes phase %q, want %q", data, mic, got.phase, marker.PhaseUnassign)
			}
		}
	}
}

func TestRemedy(t *testing.T) {
	before, after := remedy("ns", "rel", marker.PhaseUnassign), remedy("ns", "rel", marker.PhaseRedirect)
	for _, want := range []string{
		"helm -n ns uninstall --no-hooks rel", "kubectl -n ns delete configmap " + marker.Name, "nmi cleanup",
	} {
		if !strings.Contains(before, want) || !strings.Contains(after, want) {
			t.Errorf("the remedy does not say %q", want)
		}
	}
	if !strings.Contains(before, "finalizers=null") {
		t.Error("the remedy does not say how to clear finalizers while MIC is not done")
	}
	if strings.Contains(after, "finalizers=null") {
		t.Error("the remedy talks of finalizers though MIC is done")
	}
}
