package azure

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
)

// tokenEndpoints maps the path below the tenant to the version of the protocol.
var tokenEndpoints = map[string]int{"oauth2/token": 1, "oauth2/v2.0/token": 2}

func (e *Emulator) serveAAD(w http.ResponseWriter, r *http.Request) {
	settings := e.Settings()
	tenant, rest, _ := strings.Cut(strings.Trim(r.URL.Path, "/"), "/")
	rest = strings.ToLower(rest)
	c := Call{Service: ServiceAAD, Operation: OpUnknown, RequestID: uuid.NewString()}
	var latency Duration
	var handle func(w http.ResponseWriter)
	version, isToken := tokenEndpoints[rest]
	switch {
	case isToken:
		c.Operation, latency = OpToken, settings.AAD
		handle = func(w http.ResponseWriter) { e.answerToken(w, r, tenant, version, settings) }
	case rest == "v2.0/.well-known/openid-configuration":
		c.Operation = OpDiscovery
		handle = func(w http.ResponseWriter) { e.answerOpenID(w, r, tenant, 2) }
	case rest == ".well-known/openid-configuration":
		c.Operation = OpDiscovery
		handle = func(w http.ResponseWriter) { e.answerOpenID(w, r, tenant, 1) }
	case rest == "discovery/v2.0/keys" || rest == "discovery/keys":
		c.Operation = OpKeys
		handle = func(w http.ResponseWriter) { writeJSON(w, http.StatusOK, e.keys.jwks()) }
	case strings.EqualFold(tenant, "common") && rest == "discovery/instance":
		c.Operation = OpDiscovery
		handle = func(w http.ResponseWriter) { e.answerInstance(w, r) }
	default:
		handle = func(w http.ResponseWriter) {
			noteError(w, "not_found")
			writeJSON(w, http.StatusNotFound, map[string]any{"error": "not_found", "error_description": "no such endpoint: " + r.URL.Path})
		}
	}
	w.Header().Set("x-ms-request-id", c.RequestID)
	w.Header().Set("Cache-Control", "no-store, no-cache")
	e.perform(w, r, c, time.Duration(latency), func(w http.ResponseWriter, _ *http.Request, _ *Fault) { handle(w) })
}

// knownTenant reports whether the tenant is the emulator's or has an app or identity in it.
func (e *Emulator) knownTenant(tenant string) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if strings.EqualFold(tenant, e.tenant) {
		return true
	}
	for _, a := range e.reg.apps {
		if slices.ContainsFunc(a.TenantIDs, func(t string) bool { return strings.EqualFold(t, tenant) }) {
			return true
		}
	}
	for _, i := range e.reg.identities {
		if strings.EqualFold(i.TenantID, tenant) {
			return true
		}
	}
	return false
}

func (e *Emulator) answerOpenID(w http.ResponseWriter, r *http.Request, tenant string, version int) {
	// The aliases have no issuer of their own: clients put their tenant in.
	if !slices.Contains([]string{"common", "organizations"}, strings.ToLower(tenant)) && !e.knownTenant(tenant) {
		writeAADError(w, errUnknownTenant(tenant))
		return
	}
	base := e.requestBase(r) + "/" + tenant
	issuer, middle := e.Endpoint()+"/"+tenant+"/", ""
	if version == 2 {
		issuer, middle = base+"/v2.0", "/v2.0"
	}
	writeJSON(w, http.StatusOK, map[string]any{
		"issuer":                                issuer,
		"token_endpoint":                        base + "/oauth2" + middle + "/token",
		"authorization_endpoint":                base + "/oauth2" + middle + "/authorize",
		"jwks_uri":                              base + "/discovery" + middle + "/keys",
		"token_endpoint_auth_methods_supported": []string{"client_secret_post", "private_key_jwt"},
		"response_types_supported":              []string{"code", "id_token", "token"},
		"subject_types_supported":               []string{"pairwise"},
		"id_token_signing_alg_values_supported": []string{"RS256"},
		"scopes_supported":                      []string{"openid"},
		"cloud_instance_name":                   r.Host,
	})
}

