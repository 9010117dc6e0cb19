package uninstall

import (
	"fmt"
	"sort"
	"strings"

	marker "github.com/aad-pod-identity/aad-pod-identity/internal/uninstall"
)

// facts are what one look at the cluster found.
type facts struct {
	// marker is the data of the uninstall marker; nil when there is none.
	marker map[string]string
	// mic is MIC's Deployment.
	mic micFacts
	// assigned and ledgers count AzureAssignedIdentities and ownership ledgers.
	assigned, ledgers int
	// nmis are the NMI pods that are not finished.
	nmis []nmiFacts
	// nmiMissing is on how many nodes the DaemonSet has yet to make one.
	nmiMissing int
	// nmiUnchanged is true when the DaemonSet never had another pod template, so
	// that a pod of it that never ran has hardly had a predecessor that did.
	nmiUnchanged bool
}

type micFacts struct {
	// expected is false in managed mode, which has no MIC.
	expected bool
	// replicas are wanted, ready are ready.
	replicas, ready int32
}

type nmiFacts struct {
	pod  string
	node string // "" for a pod that is not scheduled
	// started says that the container ran at least once.
	started bool
	// why the container does not run now, as the kubelet says; "" if it runs.
	why string
	// nodeReady is false for a node that is gone or does not answer.
	nodeReady bool
}

// decision is what follows from facts.
type decision struct {
	// phase is to be written to the marker, unless it is "".
	phase string
	// waiting lists what is not done yet; empty together with an empty phase means
	// that all is undone.
	waiting []string
	// notes say what cannot be undone and is not waited for.
	notes []string
}

// decide takes the uninstallation one step further: first MIC, then NMI, so that
// no pod reaches IMDS directly while its node has an identity that is not the
// pod's.
func decide(f facts) decision {
	switch f.marker[marker.PhaseKey] {
	case marker.PhaseUnassign:
		waiting, notes := micLeft(f)
		if len(waiting) > 0 {
			return decision{waiting: waiting}
		}
		return decision{phase: marker.PhaseRedirect, notes: notes}
	case marker.PhaseRedirect:
		waiting, notes := nmiLeft(f)
		return decision{waiting: waiting, notes: notes}
	default:
		return decision{phase: marker.PhaseUnassign}
	}
}

// micLeft says what MIC has not undone.
func micLeft(f facts) (waiting, notes []string) {
	left := fmt.Sprintf("%d AzureAssignedIdentities and %d ownership ledgers are left", f.assigned, f.ledgers)
	switch {
	case !f.mic.expected:
		if f.assigned+f.ledgers > 0 {
			notes = []string{left + " of a time in standard mode; without MIC they stay"}
		}
		return nil, notes
	case f.marker[marker.MICKey] == marker.Done:
		return nil, nil
	case f.mic.ready > 0:
		said := f.marker[marker.MICKey]
		if said == "" {
			said = "nothing yet"
		}
		return []string{fmt.Sprintf("MIC is taking identities off the VMs: %s; MIC says: %s", left, said)}, nil
	case f.assigned+f.ledgers == 0:
		return nil, []string{"MIC is not running and nothing of its work is left"}
	case f.mic.replicas == 0:
		return []string{"MIC is scaled to 0 or its Deployment is gone, but " + left}, nil
	default:
		return []string{fmt.Sprintf("none of MIC's %d replicas is ready, but %s", f.mic.replicas, left)}, nil
	}
}

// nmiLeft says which NMIs have not removed their redirect.
func nmiLeft(f facts) (waiting, notes []string) {
	nmis := append([]nmiFacts(nil), f.nmis...)
	sort.Slice(nmis, func(i, j int) bool {
		return nmis[i].node+"/"+nmis[i].pod < nmis[j].node+"/"+nmis[j].pod
	})
	for _, n := range nmis {
		said := f.marker[marker.NMIKey(n.node)]
		switch {
		case n.node == "":
			notes = append(notes, fmt.Sprintf("pod %s was never scheduled; if an earlier NMI ran on its node, run `nmi cleanup` there", n.pod))
		case said == marker.Removed:
		case !n.nodeReady:
			notes = append(notes, fmt.Sprintf("node %s does not answer: its redirect stays until it restarts or `nmi cleanup` is run there", n.node))
		case !n.started && f.nmiUnchanged:
			notes = append(notes, fmt.Sprintf("pod %s never ran (%s), so there is nothing to remove on node %s; if an earlier pod of NMI ran there, run `nmi cleanup`", n.pod, n.why, n.node))
		case said != "":
			waiting = append(waiting, fmt.Sprintf("NMI on node %s: %s", n.node, said))
		case n.why != "":
			waiting = append(waiting, fmt.Sprintf("NMI on node %s does not run (%s)", n.node, n.why))
		default:
			waiting = append(waiting, fmt.Sprintf("NMI on node %s has not removed its redirect yet", n.node))
		}
	}
	if f.nmiMissing > 0 {
		waiting = append(waiting, fmt.Sprintf("NMI's DaemonSet has no pod on %d of its nodes: it is replacing those that failed or were deleted, which may have left their redirect", f.nmiMissing))
	}
	return waiting, notes
}

// remedy is the advice that follows a list of what is left.
func remedy(namespace, release string, phase string) string {
	var b strings.Builder
	b.WriteString("The release is still installed, and gives out no more identities.\n")
	b.WriteString("- Put right what is said above, then run the same `helm uninstall` again: it goes on from here.\n")
	fmt.Fprintf(&b, "- To keep the release after all: kubectl -n %s delete configmap %s\n", namespace, marker.Name)
	fmt.Fprintf(&b, "- To remove it all the same: helm -n %s uninstall --no-hooks %s, and then by hand:\n", namespace, release)
	if phase != marker.PhaseRedirect {
		b.WriteString("  take the identities off the VMs and scale sets; clear the finalizers of the AzureAssignedIdentities:\n" +
			"  kubectl get azureassignedidentity -A -o=json | jq '.items[].metadata.finalizers=null' | kubectl apply -f -\n")
	}
	fmt.Fprintf(&b, "  on each node that has the chain aad-metadata: nmi cleanup; kubectl -n %s delete configmap %s", namespace, marker.Name)
	return b.String()
}
