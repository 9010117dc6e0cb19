// Package controller is MIC at work in the cluster: it watches, gathers what a
// decision needs, lets packages assign and compute decide and act, and writes
// the outcome.
//
//	Pod, Binding, Identity, Node ─▶ pod controller ─▶ AzureAssignedIdentity (Created, finalizer first)
//	AzureAssignedIdentity, Node  ─▶ target controller ─▶ ARM ─▶ Assigned | Unassigned, finalizer removed
//
// The pod controller's unit is a pod, the target controller's a VM or scale set.
// Both are level-triggered: an event only says where to look. Their queues make
// sure that one unit is worked on once at a time, so what arrives while a scale
// set's PATCH runs is in the next one.
//
// Only the leader works; the others keep their caches warm.
package controller
