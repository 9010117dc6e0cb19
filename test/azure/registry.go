package azure

import (
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
)

// Identity is a user-assigned managed identity. Empty ClientID, PrincipalID and TenantID are filled in when it is stored.
type Identity struct {
	ID          string `json:"id"`
	ClientID    string `json:"clientID,omitempty"`
	PrincipalID string `json:"principalID,omitempty"`
	TenantID    string `json:"tenantID,omitempty"`
	// Federated lists its federated identity credentials, 20 at most.
	Federated []FederatedCredential `json:"federated,omitempty"`
}

// Compute is a virtual machine or a scale set; its ID says which.
type Compute struct {
	ID       string            `json:"id"`
	Location string            `json:"location,omitempty"`
	Tags     map[string]string `json:"tags,omitempty"`
	// SystemAssigned gives it a system-assigned identity, whose IDs are made when they are empty.
	SystemAssigned    bool   `json:"systemAssigned,omitempty"`
	SystemPrincipalID string `json:"systemPrincipalID,omitempty"`
	SystemClientID    string `json:"systemClientID,omitempty"`
	// UserAssigned lists the identities on it. One stored with only its ID gets the present IDs of that identity.
	UserAssigned []Assignment `json:"userAssigned,omitempty"`
	// ProvisioningState is Succeeded unless said otherwise: Updating, Failed, Deleting.
	ProvisioningState string `json:"provisioningState,omitempty"`
	// UniqueID is Azure's vmId or uniqueId.
	UniqueID string `json:"uniqueID,omitempty"`
	Version  int64  `json:"version,omitempty"`
}

// Assignment is a user-assigned identity on a VM or scale set, with its IDs as they were when it was
// assigned. When the registry has other ones now, the entry is a ghost: ARM shows it without IDs and IMDS gives no token for it.
type Assignment struct {
	ID          string `json:"id"`
	ClientID    string `json:"clientID,omitempty"`
	PrincipalID string `json:"principalID,omitempty"`
	// Since is the end of the operation that added it. Zero: it was stored, and has always been there.
	Since time.Time `json:"since,omitzero"`
}

// App is an application with its service principal.
type App struct {
	Name     string `json:"name,omitempty"`
	ClientID string `json:"clientID,omitempty"`
	// ObjectID is that of the service principal.
	ObjectID string `json:"objectID,omitempty"`
	// TenantIDs are the tenants with a service principal of it; empty means the emulator's first tenant.
	TenantIDs []string `json:"tenantIDs,omitempty"`
	Secrets   []string `json:"secrets,omitempty"`
	// Certificates are PEM encoded.
	Certificates []string              `json:"certificates,omitempty"`
	Federated    []FederatedCredential `json:"federated,omitempty"`
}

// FederatedCredential trusts tokens of another issuer. All three values must match exactly.
type FederatedCredential struct {
	Issuer  string `json:"issuer"`
	Subject string `json:"subject"`
	// Audience is api://AzureADTokenExchange when empty.
	Audience string `json:"audience,omitempty"`
	// JWKS is the issuer's key set; the emulator fetches nothing.
	JWKS json.RawMessage `json:"jwks"`
}

// The roles that matter here. Contributor, Owner and Reader are known too.
const (
	RoleManagedIdentityOperator   = "Managed Identity Operator"
	RoleVirtualMachineContributor = "Virtual Machine Contributor"
	RoleContributor               = "Contributor"
	RoleOwner                     = "Owner"
	RoleReader                    = "Reader"
)

// Role assigns a role to a principal (object ID) at a scope: a subscription, resource group or resource, and all below it.
type Role struct {
	PrincipalID string `json:"principalID"`
	Role        string `json:"role"`
	Scope       string `json:"scope"`
}

// State is the registry as the control API dumps it and as a seed file fills it.
type State struct {
	Compute    []Compute   `json:"compute,omitempty"`
	Identities []Identity  `json:"identities,omitempty"`
	Apps       []App       `json:"apps,omitempty"`
	Roles      []Role      `json:"roles,omitempty"`
	Groups     []string    `json:"groups,omitempty"`
	Operations []Operation `json:"operations,omitempty"`
}

