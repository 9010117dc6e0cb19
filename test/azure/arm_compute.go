package azure

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/google/uuid"
)

// find authorises the caller and looks the resource up, in ARM's order: throttling, permission, group, resource.
func (e *Emulator) find(w http.ResponseWriter, r armRequest, action string) (*Compute, *apiError) {
	id := r.ref.id()
	if err := e.throttle(w.Header(), r.who, r.ref.subscription, id, r.Method != http.MethodGet); err != nil {
		return nil, err
	}
	if !e.reg.allowed(r.who.objectID, action, id) {
		return nil, &apiError{
			Status: http.StatusForbidden, Code: "AuthorizationFailed",
			Message: fmt.Sprintf("The client '%s' with object id '%s' does not have authorization to perform action '%s' over scope '%s' or the scope is invalid. If access was recently granted, please refresh your credentials.", r.who.clientID, r.who.objectID, action, id),
		}
	}
	if _, ok := e.reg.groups[groupKey(r.ref.subscription, r.ref.group)]; !ok {
		return nil, &apiError{Status: http.StatusNotFound, Code: "ResourceGroupNotFound", Message: fmt.Sprintf("Resource group '%s' could not be found.", r.ref.group)}
	}
	c, ok := e.reg.compute[key(id)]
	if !ok {
		return nil, &apiError{
			Status: http.StatusNotFound, Code: "ResourceNotFound",
			Message: fmt.Sprintf("The Resource '%s/%s' under resource group '%s' was not found. For more details please go to https://aka.ms/ARMResourceNotFoundFix", r.ref.resourceType(), r.ref.name, r.ref.group),
		}
	}
	return c, nil
}

func (e *Emulator) answerGet(w http.ResponseWriter, r armRequest) *apiError {
	action := actionVMRead
	if r.operation == OpVMSSGet {
		action = actionVMSSRead
	}
	c, err := e.find(w, r, action)
	if err != nil {
		return err
	}
	w.Header().Set("ETag", c.etag())
	writeJSON(w, http.StatusOK, e.computeBody(*c, r.settings.IDStyle))
	return nil
}

func (e *Emulator) answerPatch(w http.ResponseWriter, r armRequest) *apiError {
	action, duration := actionVMWrite, time.Duration(r.settings.VMOperation)
	if r.operation == OpVMSSUpdate {
		action, duration = actionVMSSWrite, time.Duration(r.settings.VMSSOperation)
	}
	c, apiErr := e.find(w, r, action)
	if apiErr != nil {
		return apiErr
	}
	var patch struct {
		Identity *identityPatch    `json:"identity"`
		Tags     map[string]string `json:"tags"`
	}
	if err := json.Unmarshal(r.body, &patch); err != nil {
		return badRequest("InvalidRequestContent", fmt.Sprintf("The request content was invalid and could not be deserialized: '%s'.", err))
	}
	if match := r.Header.Get("If-Match"); match != "" && match != "*" && match != c.etag() {
		return &apiError{Status: http.StatusPreconditionFailed, Code: "ConditionNotMet", Message: fmt.Sprintf("The condition '%s' in the If-Match header was not satisfied: the current etag is '%s'.", match, c.etag())}
	}
	if r.Header.Get("If-None-Match") == "*" {
		return &apiError{Status: http.StatusPreconditionFailed, Code: "ConditionNotMet", Message: "The condition '*' in the If-None-Match header was not satisfied: the resource exists."}
	}
	if c.ProvisioningState == stateDeleting {
		return &apiError{
			Status: http.StatusConflict, Code: "OperationNotAllowed",
			Message: fmt.Sprintf("Operation 'Update' is not allowed on '%s' since it is marked for deletion. You can only retry the Delete operation (or wait for an ongoing one to complete).", r.ref.name),
		}
	}
	next := c.clone()
	if patch.Tags != nil {
		next.Tags = patch.Tags
	}
	if patch.Identity != nil {
		if apiErr = patch.Identity.validate(); apiErr != nil {
			return apiErr
		}
		if apiErr = e.checkLinked(r, *patch.Identity, action); apiErr != nil {
			return apiErr
		}
	}
	if running := e.reg.running(c.ID); running != nil {
		return &apiError{
			Status: http.StatusConflict, Code: "OperationNotAllowed",
			Message: fmt.Sprintf("Operation 'Update' is not allowed on '%s' while operation '%s' is in progress.", r.ref.name, running.ID),
		}
	}
	if patch.Identity != nil {
		next, apiErr = patch.Identity.merge(next, func(id string) (Identity, bool) {
			i, ok := e.reg.identities[key(id)]
			if !ok {
				return Identity{}, false
			}
			return *i, true
		})
		if apiErr != nil {
			return apiErr
		}
	}
	e.accept(w, r, c, next, duration)
	return nil
}

