package cloud

import (
	"fmt"
	"net/http"
	"strings"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"
)

// Options say where to find the configuration of the cloud.
type Options struct {
	// ConfigFile is the path of azure.json; empty reads the environment.
	ConfigFile string
	// EnvironmentFile is the path of a custom cloud's endpoints; usually the value
	// of AZURE_ENVIRONMENT_FILEPATH.
	EnvironmentFile string
	// CAFile is a PEM file with CAs to trust besides the system's; may be empty.
	CAFile string
	// Getenv reads the environment; os.Getenv outside tests.
	Getenv func(string) string
}

// Files returns the paths of the files that the configuration is read from.
func (o Options) Files() []string {
	var paths []string
	for _, path := range []string{o.ConfigFile, o.EnvironmentFile, o.CAFile} {
		if path != "" {
			paths = append(paths, path)
		}
	}
	return paths
}

// Cloud is an Azure to work with. It is immutable: a changed configuration file
// makes a new one.
type Cloud struct {
	// Config as read.
	Config *Config
	// Environment is the cloud's name and endpoints.
	Environment Environment
	// HTTP is the client for all of the cloud's APIs.
	HTTP *http.Client
	// Credential signs in as the cluster.
	Credential *Renewable
	// Read are the files that all this was made of, as they were before.
	Read Files
}

// Open reads the configuration and makes the credential. It calls nobody, so a
// wrong secret shows at the first token only.
func Open(o Options) (*Cloud, error) {
	read := ReadFiles(o.Files()...)
	var config *Config
	var err error
	if o.ConfigFile != "" {
		config, err = FromFile(o.ConfigFile)
	} else {
		config, err = FromEnvironment(o.Getenv)
	}
	if err != nil {
		return nil, err
	}
	environment, err := ResolveEnvironment(config.Cloud, o.EnvironmentFile)
	if err != nil {
		return nil, fmt.Errorf("cloud configuration (%s): %w", config.source, err)
	}
	client, err := NewHTTPClient(o.CAFile)
	if err != nil {
		return nil, err
	}
	credential, err := NewCredential(config, environment, client)
	if err != nil {
		return nil, fmt.Errorf("cloud configuration (%s): %w", config.source, err)
	}
	return &Cloud{Config: config, Environment: environment, HTTP: client, Credential: credential, Read: read}, nil
}

// NewCredential returns the credential of the configuration: a managed identity
// of the node, or the service principal with its secret.
func NewCredential(c *Config, environment Environment, client *http.Client) (*Renewable, error) {
	return NewRenewable(func() (azcore.TokenCredential, error) { return begin(c, environment, client) })
}

func begin(c *Config, environment Environment, client *http.Client) (azcore.TokenCredential, error) {
	options := policy.ClientOptions{Cloud: environment.Configuration, Transport: client}
	if c.UseManagedIdentity {
		mi := &azidentity.ManagedIdentityCredentialOptions{ClientOptions: options}
		switch id := c.UserAssignedIdentityID; {
		case id == "":
		case strings.HasPrefix(id, "/"):
			mi.ID = azidentity.ResourceID(id)
		default:
			mi.ID = azidentity.ClientID(id)
		}
		credential, err := azidentity.NewManagedIdentityCredential(mi)
		if err != nil {
			return nil, fmt.Errorf("managed identity credential: %w", err)
		}
		return credential, nil
	}
	credential, err := azidentity.NewClientSecretCredential(c.TenantID, c.ClientID, c.ClientSecret, &azidentity.ClientSecretCredentialOptions{
		ClientOptions:            options,
		DisableInstanceDiscovery: environment.Private,
	})
	if err != nil {
		return nil, fmt.Errorf("service principal credential: %w", err)
	}
	return credential, nil
}