// registry is everything that a restart must not lose. It is guarded by Emulator.mu.
type registry struct {
	compute    map[string]*Compute
	identities map[string]*Identity
	apps       map[string]*App
	roles      []Role
	groups     map[string]string // groupKey -> name
	operations map[string]*Operation
}

func newRegistry() *registry {
	return &registry{
		compute:    map[string]*Compute{},
		identities: map[string]*Identity{},
		apps:       map[string]*App{},
		groups:     map[string]string{},
		operations: map[string]*Operation{},
	}
}

func (r *registry) dump() State {
	var s State
	for _, k := range slices.Sorted(maps.Keys(r.compute)) {
		s.Compute = append(s.Compute, r.compute[k].clone())
	}
	for _, k := range slices.Sorted(maps.Keys(r.identities)) {
		s.Identities = append(s.Identities, *r.identities[k])
	}
	for _, k := range slices.Sorted(maps.Keys(r.apps)) {
		s.Apps = append(s.Apps, *r.apps[k])
	}
	for _, k := range slices.Sorted(maps.Keys(r.groups)) {
		s.Groups = append(s.Groups, r.groups[k])
	}
	for _, k := range slices.Sorted(maps.Keys(r.operations)) {
		s.Operations = append(s.Operations, *r.operations[k])
	}
	s.Roles = slices.Clone(r.roles)
	return s
}

func (c *Compute) clone() Compute {
	d := *c
	d.UserAssigned = slices.Clone(c.UserAssigned)
	d.Tags = maps.Clone(c.Tags)
	return d
}

func (r *registry) putIdentity(i Identity, tenant string) (Identity, error) {
	ref, err := parseResource(i.ID)
	if err != nil {
		return Identity{}, err
	}
	if ref.resourceType() != typeIdentity || len(ref.child) > 0 {
		return Identity{}, fmt.Errorf("%q is not a user-assigned identity", i.ID)
	}
	if i.ClientID == "" {
		i.ClientID = uuid.NewString()
	}
	if i.PrincipalID == "" {
		i.PrincipalID = uuid.NewString()
	}
	if i.TenantID == "" {
		i.TenantID = tenant
	}
	if i.Federated, err = checkFederated(i.Federated); err != nil {
		return Identity{}, fmt.Errorf("identity %s: %w", i.ID, err)
	}
	r.identities[key(i.ID)] = &i
	r.addGroup(ref)
	return i, nil
}

// deleteIdentity removes the identity and, as Azure does, the roles assigned on it.
func (r *registry) deleteIdentity(id string) error {
	if _, ok := r.identities[key(id)]; !ok {
		return fmt.Errorf("no identity %q", id)
	}
	delete(r.identities, key(id))
	r.roles = slices.DeleteFunc(r.roles, func(role Role) bool { return key(role.Scope) == key(id) })
	return nil
}

func (r *registry) putCompute(c Compute) (Compute, error) {
	ref, err := parseResource(c.ID)
	if err != nil {
		return Compute{}, err
	}
	if t := ref.resourceType(); (t != typeVM && t != typeVMSS) || len(ref.child) > 0 {
		return Compute{}, fmt.Errorf("%q is neither a virtual machine nor a scale set", c.ID)
	}
	c = c.clone()
	if c.Location == "" {
		c.Location = "westeurope"
	}
	if c.ProvisioningState == "" {
		c.ProvisioningState = stateSucceeded
	}
	if c.UniqueID == "" {
		c.UniqueID = uuid.NewString()
	}
	if c.SystemAssigned {
		c.enableSystem()
	}
	for i, a := range c.UserAssigned {
		if known, ok := r.identities[key(a.ID)]; ok && a.PrincipalID == "" {
			c.UserAssigned[i] = Assignment{ID: a.ID, ClientID: known.ClientID, PrincipalID: known.PrincipalID}
		}
	}
	if old, ok := r.compute[key(c.ID)]; ok {
		c.Version = old.Version
	}
	c.Version++
	r.compute[key(c.ID)] = &c
	r.addGroup(ref)
	return c.clone(), nil
}

