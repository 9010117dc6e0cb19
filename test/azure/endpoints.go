package azure

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"net/http"
)

// Endpoint is the base URL of the emulator, without a trailing slash. ARM and AAD share it.
func (e *Emulator) Endpoint() string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.base
}

// ARMEndpoint is the URL of Azure Resource Manager.
func (e *Emulator) ARMEndpoint() string { return e.Endpoint() + "/" }

// AADEndpoint is the URL of AAD, the authority host.
func (e *Emulator) AADEndpoint() string { return e.Endpoint() + "/" }

// TenantID is the ID of the emulator's own tenant.
func (e *Emulator) TenantID() string { return e.tenant }

// CAPEM is the certificate that clients of the HTTPS endpoints must trust.
func (e *Emulator) CAPEM() []byte { return e.keys.caPEM() }

// HTTPClient returns a client that trusts the emulator's CA and no other. It uses no proxy. It is what the SDK's ClientOptions.Transport takes.
func (e *Emulator) HTTPClient() *http.Client {
	pool := x509.NewCertPool()
	pool.AddCert(e.keys.caCert)
	return &http.Client{Transport: &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12},
	}}
}

// requestBase is the URL under which the client reached us, for the links of an answer.
func (e *Emulator) requestBase(r *http.Request) string {
	scheme := "https"
	if r.TLS == nil {
		scheme = "http"
	}
	return scheme + "://" + r.Host
}

// EnvironmentFile is the file that AZURE_ENVIRONMENT_FILEPATH names when azure.json says cloud AzureStackCloud.
func (e *Emulator) EnvironmentFile() []byte {
	base := e.Endpoint()
	return mustJSON(map[string]any{
		"name":                         "AzureStackCloud",
		"managementPortalURL":          base + "/portal/",
		"publishSettingsURL":           base + "/publishsettings/index",
		"serviceManagementEndpoint":    DefaultAudience,
		"resourceManagerEndpoint":      base + "/",
		"activeDirectoryEndpoint":      base + "/",
		"galleryEndpoint":              base + "/gallery/",
		"keyVaultEndpoint":             base + "/vault/",
		"graphEndpoint":                base + "/graph/",
		"storageEndpointSuffix":        "storage.emulator.invalid",
		"keyVaultDNSSuffix":            "vault.emulator.invalid",
		"resourceManagerVMDNSSuffix":   "cloudapp.emulator.invalid",
		"containerRegistryDNSSuffix":   "azurecr.emulator.invalid",
		"tokenAudience":                DefaultAudience,
		"resourceIdentifiers":          map[string]any{"keyVault": "https://vault.emulator.invalid", "graph": base + "/graph/"},
		"serviceBusEndpointSuffix":     "servicebus.emulator.invalid",
		"trafficManagerDNSSuffix":      "trafficmanager.emulator.invalid",
		"sqlDatabaseDNSSuffix":         "database.emulator.invalid",
		"batchManagementEndpoint":      base + "/batch/",
		"microsoftGraphEndpoint":       base + "/msgraph/",
		"managedHSMEndpoint":           "N/A",
		"cosmosDBDNSSuffix":            "documents.emulator.invalid",
		"mariaDBDNSSuffix":             "mariadb.emulator.invalid",
		"mySqlDatabaseDNSSuffix":       "mysql.emulator.invalid",
		"postgresqlDatabaseDNSSuffix":  "postgres.emulator.invalid",
		"mhsmDNSSuffix":                "N/A",
		"synapseEndpointSuffix":        "synapse.emulator.invalid",
		"datalakeSuffix":               "datalake.emulator.invalid",
		"serviceManagementVMDNSSuffix": "cloudapp.emulator.invalid",
	})
}

// AzureConfig says what azure.json should hold. Either ClientID and ClientSecret, or UseManagedIdentity.
type AzureConfig struct { //nolint:revive // it is the content of the file named azure.json
	ClientID     string `json:"clientID,omitempty"`
	ClientSecret string `json:"clientSecret,omitempty"`
	// TenantID is the emulator's when empty.
	TenantID       string `json:"tenantID,omitempty"`
	SubscriptionID string `json:"subscriptionID"`
	ResourceGroup  string `json:"resourceGroup"`
	// VMType is "vmss" (default) or "standard".
	VMType                 string `json:"vmType,omitempty"`
	UseManagedIdentity     bool   `json:"useManagedIdentity,omitempty"`
	UserAssignedIdentityID string `json:"userAssignedIdentityID,omitempty"`
}

// AzureJSON returns azure.json, the cloud provider's configuration file, for a custom cloud.
func (e *Emulator) AzureJSON(c AzureConfig) []byte {
	file := map[string]any{
		"cloud": "AzureStackCloud", "tenantId": orDefault(c.TenantID, e.tenant), "subscriptionId": c.SubscriptionID,
		"resourceGroup": c.ResourceGroup, "vmType": orDefault(c.VMType, "vmss"), "location": "westeurope",
		"useManagedIdentityExtension": c.UseManagedIdentity, "userAssignedIdentityID": c.UserAssignedIdentityID,
		"aadClientId": c.ClientID, "aadClientSecret": c.ClientSecret,
	}
	if c.UseManagedIdentity {
		// What the AKS cloud provider writes.
		file["aadClientId"], file["aadClientSecret"] = "msi", "msi"
	}
	return mustJSON(file)
}

// mustJSON encodes maps of strings and booleans, which cannot fail.
func mustJSON(v any) []byte {
	data, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return nil
	}
	return append(data, '\n')
}
