package azure

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/google/uuid"
)

func isARMPath(path string) bool {
	first, _, _ := strings.Cut(strings.TrimPrefix(path, "/"), "/")
	return strings.EqualFold(first, "subscriptions") || strings.EqualFold(first, "tenants") || strings.EqualFold(first, "providers")
}

// armRequest is a request to ARM on its way to the answer.
type armRequest struct {
	*http.Request
	operation string
	ref       resourceRef // of VM and scale set requests
	body      []byte
	who       caller
	settings  Settings
	hit       *Fault
}

// route names the operation of a request to ARM. It is pure.
func route(method, path string) (operation string, ref resourceRef) {
	segments := strings.Split(strings.Trim(strings.ToLower(path), "/"), "/")
	get := method == http.MethodGet
	switch {
	case get && len(segments) == 1 && segments[0] == "tenants":
		return OpTenants, ref
	case get && segments[0] == "subscriptions" && len(segments) <= 2:
		return OpSubscriptions, ref
	case get && len(segments) == 8 && segments[2] == "providers" && segments[3] == "microsoft.compute" && segments[4] == "locations" && segments[6] == "operations":
		return OpOperationGet, ref
	}
	ref, err := parseResource(path)
	if err != nil {
		return OpUnknown, resourceRef{}
	}
	operations := map[string][2]string{typeVM: {OpVMGet, OpVMUpdate}, typeVMSS: {OpVMSSGet, OpVMSSUpdate}}
	of, known := operations[ref.resourceType()]
	switch {
	case !known:
		return OpUnknown, ref
	case len(ref.child) == 0 && get:
		return of[0], ref
	case len(ref.child) == 0 && method == http.MethodPatch:
		return of[1], ref
	case get:
		return OpUnknown, ref
	}
	// POST of an action, PUT, DELETE, and anything that writes to an instance.
	return OpForbidden, ref
}

func (e *Emulator) serveARM(w http.ResponseWriter, r *http.Request) {
	request := armRequest{Request: r, settings: e.Settings()}
	request.operation, request.ref = route(r.Method, r.URL.Path)
	c := Call{Service: ServiceARM, Operation: request.operation, RequestID: uuid.NewString()}
	latency := request.settings.ARMRead
	if r.Method != http.MethodGet {
		latency = request.settings.ARMWrite
	}
	body, bodyErr := io.ReadAll(http.MaxBytesReader(w, r.Body, 4<<20))
	request.body = body
	if request.operation == OpVMUpdate || request.operation == OpVMSSUpdate {
		c.Body = string(body)
	}
	correlation := r.Header.Get("x-ms-correlation-request-id")
	w.Header().Set("x-ms-request-id", c.RequestID)
	w.Header().Set("x-ms-correlation-request-id", orDefault(correlation, c.RequestID))
	w.Header().Set("Cache-Control", "no-cache")
	e.perform(w, r, c, time.Duration(latency), func(w http.ResponseWriter, _ *http.Request, hit *Fault) {
		if bodyErr != nil {
			writeARMError(w, badRequest("InvalidRequestContent", "The request content could not be read: "+bodyErr.Error()))
			return
		}
		request.hit = hit
		if err := e.answerARM(w, request); err != nil {
			writeARMError(w, err)
		}
	})
}

func (e *Emulator) answerARM(w http.ResponseWriter, r armRequest) *apiError {
	who, err := e.authenticate(w, r.Request)
	if err != nil {
		return err
	}
	noteCaller(w, who.objectID, who.clientID)
	r.who = who
	if r.URL.Query().Get("api-version") == "" {
		return badRequest("MissingApiVersionParameter", "The api-version query parameter (?api-version=) is required for all requests.")
	}

	e.mu.Lock()
	defer e.mu.Unlock()
	if e.reg.settle(time.Now()) {
		e.save()
	}
	switch r.operation {
	case OpTenants:
		return e.answerTenants(w)
	case OpSubscriptions:
		return e.answerSubscriptions(w, r)
	case OpOperationGet:
		return e.answerOperation(w, r)
	case OpVMGet, OpVMSSGet:
		return e.answerGet(w, r)
	case OpVMUpdate, OpVMSSUpdate:
		return e.answerPatch(w, r)
	case OpForbidden:
		return &apiError{
			Status: http.StatusConflict, Code: "OperationNotAllowed",
			Message: fmt.Sprintf("The emulator refuses %s %s: instance operations can restart nodes, and nothing here may create, replace or delete a VM or scale set.", r.Method, r.URL.Path),
		}
	}
	return &apiError{Status: http.StatusNotFound, Code: "InvalidResourceType", Message: fmt.Sprintf("The resource type of '%s' could not be found.", r.URL.Path)}
}

