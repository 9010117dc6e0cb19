// Package azure emulates the parts of Azure that pod identity uses: Azure Resource Manager for virtual machines and scale
// sets, Microsoft Entra ID (AAD) for client credentials, user-assigned identities with the roles on them, and one instance
// metadata service (IMDS) for each node. It imports nothing of the product, so that it cannot share the product's mistakes.
//
// The services are tied together as in Azure. ARM takes only tokens that AAD or IMDS signed for it. IMDS gives a token only
// for an identity that ARM has on the node's VM or scale set at that moment, so a token proves that the assignment really
// happened. An operation accepted by PATCH takes effect when it ends, not before.
//
// # In a test
//
//	e, err := azure.New(azure.Options{})
//	err = e.Start(ctx)                             // HTTPS on 127.0.0.1, own CA
//	app, err := e.PutApp(azure.App{Secrets: []string{"s"}})
//	vmss, err := e.PutCompute(azure.Compute{ID: azure.VMSSID(sub, "nodes", "pool")})
//	id, err := e.PutIdentity(azure.Identity{ID: azure.IdentityID(sub, "ids", "demo")})
//	err = e.Grant(azure.Role{PrincipalID: app.ObjectID, Role: azure.RoleVirtualMachineContributor, Scope: vmss.ID})
//	err = e.Grant(azure.Role{PrincipalID: app.ObjectID, Role: azure.RoleManagedIdentityOperator, Scope: id.ID})
//	imds, err := e.StartIMDS(ctx, azure.InstanceID(vmss.ID, "0"), "127.0.0.1:0")
//
// HTTPClient trusts the CA and serves as ClientOptions.Transport of the SDK. EnvironmentFile and AzureJSON are the files
// through which the product reaches a custom cloud. The same operations are there for a separate process by Control.
//
// # As a process
//
// The program in the folder emulator serves the same over the network. Its control API is plain HTTP with JSON bodies;
// unknown fields are refused and errors are {"error": "…"} with status 400:
//
//	GET    /healthz                      ok, or why not
//	GET    /info                         Info: endpoint, tenant, CA, environment file
//	GET    /state                        State: the whole registry
//	POST   /reset                        back to seed and initial settings; no faults, no calls
//	PUT    /compute                      Compute: create or replace a VM or scale set
//	GET    /compute?id=                  one VM or scale set as ARM has it now
//	DELETE /compute?id=
//	PUT    /compute/state?id=&state=     Deleting, Failed, Updating, Succeeded
//	PUT    /identities                   Identity: create or replace; other IDs than before leave ghosts
//	DELETE /identities?id=               also removes the roles on it
//	PUT    /apps                         App with secrets, certificates (PEM) and federated credentials
//	DELETE /apps?clientID=
//	PUT    /roles, DELETE /roles         Role: grant, revoke
//	GET    /settings, PUT, PATCH         Settings; PATCH changes what it names
//	GET    /faults, POST                 Fault
//	DELETE /faults?id=                   all of them without id
//	GET    /calls?service=&operation=&path=&after=
//	DELETE /calls
//	POST   /operations/complete          ends all running operations
//
// # ARM
//
// GET and PATCH of Microsoft.Compute/virtualMachines and virtualMachineScaleSets, GET of /subscriptions and /tenants, and
// the operations of a PATCH. A PATCH is answered by 202 with Azure-AsyncOperation and Location; Settings.PatchStatus makes it
// 200, which armcompute by itself wants. A second PATCH during an operation is refused with 409 OperationNotAllowed. Requests
// that would touch instances or replace resources are refused and recorded as OpForbidden.
//
// A PATCH of identity needs type. In userAssignedIdentities {} adds, null removes, what is not named stays; a type without
// UserAssigned drops all of them and must not come with the map; UserAssigned without SystemAssigned drops the
// system-assigned identity; a type with UserAssigned and no identity left is 400 MissingIdentityIds. One identity in two
// spellings, or more than 150 in one request, is 400 InvalidParameter. The right to assign is checked before existence:
// without it 403 LinkedAuthorizationFailed names every identity concerned, and 400 FailedIdentityOperation names the first
// that does not exist. Since the roles on an identity go with it, a deleted identity is FailedIdentityOperation only for a caller whose
// role is on its resource group or subscription, which is what clusters see in Azure.
//
// A deleted identity, and one that was deleted and made again, stays on VMs and scale sets as a ghost: null IDs in ARM, no
// token from IMDS, not healed by {} but by removal and addition.
//
// # AAD
//
// Discovery, key set and the token endpoints of protocol version 1 and 2, for the client credentials grant by secret,
// certificate or federated assertion. Errors are AADSTS codes in AAD's shape. Tokens are RS256, claims of version 1.0; iss
// is {endpoint}/{tenant}/, as the version 1 discovery document says, and xms_mirid names a managed identity.
//
// # IMDS
//
// /metadata/identity/oauth2/token and /metadata/instance. A request with X-Forwarded-For is refused as in Azure. With
// Settings.IMDSLag an identity is unknown there for some time after the operation that added it.
//
// # Misbehaviour
//
// Faults answer by a chosen error, delay, drop the connection, hang, lose the answer of a request that was carried out
// (After), or let an accepted operation fail (Async). Calls lists what was asked, by whom and from where.
package azure
