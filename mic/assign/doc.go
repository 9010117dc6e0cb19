// Package assign decides which AzureAssignedIdentities a pod must have and how
// to get there from those it has. It is pure: it works on objects that its
// caller fetched, and calls nobody.
package assign
