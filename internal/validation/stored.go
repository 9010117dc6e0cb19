package validation

import (
	"fmt"

	v1 "github.com/aad-pod-identity/aad-pod-identity/api/v1"
	"github.com/aad-pod-identity/aad-pod-identity/internal/resourceid"
)

// StoredIdentity says why a stored AzureIdentity cannot be served, or nil. It
// asks less than admission, since objects stored by older releases must go on
// working: the fixed segments of a resource ID may have any capitalisation, and
// a type 0 without clientID is served by its resource ID. The text about a
// resource ID is the one that users of those releases know from MIC's log.
func StoredIdentity(id *v1.AzureIdentity) error {
	switch id.Spec.Type {
	case v1.UserAssignedMSI:
		_, err := resourceid.ParseAnyCase(id.Spec.ResourceID)
		return err
	case v1.ServicePrincipal, v1.ServicePrincipalCertificate:
		return nil
	}
	return fmt.Errorf("Invalid type: %d, must be 0, 1 or 2", id.Spec.Type) //nolint:staticcheck // stands beside the classic "Invalid resource id" in MIC's log
}
