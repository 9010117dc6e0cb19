package azure

import (
	"fmt"
	"net/http"
	"strings"
)

// writeInstanceError answers in the shape of IMDS's other endpoints.
func writeInstanceError(w http.ResponseWriter, status int, message string) {
	noteError(w, http.StatusText(status))
	writeJSON(w, status, map[string]any{"error": message})
}

// answerInstance serves /metadata/instance: the whole document, a part of it, or one value as text.
func (n *node) answerInstance(w http.ResponseWriter, r *http.Request, path string) {
	switch {
	case !strings.EqualFold(r.Header.Get("Metadata"), "true"):
		writeInstanceError(w, http.StatusBadRequest, "Bad request. Required metadata header not specified")
		return
	case r.Header.Get("X-Forwarded-For") != "":
		writeInstanceError(w, http.StatusBadRequest, "Bad request. Requests that contain an X-Forwarded-For header are rejected")
		return
	case r.URL.Query().Get("api-version") == "":
		writeJSON(w, http.StatusBadRequest, map[string]any{
			"error": "Bad request. api-version was not specified in the request", "newest-versions": []string{"2025-04-07", "2023-11-15", "2021-02-01"},
		})
		return
	}
	var value any = n.document()
	for _, segment := range strings.FieldsFunc(path, func(r rune) bool { return r == '/' }) {
		object, ok := value.(map[string]any)
		if ok {
			value, ok = object[segment]
		}
		if !ok {
			writeInstanceError(w, http.StatusNotFound, "Not found")
			return
		}
	}
	if _, object := value.(map[string]any); object || r.URL.Query().Get("format") == "json" {
		writeJSON(w, http.StatusOK, value)
		return
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	_, _ = fmt.Fprint(w, value) // the client may be gone
}

func (n *node) document() map[string]any {
	e := n.emulator
	e.mu.Lock()
	defer e.mu.Unlock()
	location, unique := "westeurope", ""
	tags := ""
	if c, ok := e.reg.compute[key(n.owner)]; ok {
		location, unique = c.Location, c.UniqueID
		pairs := make([]string, 0, len(c.Tags))
		for k, v := range c.Tags {
			pairs = append(pairs, k+":"+v)
		}
		tags = strings.Join(pairs, ";")
	}
	name, scaleSet := n.ref.name, ""
	if len(n.ref.child) == 2 {
		scaleSet = n.ref.name
		name = scaleSet + "_" + n.ref.child[1]
	}
	return map[string]any{
		"compute": map[string]any{
			"azEnvironment": "AzureStackCloud", "location": location, "name": name, "osType": "Linux", "provider": "Microsoft.Compute",
			"resourceGroupName": n.ref.group, "resourceId": n.id, "subscriptionId": n.ref.subscription, "tags": tags, "vmId": unique,
			"vmScaleSetName": scaleSet, "vmSize": "Standard_D2s_v5", "zone": "", "sku": "", "version": "", "offer": "", "publisher": "",
		},
		"network": map[string]any{"interface": []any{}},
	}
}
