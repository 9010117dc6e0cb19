package cloud

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/url"
	"os"
	"slices"
	"strings"

	azcloud "github.com/Azure/azure-sdk-for-go/sdk/azcore/cloud"
)

// EnvEnvironmentFile is the environment variable with the path of the file that
// describes a custom cloud.
const EnvEnvironmentFile = "AZURE_ENVIRONMENT_FILEPATH"

// Custom is the name of a cloud whose endpoints are in an environment file.
const Custom = "AzureStackCloud"

// Environment is a cloud and its endpoints.
type Environment struct {
	// Name of the cloud, in the spelling of azure.json.
	Name string
	// Configuration has the token authority, and the endpoint and token audience
	// of Azure Resource Manager.
	Configuration azcloud.Configuration
	// Private says that the cloud is a custom one: its token authority is not
	// known to Microsoft's public instance discovery, so it must not be asked.
	Private bool
}

// environments are the clouds that are known by name. Keys are lower case.
var environments = map[string]Environment{
	"azurepubliccloud":       known("AzurePublicCloud", "https://login.microsoftonline.com/", "https://management.azure.com", "https://management.core.windows.net/"),
	"azureusgovernmentcloud": known("AzureUSGovernmentCloud", "https://login.microsoftonline.us/", "https://management.usgovcloudapi.net", "https://management.core.usgovcloudapi.net/"),
	"azurechinacloud":        known("AzureChinaCloud", "https://login.chinacloudapi.cn/", "https://management.chinacloudapi.cn", "https://management.core.chinacloudapi.cn/"),
}

// aliases are the shorter names that older tools write.
var aliases = map[string]string{
	"":                  "azurepubliccloud",
	"azurecloud":        "azurepubliccloud",
	"azurepublic":       "azurepubliccloud",
	"azureusgovernment": "azureusgovernmentcloud",
	"azurechina":        "azurechinacloud",
}

func known(name, authority, endpoint, audience string) Environment {
	return Environment{Name: name, Configuration: configuration(authority, endpoint, audience)}
}

func configuration(authority, endpoint, audience string) azcloud.Configuration {
	return azcloud.Configuration{
		ActiveDirectoryAuthorityHost: authority,
		Services: map[azcloud.ServiceName]azcloud.ServiceConfiguration{
			azcloud.ResourceManager: {Endpoint: endpoint, Audience: audience},
		},
	}
}

// KnownAuthorities returns the token authorities of the clouds known by name.
func KnownAuthorities() []string {
	var hosts []string
	for _, key := range slices.Sorted(maps.Keys(environments)) {
		hosts = append(hosts, environments[key].Configuration.ActiveDirectoryAuthorityHost)
	}
	return hosts
}

// ResolveEnvironment finds a cloud by its name in azure.json, ignoring case;
// empty is the public cloud. A custom cloud is read from environmentFile.
func ResolveEnvironment(name, environmentFile string) (Environment, error) {
	key := strings.ToLower(name)
	if alias, ok := aliases[key]; ok {
		key = alias
	}
	if env, ok := environments[key]; ok {
		return env, nil
	}
	if key != strings.ToLower(Custom) {
		return Environment{}, fmt.Errorf("unknown cloud %q, must be AzurePublicCloud, AzureUSGovernmentCloud, AzureChinaCloud or %s", name, Custom)
	}
	if environmentFile == "" {
		return Environment{}, fmt.Errorf("cloud is %s, so %s must name the file with its endpoints", Custom, EnvEnvironmentFile)
	}
	return environmentFromFile(environmentFile)
}

// environmentFile is the format that the Azure Stack and AKS tools write.
type environmentFileContent struct {
	Name                      string `json:"name"`
	ResourceManagerEndpoint   string `json:"resourceManagerEndpoint"`
	ActiveDirectoryEndpoint   string `json:"activeDirectoryEndpoint"`
	ServiceManagementEndpoint string `json:"serviceManagementEndpoint"`
	TokenAudience             string `json:"tokenAudience"`
}

func environmentFromFile(path string) (Environment, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return Environment{}, fmt.Errorf("reading the custom cloud's endpoints (%s): %w", EnvEnvironmentFile, err)
	}
	var f environmentFileContent
	if err := json.Unmarshal(raw, &f); err != nil {
		return Environment{}, fmt.Errorf("custom cloud %s is not valid JSON: %w", path, err)
	}
	// Files that state no audience mean the one of the classic management API.
	audience := f.TokenAudience
	if audience == "" {
		audience = f.ServiceManagementEndpoint
	}
	if audience == "" {
		audience = f.ResourceManagerEndpoint
	}
	for field, value := range map[string]string{"resourceManagerEndpoint": f.ResourceManagerEndpoint, "activeDirectoryEndpoint": f.ActiveDirectoryEndpoint} {
		if value == "" {
			return Environment{}, fmt.Errorf("custom cloud %s lacks %s", path, field)
		}
		u, err := url.Parse(value)
		if err != nil || u.Scheme != "https" || u.Host == "" {
			// azcore sends no token over plain HTTP; say so before the first call.
			return Environment{}, fmt.Errorf("custom cloud %s: %s %q is not an https URL", path, field, value)
		}
	}
	return Environment{
		Name:          Custom,
		Configuration: configuration(f.ActiveDirectoryEndpoint, strings.TrimSuffix(f.ResourceManagerEndpoint, "/"), audience),
		Private:       true,
	}, nil
}