func (e *Emulator) answerInstance(w http.ResponseWriter, r *http.Request) {
	tenant := "common"
	if endpoint, err := url.Parse(r.URL.Query().Get("authorization_endpoint")); err == nil {
		if first, _, _ := strings.Cut(strings.Trim(endpoint.Path, "/"), "/"); first != "" {
			tenant = first
		}
	}
	writeJSON(w, http.StatusOK, map[string]any{
		"tenant_discovery_endpoint": e.requestBase(r) + "/" + tenant + "/v2.0/.well-known/openid-configuration",
		"api-version":               "1.1",
		"metadata":                  []any{map[string]any{"preferred_network": r.Host, "preferred_cache": r.Host, "aliases": []string{r.Host}}},
	})
}

func (e *Emulator) answerToken(w http.ResponseWriter, r *http.Request, tenant string, version int, settings Settings) {
	if r.Method != http.MethodPost {
		writeAADError(w, &aadError{http.StatusBadRequest, 900561, "invalid_request", "The endpoint only accepts POST requests. Received a " + r.Method + " request."})
		return
	}
	r.Body = http.MaxBytesReader(w, r.Body, 1<<20)
	if err := r.ParseForm(); err != nil {
		writeAADError(w, &aadError{http.StatusBadRequest, 900142, "invalid_request", "The request body could not be read."})
		return
	}
	who, audience, aadErr := e.checkGrant(r, tenant, version)
	if who.clientID != "" {
		noteCaller(w, who.objectID, who.clientID)
	}
	if aadErr != nil {
		writeAADError(w, aadErr)
		return
	}
	lifetime := settings.tokenLifetime()
	t, err := e.keys.issue(e.Endpoint(), who, audience, lifetime)
	if err != nil {
		writeAADError(w, &aadError{http.StatusInternalServerError, 90033, "temporarily_unavailable", err.Error()})
		return
	}
	expiresIn := int64(time.Until(t.expiresOn).Seconds())
	body := map[string]any{"token_type": "Bearer", "access_token": t.token, "expires_in": expiresIn, "ext_expires_in": expiresIn}
	if settings.RefreshIn > 0 {
		body["refresh_in"] = int64(time.Duration(settings.RefreshIn).Seconds())
	}
	if version == 1 {
		// The old protocol has strings only.
		for name, value := range body {
			if n, ok := value.(int64); ok {
				body[name] = strconv.FormatInt(n, 10)
			}
		}
		body["expires_on"] = strconv.FormatInt(t.expiresOn.Unix(), 10)
		body["not_before"] = strconv.FormatInt(t.notBefore.Unix(), 10)
		body["resource"] = audience
	}
	writeJSON(w, http.StatusOK, body)
}

// checkGrant validates a client credentials request and names whom the token is for and its audience.
func (e *Emulator) checkGrant(r *http.Request, tenant string, version int) (subject, string, *aadError) {
	form := r.PostForm
	if !e.knownTenant(tenant) {
		return subject{}, "", errUnknownTenant(tenant)
	}
	required := []string{"grant_type", "client_id", "scope"}
	if version == 1 {
		required[2] = "resource"
	}
	for _, name := range required {
		if form.Get(name) == "" {
			return subject{}, "", &aadError{http.StatusBadRequest, 900144, "invalid_request", fmt.Sprintf("The request body must contain the following parameter: '%s'.", name)}
		}
	}
	if grant := form.Get("grant_type"); grant != "client_credentials" {
		return subject{}, "", &aadError{http.StatusBadRequest, 70003, "unsupported_grant_type", fmt.Sprintf("The app requested an unsupported grant type '%s'.", grant)}
	}
	audience := form.Get("resource")
	if version == 2 {
		var ok bool
		if audience, ok = audienceOf(form.Get("scope")); !ok {
			return subject{}, "", &aadError{http.StatusBadRequest, 1002012, "invalid_scope", fmt.Sprintf("The provided value for scope %s is not valid. Client credential flows must have a scope value with /.default suffixed to the resource identifier (application ID URI).", form.Get("scope"))}
		}
	}
	client, aadErr := e.client(tenant, form.Get("client_id"))
	if aadErr != nil {
		return subject{}, "", aadErr
	}
	if aadErr := e.checkCredential(client, tenant, form); aadErr != nil {
		return client.subject, "", aadErr
	}
	return client.subject, audience, nil
}