func (c *Compute) enableSystem() {
	c.SystemAssigned = true
	if c.SystemPrincipalID == "" {
		c.SystemPrincipalID = uuid.NewString()
	}
	if c.SystemClientID == "" {
		c.SystemClientID = uuid.NewString()
	}
}

func (c *Compute) etag() string { return strconv.Quote(strconv.FormatInt(c.Version, 10)) }

func (r *registry) addGroup(ref resourceRef) {
	r.groups[groupKey(ref.subscription, ref.group)] = "/subscriptions/" + ref.subscription + "/resourceGroups/" + ref.group
}

// putGroups adds resource groups that may be empty.
func (r *registry) putGroups(ids []string) error {
	for _, id := range ids {
		s := strings.Split(id, "/")
		if len(s) != 5 || s[0] != "" || !strings.EqualFold(s[1], "subscriptions") || !strings.EqualFold(s[3], "resourceGroups") {
			return fmt.Errorf("%q is not a resource group", id)
		}
		r.addGroup(resourceRef{subscription: s[2], group: s[4]})
	}
	return nil
}

func (r *registry) putApp(a App, tenant string) (App, error) {
	if a.ClientID == "" {
		a.ClientID = uuid.NewString()
	}
	if a.ObjectID == "" {
		a.ObjectID = uuid.NewString()
	}
	if a.Name == "" {
		a.Name = a.ClientID
	}
	if len(a.TenantIDs) == 0 {
		a.TenantIDs = []string{tenant}
	}
	for _, text := range a.Certificates {
		if _, err := parseCertificate(text); err != nil {
			return App{}, fmt.Errorf("certificate of app %s: %w", a.Name, err)
		}
	}
	var err error
	if a.Federated, err = checkFederated(a.Federated); err != nil {
		return App{}, fmt.Errorf("app %s: %w", a.Name, err)
	}
	r.apps[key(a.ClientID)] = &a
	return a, nil
}

// checkFederated fills in defaults and holds Azure's limit of 20 credentials.
func checkFederated(given []FederatedCredential) ([]FederatedCredential, error) {
	if len(given) > 20 {
		return nil, fmt.Errorf("%d federated credentials, Azure allows 20", len(given))
	}
	creds := slices.Clone(given)
	for i := range creds {
		c := &creds[i]
		if c.Audience == "" {
			c.Audience = "api://AzureADTokenExchange"
		}
		if c.Issuer == "" || c.Subject == "" {
			return nil, errors.New("a federated credential needs issuer and subject")
		}
		if _, err := parseJWKS(c.JWKS); err != nil {
			return nil, fmt.Errorf("federated credential of %s: %w", c.Issuer, err)
		}
	}
	return creds, nil
}

func parseCertificate(text string) (*x509.Certificate, error) {
	block, _ := pem.Decode([]byte(text))
	if block == nil {
		return nil, errors.New("not PEM")
	}
	return x509.ParseCertificate(block.Bytes)
}

func (r *registry) grant(role Role) error {
	if _, ok := roleActions[role.Role]; !ok {
		return fmt.Errorf("unknown role %q", role.Role)
	}
	if role.PrincipalID == "" || !strings.HasPrefix(role.Scope, "/") {
		return errors.New("a role needs a principal's object ID and a scope that begins with /")
	}
	if !slices.Contains(r.roles, role) {
		r.roles = append(r.roles, role)
	}
	return nil
}

func (r *registry) revoke(role Role) {
	r.roles = slices.DeleteFunc(r.roles, func(have Role) bool {
		return strings.EqualFold(have.PrincipalID, role.PrincipalID) && have.Role == role.Role && key(have.Scope) == key(role.Scope)
	})
}

// live returns the identity behind an assignment, or false for a ghost.
func (r *registry) live(a Assignment) (Identity, bool) {
	i, ok := r.identities[key(a.ID)]
	if !ok || i.PrincipalID != a.PrincipalID {
		return Identity{}, false
	}
	return *i, true
}

// settle finishes the operations whose time has come.
func (r *registry) settle(now time.Time) (changed bool) {
	for _, op := range r.operations {
		if op.Status == statusInProgress && !now.Before(op.EndTime) {
			r.finish(op)
			changed = true
		}
	}
	return changed
}
