// Package compute keeps the user-assigned identities of virtual machines and
// scale sets as MIC wants them. It is the only importer of armcompute.
//
// The unit of work is a compute target: one VM or one scale set.
// [Engine.Reconcile] is level-triggered: it is told everything that shall be on
// a target and finds out what to do. At most one request is in flight for a
// target; callers that arrive meanwhile bring the newer wish, so wishes coalesce
// into the next PATCH by themselves.
//
//	wanted ─┐
//	ledger ─┼─▶ plan ─▶ ledger written ahead ─▶ PATCH, polled ─▶ ledger cleaned
//	ARM ────┘                                     └─ a bad identity is taken out, the others go on
//
// Ownership is durable. The [Ledger] of a target lists the identities that MIC
// added and those that it found there first. An identity is removed only if the
// ledger says that MIC added it; it is in the ledger before the PATCH that adds
// it, so a crash between any two calls neither leaks an identity nor removes a
// foreign one.
package compute