// checkLinked demands the right to assign every identity that the patch names with {}. A role on an identity goes
// with it, so a deleted identity ends here too unless the role is on its group: hence "or … are invalid".
func (e *Emulator) checkLinked(r armRequest, patch identityPatch, action string) *apiError {
	var denied []string
	for _, id := range patch.added() {
		if !e.reg.allowed(r.who.objectID, actionIdentityAssign, id) {
			denied = append(denied, id)
		}
	}
	if len(denied) == 0 {
		return nil
	}
	return &apiError{
		Status: http.StatusForbidden, Code: "LinkedAuthorizationFailed",
		Message: fmt.Sprintf("The client '%s' with object id '%s' has permission to perform action '%s' on scope '%s'; however, it does not have permission to perform action '%s' on the linked scope(s) '%s' or the linked scope(s) are invalid.",
			r.who.clientID, r.who.objectID, action, r.ref.id(), actionIdentityAssign, strings.Join(denied, ",")),
	}
}

// accept starts the operation and answers with the resource as it will be.
func (e *Emulator) accept(w http.ResponseWriter, r armRequest, c *Compute, next Compute, duration time.Duration) {
	now := time.Now()
	op := &Operation{ID: uuid.NewString(), Resource: c.ID, Status: statusInProgress, StartTime: now, EndTime: now.Add(duration), Result: next, ETagMoves: r.settings.ETagMoves}
	if r.hit != nil && r.hit.Async {
		op.Failure = &Failure{Code: r.hit.Code, Message: r.hit.Message}
	}
	c.ProvisioningState = stateUpdating
	c.Version++
	e.reg.forget(now.Add(-time.Hour))
	e.reg.operations[op.ID] = op
	e.save()

	next.ProvisioningState, next.Version = c.ProvisioningState, c.Version
	poll := e.requestBase(r.Request) + "/subscriptions/" + r.ref.subscription + "/providers/Microsoft.Compute/locations/" + c.Location + "/operations/" + op.ID + "?api-version=" + r.URL.Query().Get("api-version")
	w.Header().Set("Azure-AsyncOperation", poll)
	w.Header().Set("Location", poll+"&monitor=true")
	setPollHeaders(w.Header(), r.settings.pollAfter(duration))
	if r.settings.PatchWithoutBody {
		w.WriteHeader(r.settings.patchStatus())
		return
	}
	w.Header().Set("ETag", next.etag())
	writeJSON(w, r.settings.patchStatus(), e.computeBody(next, r.settings.IDStyle))
}

// answerOperation serves both URLs of an operation: its status, and with monitor=true its result.
func (e *Emulator) answerOperation(w http.ResponseWriter, r armRequest) *apiError {
	segments := strings.Split(strings.Trim(r.URL.Path, "/"), "/")
	if err := e.throttle(w.Header(), r.who, segments[1], "", false); err != nil {
		return err
	}
	op, ok := e.reg.operations[segments[7]]
	if !ok {
		return &apiError{Status: http.StatusNotFound, Code: "OperationNotFound", Message: fmt.Sprintf("The operation '%s' could not be found.", segments[7])}
	}
	if op.Status == statusInProgress {
		setPollHeaders(w.Header(), r.settings.pollAfter(time.Until(op.EndTime)))
	}
	if r.URL.Query().Get("monitor") == "true" {
		return e.answerMonitor(w, r, op)
	}
	body := map[string]any{"name": op.ID, "status": op.Status, "startTime": op.StartTime.UTC().Format(time.RFC3339Nano)}
	if op.Status != statusInProgress {
		body["endTime"] = op.EndTime.UTC().Format(time.RFC3339Nano)
	}
	if op.Failure != nil && op.Status == stateFailed {
		body["error"] = op.Failure
	}
	writeJSON(w, http.StatusOK, body)
	return nil
}

func (e *Emulator) answerMonitor(w http.ResponseWriter, r armRequest, op *Operation) *apiError {
	switch op.Status {
	case statusInProgress:
		w.Header().Set("Location", e.requestBase(r.Request)+r.URL.RequestURI())
		w.WriteHeader(http.StatusAccepted)
		return nil
	case stateFailed:
		return &apiError{Status: http.StatusConflict, Code: op.Failure.Code, Message: op.Failure.Message}
	}
	c, ok := e.reg.compute[key(op.Resource)]
	if !ok {
		return &apiError{Status: http.StatusNotFound, Code: "ResourceNotFound", Message: fmt.Sprintf("The Resource '%s' was not found.", op.Resource)}
	}
	writeJSON(w, http.StatusOK, e.computeBody(*c, r.settings.IDStyle))
	return nil
}

// computeBody is the resource as ARM shows it.
func (e *Emulator) computeBody(c Compute, style IDStyle) map[string]any {
	ref, err := parseResource(c.ID)
	if err != nil {
		return nil // stored IDs were parsed before
	}
	properties := map[string]any{"provisioningState": c.ProvisioningState}
	body := map[string]any{
		"id": style.apply(c.ID), "name": ref.name, "type": ref.resourceType(), "location": c.Location, "etag": c.etag(), "properties": properties,
	}
	if len(c.Tags) > 0 {
		body["tags"] = c.Tags
	}
	if ref.resourceType() == typeVMSS {
		properties["uniqueId"] = c.UniqueID
		properties["orchestrationMode"] = "Uniform"
		properties["upgradePolicy"] = map[string]any{"mode": "Manual"}
	} else {
		properties["vmId"] = c.UniqueID
	}
	if identity := e.reg.identityBody(c, e.tenant, style); identity != nil {
		body["identity"] = identity
	}
	return body
}
