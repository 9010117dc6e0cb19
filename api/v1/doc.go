// Package v1 holds the custom resources of the API group
// aadpodidentity.k8s.io, version v1, and the names (labels, annotations,
// finalizer, condition types, reasons) that users and the components share.
//
// The wire format is that of Azure/aad-pod-identity 1.8: every field keeps its
// JSON name, so stored objects and manifests go on working. Additions are
// confined to status.conditions. Every level below the top one keeps unknown
// fields, because a pruned, miscapitalised field could no longer be reported to
// whoever wrote it.
//
// The rules of admission are, as far as CEL can state them, markers of the spec
// types, so that an API server without the webhook refuses bad objects, too. They
// stand at the spec and not at its fields: an update of any field is judged by all
// of them. An update that leaves the spec as it is passes, for the stored object
// may be older than the rules, and must still get labels and finalizers. Each rule
// says so itself, by comparing oldSelf and self: the ratcheting of the API server
// takes a spec for changed that has a field without schema, such as those of
// spec.metadata. It compares both ways, since CEL looks only at the left side's fields
// that have a schema: {ResourceID: x} == {resourceID: x} is true. The copies in an AzureAssignedIdentity may be of an old object,
// so "make generate" takes the rules out there. Limits of length are there for the
// cost of the rules, which say themselves what is too long; they are larger than
// what Azure allows.
//
// +kubebuilder:object:generate=true
// +groupName=aadpodidentity.k8s.io
package v1
