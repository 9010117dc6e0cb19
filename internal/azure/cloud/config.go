package cloud

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"

	"sigs.k8s.io/yaml"
)

// Environment variables that replace azure.json.
const (
	EnvCloud                  = "CLOUD"
	EnvTenantID               = "TENANT_ID"
	EnvClientID               = "CLIENT_ID"
	EnvClientSecret           = "CLIENT_SECRET"
	EnvSubscriptionID         = "SUBSCRIPTION_ID"
	EnvResourceGroup          = "RESOURCE_GROUP"
	EnvVMType                 = "VM_TYPE"
	EnvUseMSI                 = "USE_MSI"
	EnvUserAssignedIdentityID = "USER_ASSIGNED_MSI_CLIENT_ID"
)

// Config is the part of the cloud provider's azure.json that concerns
// identities.
type Config struct {
	// Cloud is the name of the cloud; empty is AzurePublicCloud.
	Cloud string `json:"cloud"`
	// TenantID is the tenant to sign in to.
	TenantID string `json:"tenantId"`
	// ClientID and ClientSecret are the cluster's service principal. They are
	// unused when UseManagedIdentity is set.
	ClientID     string `json:"aadClientId"`
	ClientSecret string `json:"aadClientSecret"`
	// SubscriptionID and ResourceGroup are the cluster's. Nodes say themselves in
	// which subscription and resource group they are, so nothing depends on these.
	SubscriptionID string `json:"subscriptionId"`
	ResourceGroup  string `json:"resourceGroup"`
	// VMType is accepted for compatibility and unused, for the same reason.
	VMType string `json:"vmType"`
	// UseManagedIdentity signs in with a managed identity of the node.
	UseManagedIdentity bool `json:"useManagedIdentityExtension"`
	// UserAssignedIdentityID is the client ID or resource ID of that managed
	// identity; empty is the system-assigned one. It is the cluster's own
	// identity and must never be removed from a node.
	UserAssignedIdentityID string `json:"userAssignedIdentityID"`

	// source names where the values came from, for errors.
	source string
}

// FromFile reads azure.json, in JSON or YAML. The error names the file and what
// is wrong with it.
func FromFile(path string) (*Config, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("reading the cloud configuration: %w", err)
	}
	return parse(path, raw)
}

func parse(path string, raw []byte) (*Config, error) {
	if strings.TrimSpace(string(raw)) == "" {
		return nil, fmt.Errorf("cloud configuration %s is empty", path)
	}
	asJSON, err := yaml.YAMLToJSON(raw)
	if err != nil {
		return nil, fmt.Errorf("cloud configuration %s is neither JSON nor YAML: %w", path, err)
	}
	c := &Config{source: path}
	if err := json.Unmarshal(asJSON, c); err != nil {
		var typeErr *json.UnmarshalTypeError
		if errors.As(err, &typeErr) {
			return nil, fmt.Errorf("cloud configuration %s: field %q must be a %s, not a %s", path, typeErr.Field, typeErr.Type, typeErr.Value)
		}
		return nil, fmt.Errorf("cloud configuration %s: %w", path, err)
	}
	return c, c.validate(fileFields)
}

// FromEnvironment reads the variables that replace azure.json.
func FromEnvironment(getenv func(string) string) (*Config, error) {
	c := &Config{
		Cloud:                  getenv(EnvCloud),
		TenantID:               getenv(EnvTenantID),
		ClientID:               getenv(EnvClientID),
		ClientSecret:           getenv(EnvClientSecret),
		SubscriptionID:         getenv(EnvSubscriptionID),
		ResourceGroup:          getenv(EnvResourceGroup),
		VMType:                 getenv(EnvVMType),
		UseManagedIdentity:     strings.EqualFold(getenv(EnvUseMSI), "true"),
		UserAssignedIdentityID: getenv(EnvUserAssignedIdentityID),
		source:                 "environment variables",
	}
	return c, c.validate(environmentFields)
}

// fields are the names under which a source has the required values.
type fields struct{ tenant, client, secret string }

var (
	fileFields        = fields{"tenantId", "aadClientId", "aadClientSecret"}
	environmentFields = fields{EnvTenantID, EnvClientID, EnvClientSecret}
)

// validate returns all that is missing in one error.
func (c *Config) validate(names fields) error {
	if c.UseManagedIdentity {
		return nil
	}
	var missing []string
	for _, f := range []struct{ name, value string }{{names.tenant, c.TenantID}, {names.client, c.ClientID}, {names.secret, c.ClientSecret}} {
		if f.value == "" {
			missing = append(missing, f.name)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	return fmt.Errorf("cloud configuration (%s) lacks %s: set them, or sign in with a managed identity (useManagedIdentityExtension in azure.json, %s=true in the environment)",
		c.source, strings.Join(missing, ", "), EnvUseMSI)
}
