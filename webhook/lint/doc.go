// Package lint is the command "webhook lint": it judges manifests in files as
// admission would judge them, without a cluster. The rules and their texts are
// those of internal/validation; this package finds the objects in YAML and JSON
// and the line of each field, which the rules know nothing of.
//
// A file goes through these steps: sources.go names and reads it, documents.go
// takes it apart into documents, objects.go finds our objects in them, also in
// lists, judge.go applies the rules, position.go finds the line that a finding is
// about, and report.go prints.
//
// What a value means in YAML is decided by the library that kubectl uses, which
// follows YAML 1.1 where on, off, yes and no are booleans. That library keeps no
// positions, so a second one parses the text for these alone.
package lint
