// Package cloud answers which Azure the cluster runs in and how to sign in
// there: the cloud provider's configuration file azure.json (or environment
// variables), the endpoints of public, sovereign and custom clouds, the CAs to
// trust, and the credential.
//
// It knows azcore and azidentity only; clients of Azure Resource Manager are
// made elsewhere from the [Cloud] it opens.
package cloud
