package server

// codeUnassigned says that a pod has no identity (yet).
const codeUnassigned = "identity_not_assigned"
