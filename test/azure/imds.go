package azure

import (
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"
	"golang.org/x/time/rate"
)

// node is the IMDS of one machine.
type node struct {
	emulator *Emulator
	// id is the VM or scale set instance, owner the resource whose identities count: the VM or the scale set.
	id, owner string
	ref       resourceRef

	mu      sync.Mutex
	limiter *rate.Limiter
	limit   int
	busy    int
}

// IMDSHandler returns the instance metadata service of a node, which is named by the ID of a VM or of an instance of a
// scale set. It gives tokens only for the identities that ARM has on that VM or scale set at that moment,
// or had Settings.IMDSLag before.
func (e *Emulator) IMDSHandler(nodeResourceID string) (http.Handler, error) {
	ref, err := parseResource(nodeResourceID)
	if err != nil {
		return nil, fmt.Errorf("node: %w", err)
	}
	switch {
	case ref.resourceType() == typeVM && len(ref.child) == 0:
	case ref.resourceType() == typeVMSS && len(ref.child) == 2 && strings.EqualFold(ref.child[0], "virtualMachines"):
	default:
		return nil, fmt.Errorf("node: %q is neither a virtual machine nor an instance of a scale set", nodeResourceID)
	}
	return &node{emulator: e, id: nodeResourceID, owner: ref.id(), ref: ref}, nil
}

func (n *node) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	settings := n.emulator.Settings()
	// Only "metadata" is matched without regard to case.
	path := r.URL.Path
	if first, rest, ok := strings.Cut(strings.TrimPrefix(path, "/"), "/"); ok && strings.EqualFold(first, "metadata") {
		path = "/metadata/" + rest
	}
	c := Call{Service: ServiceIMDS, Operation: OpUnknown, Node: n.id, RequestID: uuid.NewString()}
	var latency Duration
	handle := func(w http.ResponseWriter) { writeInstanceError(w, http.StatusNotFound, "Not found") }
	switch {
	case strings.TrimSuffix(path, "/") == "/metadata/identity/oauth2/token":
		c.Operation, latency = OpIMDSToken, settings.IMDS
		handle = func(w http.ResponseWriter) { n.answerToken(w, r, settings) }
	case path == "/metadata/instance" || strings.HasPrefix(path, "/metadata/instance/"):
		c.Operation = OpIMDSInstance
		handle = func(w http.ResponseWriter) {
			n.answerInstance(w, r, strings.Trim(strings.TrimPrefix(path, "/metadata/instance"), "/"))
		}
	}
	w.Header().Set("Server", "IMDS/150.870.65.1853")
	w.Header().Set("x-ms-request-id", c.RequestID)
	limited := false
	if c.Operation == OpIMDSToken {
		// A request holds its place of the five from its arrival to its answer, delays included.
		limited = !n.enter(settings)
		if !limited {
			defer n.leave()
		}
	}
	n.emulator.perform(w, r, c, time.Duration(latency), func(w http.ResponseWriter, _ *http.Request, _ *Fault) {
		if limited {
			writeOAuthError(w, &apiError{Status: http.StatusTooManyRequests, Code: "too_many_requests", Message: "Too many requests", RetryAfter: time.Second})
			return
		}
		handle(w)
	})
}

// enter takes a place among the requests of this node, unless a limit of the settings is reached.
func (n *node) enter(s Settings) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if s.IMDSConcurrent > 0 && n.busy >= s.IMDSConcurrent {
		return false
	}
	if s.IMDSPerSecond > 0 {
		if n.limiter == nil || n.limit != s.IMDSPerSecond {
			n.limiter, n.limit = rate.NewLimiter(rate.Limit(s.IMDSPerSecond), s.IMDSPerSecond), s.IMDSPerSecond
		}
		if !n.limiter.Allow() {
			return false
		}
	}
	n.busy++
	return true
}

func (n *node) leave() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.busy--
}

// invalid is IMDS's answer to a bad identity request.
func invalid(code, description string) *apiError {
	return &apiError{Status: http.StatusBadRequest, Code: code, Message: description}
}

// tokenRequest is a parsed identity request.
type tokenRequest struct {
	resource string
	// selector is the parameter that names an identity, empty for none, value what it says.
	selector, value string
}

