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
// +kubebuilder:object:generate=true
// +groupName=aadpodidentity.k8s.io
package v1
