// Package resourceid parses, compares and corrects Azure resource IDs: those of
// user-assigned managed identities, which users write, and those of virtual
// machines and scale sets, which Kubernetes nodes carry in spec.providerID.
//
// [Parse] is the strict rule of admission. Its error lists every defect of the
// ID and, when exactly one correction exists, the corrected ID.
// [ParseAnyCase] is the rule for what is already stored: releases before this
// one ignored the capitalisation of the fixed segments, and so does Azure.
//
// Azure compares resource IDs ignoring case and prints them in whatever
// capitalisation it likes, so IDs are compared with [Equal] or [Key], never
// with ==.
//
// The package is pure: no input makes it panic, and it calls nobody.
package resourceid