// authenticate validates the bearer token.
func (e *Emulator) authenticate(w http.ResponseWriter, r *http.Request) (caller, *apiError) {
	base := e.Endpoint()
	unauthorized := func(code, message string) (caller, *apiError) {
		w.Header().Set("WWW-Authenticate", fmt.Sprintf("Bearer authorization_uri=%q, error=\"invalid_token\", error_description=%q", base+"/"+e.TenantID(), message))
		return caller{}, &apiError{Status: http.StatusUnauthorized, Code: code, Message: message}
	}
	scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if token == "" {
		return unauthorized("AuthenticationFailed", "Authentication failed. The 'Authorization' header is missing.")
	}
	if !strings.EqualFold(scheme, "Bearer") {
		return unauthorized("AuthenticationFailedInvalidHeader", "Authentication failed. The 'Authorization' header is provided in an invalid format.")
	}
	who, err := e.keys.validate(base, token)
	switch {
	case errors.Is(err, jwt.ErrTokenExpired):
		return unauthorized("ExpiredAuthenticationToken", "The access token expiry UTC time is earlier than current UTC time.")
	case errors.Is(err, errAudience):
		return unauthorized("InvalidAuthenticationTokenAudience", "The access token has been obtained for wrong audience or resource. "+err.Error())
	case err != nil:
		return unauthorized("InvalidAuthenticationToken", "The access token is invalid: "+err.Error())
	}
	return who, nil
}

func (e *Emulator) answerTenants(w http.ResponseWriter) *apiError {
	writeJSON(w, http.StatusOK, map[string]any{"value": []any{map[string]any{
		"id": "/tenants/" + e.tenant, "tenantId": e.tenant, "displayName": "Emulated directory", "defaultDomain": "emulator.onmicrosoft.com",
		"countryCode": "NL", "tenantCategory": "Home", "tenantType": "AAD",
	}}})
	return nil
}

// answerSubscriptions lists the subscriptions in which the caller has a role, as ARM does, or shows one.
func (e *Emulator) answerSubscriptions(w http.ResponseWriter, r armRequest) *apiError {
	visible := map[string]any{}
	for _, role := range e.reg.roles {
		segments := strings.Split(role.Scope, "/")
		if !strings.EqualFold(role.PrincipalID, r.who.objectID) || len(segments) < 3 || !strings.EqualFold(segments[1], "subscriptions") {
			continue
		}
		id := strings.ToLower(segments[2])
		visible[id] = map[string]any{
			"id": "/subscriptions/" + id, "subscriptionId": id, "displayName": "Emulated subscription", "state": "Enabled",
			"tenantId": e.tenant, "authorizationSource": "RoleBased", "managedByTenants": []any{},
			"subscriptionPolicies": map[string]any{"locationPlacementId": "Public_2014-09-01", "quotaId": "PayAsYouGo_2014-09-01", "spendingLimit": "Off"},
		}
	}
	segments := strings.Split(strings.Trim(r.URL.Path, "/"), "/")
	if len(segments) == 1 {
		list := []any{}
		for _, one := range visible {
			list = append(list, one)
		}
		writeJSON(w, http.StatusOK, map[string]any{"value": list, "count": map[string]any{"type": "Total", "value": len(list)}})
		return nil
	}
	one, ok := visible[strings.ToLower(segments[1])]
	if !ok {
		return &apiError{Status: http.StatusNotFound, Code: "SubscriptionNotFound", Message: fmt.Sprintf("The subscription '%s' could not be found.", segments[1])}
	}
	writeJSON(w, http.StatusOK, one)
	return nil
}