// audienceOf returns the resource of a scope parameter: one scope that ends in /.default, beside the OpenID scopes
// that MSAL adds. A resource with a trailing slash gives two slashes, of which one belongs to the audience.
func audienceOf(scope string) (string, bool) {
	scopes := slices.DeleteFunc(strings.Fields(scope), func(s string) bool {
		return slices.Contains([]string{"openid", "offline_access", "profile", "email"}, s)
	})
	if len(scopes) != 1 {
		return "", false
	}
	audience, ok := strings.CutSuffix(scopes[0], "/.default")
	return audience, ok && audience != ""
}

// client is a confidential client: an app, or a managed identity, which has federated credentials only.
type client struct {
	subject
	App
}

func (e *Emulator) client(tenant, clientID string) (client, *aadError) {
	e.mu.Lock()
	defer e.mu.Unlock()
	tenant = strings.ToLower(tenant)
	if a, ok := e.reg.apps[key(clientID)]; ok && slices.ContainsFunc(a.TenantIDs, func(t string) bool { return strings.EqualFold(t, tenant) }) {
		return client{subject{tenant: tenant, clientID: a.ClientID, objectID: a.ObjectID}, *a}, nil
	}
	for _, i := range e.reg.identities {
		if strings.EqualFold(i.ClientID, clientID) && strings.EqualFold(i.TenantID, tenant) {
			return client{
				subject{tenant: tenant, clientID: i.ClientID, objectID: i.PrincipalID, mirid: i.ID},
				App{ClientID: i.ClientID, Federated: i.Federated},
			}, nil
		}
	}
	return client{}, &aadError{http.StatusBadRequest, 700016, "unauthorized_client", fmt.Sprintf("Application with identifier '%s' was not found in the directory '%s'. This can happen if the application has not been installed by the administrator of the tenant or consented to by any user in the tenant. You may have sent your authentication request to the wrong tenant.", clientID, tenant)}
}

// aadError is an error of AAD; its code becomes AADSTS<code>.
type aadError struct {
	status      int
	code        int
	kind        string
	description string
}

func errUnknownTenant(tenant string) *aadError {
	return &aadError{http.StatusBadRequest, 90002, "invalid_request", fmt.Sprintf("Tenant '%s' not found. Check to make sure you have the correct tenant ID and are signing into the correct cloud. Check with your subscription administrator, this may happen if there are no active subscriptions for the tenant.", tenant)}
}

func writeAADError(w http.ResponseWriter, err *aadError) {
	trace, correlation, now := uuid.NewString(), uuid.NewString(), time.Now().UTC().Format("2006-01-02 15:04:05Z")
	noteError(w, "AADSTS"+strconv.Itoa(err.code))
	writeJSON(w, err.status, map[string]any{
		"error":             err.kind,
		"error_description": fmt.Sprintf("AADSTS%d: %s Trace ID: %s Correlation ID: %s Timestamp: %s", err.code, err.description, trace, correlation, now),
		"error_codes":       []int{err.code},
		"timestamp":         now, "trace_id": trace, "correlation_id": correlation,
		"error_uri": "https://login.microsoftonline.com/error?code=" + strconv.Itoa(err.code),
	})
}

// writeOAuthError answers in the shape that IMDS and AAD share.
func writeOAuthError(w http.ResponseWriter, err *apiError) {
	if err.RetryAfter > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(seconds(err.RetryAfter)))
	}
	noteError(w, err.Code)
	writeJSON(w, err.Status, map[string]any{"error": err.Code, "error_description": err.Message})
}
