// Package uninstall is the handshake by which a release is taken down.
//
// Neither MIC nor NMI can tell from SIGTERM whether it is being restarted or
// removed, and after a mere restart the redirect and the assignments must stay.
// So the chart's delete hooks say it in a ConfigMap of the release
// namespace, which all three read and write:
//
//	hook ── phase=unassign ──▶ MIC   unassigns all it owns, clears finalizers, writes mic=done
//	hook ── phase=redirect ──▶ NMIs  remove their chain, write nmi.<node>=removed
//	hook   deletes webhook configurations and policies; Helm deletes the release
//	hook (post-delete) waits until its pods are gone, then deletes the ConfigMap
//
// The ConfigMap outlives the pods, since without it they would go on as before:
// MIC would assign again, and each NMI would put its redirect back.
//
// Identities go before the redirect, so that at no time a pod reaches IMDS
// directly while the node still has an identity that the pod may not use.
package uninstall

import (
	"sort"
	"strings"
)

// Name of the ConfigMap, in the release namespace.
const Name = "aad-pod-identity-uninstall"

// Keys and values of the ConfigMap's data.
const (
	// PhaseKey holds PhaseUnassign or PhaseRedirect.
	PhaseKey = "phase"
	// PhaseUnassign tells MIC to unassign everything it owns.
	PhaseUnassign = "unassign"
	// PhaseRedirect tells each NMI to remove its redirect.
	PhaseRedirect = "redirect"

	// MICKey holds Done once MIC has nothing left, or what is left.
	MICKey = "mic"
	// Done is MIC's value of MICKey when nothing is left.
	Done = "done"

	// Removed is an NMI's value of NMIKey once its redirect is gone.
	Removed = "removed"

	nmiPrefix = "nmi."
)

// NMIKey is the key under which the NMI of a node acknowledges. Node names are
// DNS subdomains, so they are valid in ConfigMap keys.
func NMIKey(node string) string { return nmiPrefix + node }

// Active says whether the release is being taken down: the marker exists and
// names a phase. Data is nil when there is no ConfigMap.
func Active(data map[string]string) bool {
	return data[PhaseKey] != ""
}

// RedirectRemoval says whether NMIs are to remove their redirect.
func RedirectRemoval(data map[string]string) bool {
	return data[PhaseKey] == PhaseRedirect
}

// MissingNMIs returns, sorted, those of the given nodes whose NMI has not yet
// acknowledged that its redirect is gone.
func MissingNMIs(data map[string]string, nodes []string) []string {
	var missing []string
	for _, n := range nodes {
		if data[NMIKey(n)] != Removed {
			missing = append(missing, n)
		}
	}
	sort.Strings(missing)
	return missing
}

// FailedNMIs returns what nodes wrote instead of Removed, as node: text, sorted.
func FailedNMIs(data map[string]string) []string {
	var failed []string
	for k, v := range data {
		if node, ok := strings.CutPrefix(k, nmiPrefix); ok && v != Removed {
			failed = append(failed, node+": "+v)
		}
	}
	sort.Strings(failed)
	return failed
}