// parseTokenRequest checks header and parameters in IMDS's order. It is pure.
func parseTokenRequest(header http.Header, query url.Values) (tokenRequest, *apiError) {
	if !strings.EqualFold(header.Get("Metadata"), "true") {
		return tokenRequest{}, invalid("invalid_request", "Required metadata header not specified")
	}
	if header.Get("X-Forwarded-For") != "" {
		return tokenRequest{}, invalid("invalid_request", "Requests that contain an X-Forwarded-For header are rejected")
	}
	version := query.Get("api-version")
	if version == "" {
		return tokenRequest{}, invalid("invalid_request", "Required query variable 'api-version' is missing")
	}
	if version < "2018-02-01" {
		return tokenRequest{}, invalid("invalid_request", fmt.Sprintf("api-version '%s' is not supported", version))
	}
	request := tokenRequest{resource: query.Get("resource")}
	if request.resource == "" {
		return tokenRequest{}, invalid("invalid_request", "Required query variable 'resource' is missing")
	}
	if u, err := url.Parse(request.resource); err != nil || (u.Scheme == "" && uuid.Validate(request.resource) != nil) {
		return tokenRequest{}, invalid("invalid_resource", fmt.Sprintf("AADSTS500011: The resource principal named %s was not found in the tenant.", request.resource))
	}
	for _, name := range []string{"client_id", "object_id", "msi_res_id", "mi_res_id"} {
		value := query.Get(name)
		if value == "" {
			continue
		}
		if request.selector != "" {
			return tokenRequest{}, invalid("invalid_request", fmt.Sprintf("Only one of client_id, object_id and msi_res_id may be given, not '%s' and '%s'", request.selector, name))
		}
		request.selector, request.value = name, value
	}
	return request, nil
}

func (n *node) answerToken(w http.ResponseWriter, r *http.Request, settings Settings) {
	if r.Method != http.MethodGet {
		w.Header().Set("Allow", http.MethodGet)
		writeOAuthError(w, &apiError{Status: http.StatusMethodNotAllowed, Code: "invalid_request", Message: "The method is not allowed"})
		return
	}
	request, apiErr := parseTokenRequest(r.Header, r.URL.Query())
	if apiErr != nil {
		writeOAuthError(w, apiErr)
		return
	}
	who, apiErr := n.emulator.nodeIdentity(n.owner, request, time.Duration(settings.IMDSLag))
	if apiErr != nil {
		writeOAuthError(w, apiErr)
		return
	}
	noteCaller(w, who.objectID, who.clientID)
	t, err := n.emulator.keys.issue(n.emulator.Endpoint(), who, request.resource, settings.imdsTokenLifetime())
	if err != nil {
		writeOAuthError(w, &apiError{Status: http.StatusInternalServerError, Code: "unknown", Message: err.Error()})
		return
	}
	body := map[string]string{
		"access_token": t.token, "refresh_token": "", "client_id": who.clientID, "token_type": "Bearer", "resource": request.resource,
		"expires_in":     strconv.FormatInt(int64(time.Until(t.expiresOn).Seconds()), 10),
		"ext_expires_in": strconv.FormatInt(int64(time.Until(t.expiresOn).Seconds()), 10),
		"expires_on":     strconv.FormatInt(t.expiresOn.Unix(), 10),
		"not_before":     strconv.FormatInt(t.notBefore.Unix(), 10),
	}
	if settings.RefreshIn > 0 {
		body["refresh_in"] = strconv.FormatInt(int64(time.Duration(settings.RefreshIn).Seconds()), 10)
	}
	writeJSON(w, http.StatusOK, body)
}

// nodeIdentity picks the identity of a request among those that ARM has on the owner, and has had for as long as the lag.
func (e *Emulator) nodeIdentity(owner string, request tokenRequest, lag time.Duration) (subject, *apiError) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.reg.settle(time.Now()) {
		e.save()
	}
	notFound := invalid("invalid_request", "Identity not found")
	c, ok := e.reg.compute[key(owner)]
	if !ok {
		return subject{}, notFound
	}
	var candidates []subject
	if c.SystemAssigned {
		candidates = append(candidates, subject{tenant: e.tenant, clientID: c.SystemClientID, objectID: c.SystemPrincipalID, mirid: c.ID})
	}
	for _, a := range c.UserAssigned {
		if i, ok := e.reg.live(a); ok && time.Since(a.Since) >= lag {
			candidates = append(candidates, subject{tenant: i.TenantID, clientID: i.ClientID, objectID: i.PrincipalID, mirid: i.ID})
		}
	}
	if request.selector == "" {
		switch {
		case len(candidates) == 0:
			return subject{}, notFound
		case c.SystemAssigned || len(candidates) == 1:
			return candidates[0], nil
		}
		return subject{}, invalid("invalid_request", "Multiple user assigned identities exist, please specify the clientId / resourceId of the identity in the token request")
	}
	for _, s := range candidates {
		value := s.mirid
		switch request.selector {
		case "client_id":
			value = s.clientID
		case "object_id":
			value = s.objectID
		}
		if strings.EqualFold(value, request.value) {
			return s, nil
		}
	}
	return subject{}, notFound
}
