package server

import (
	"errors"
	"net/http"
	"strings"
	"testing"

	v1 "github.com/aad-pod-identity/aad-pod-identity/api/v1"
)

func TestParseQuery(t *testing.T) {
	type want struct{ resource, client, resourceID, objectID, err string }
	tests := map[string]want{
		"resource=r": {resource: "r"},
		"api-version=2018-02-01&resource=r&x=%zz": {resource: "r"},
		"resource=https%3A%2F%2Fvault.azure.net":  {resource: "https://vault.azure.net"},
		"resource=https://vault.azure.net/":       {resource: "https://vault.azure.net/"},
		"resource=r&client_id=c":                  {resource: "r", client: "c"},
		"resource=r&CLIENT_ID=c":                  {resource: "r", client: "c"},
		"resource=r&client%5Fid=c":                {resource: "r", client: "c"},
		"resource=r&msi_res_id=%2Fa":              {resource: "r", resourceID: "/a"},
		"resource=r&mi_res_id=/a":                 {resource: "r", resourceID: "/a"},
		"resource=r&mi_res_id=/a&msi_res_id=/a":   {resource: "r", resourceID: "/a"},
		"resource=r&object_id=o":                  {resource: "r", objectID: "o"},
		"resource=r&client_id=&object_id=":        {resource: "r"},
		"resource=r&client_id=c&client_id=c":      {resource: "r", client: "c"},
		"resource=r&client_id=&client_id=c":       {resource: "r", client: "c"},
		"resource=r&resource=r":                   {resource: "r"},
		"Resource=r":                              {resource: "r"},
		"":                                        {err: "resource cannot be empty"},
		"resource=":                               {err: "resource cannot be empty"},
		"client_id=c":                             {err: "resource cannot be empty"},
		"resource=r;client_id=c":                  {resource: "r;client_id=c"},
		"resource=r&client_id=%zz":                {err: "client_id cannot be read"},
		"resource=%zz":                            {err: "resource cannot be read"},
		"resource=r&client_id=c&client_id=d":      {err: "client_id is there twice"},
		"resource=r&client_id=c&Client_Id=d":      {err: "client_id is there twice"},
		"resource=r&resource=s":                   {err: "resource is there twice"},
		"resource=r&mi_res_id=/a&msi_res_id=/b":   {err: "msi_res_id is there twice"},
		"resource=r&client_id=c&object_id=o":      {err: "only one of"},
		"resource=r&client_id=c&mi_res_id=/a":     {err: "only one of"},
	}
	for raw, w := range tests {
		t.Run(raw, func(t *testing.T) {
			got, err := parseQuery(raw)
			if w.err != "" {
				var e *apiError
				if !errors.As(err, &e) || e.status != http.StatusBadRequest || e.code != "invalid_request" || !strings.Contains(e.description, w.err) {
					t.Errorf("error %v", err)
				}
				return
			}
			if err != nil || (want{got.resource, got.selector.clientID, got.selector.resourceID, got.selector.objectID, ""}) != w {
				t.Errorf("%+v, %v", got, err)
			}
		})
	}
}

// TestMethods: the real service gives tokens by GET alone.
func TestMethods(t *testing.T) {
	w := newWorld(t, nil)
	w.assign("web", w.demo, v1.AssignedIDAssigned)
	for _, method := range []string{http.MethodPost, http.MethodHead, http.MethodPut, http.MethodDelete} {
		req, err := http.NewRequestWithContext(t.Context(), method, "http://169.254.169.254"+tokenURL, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Metadata", "true")
		resp, err := w.client(webIP).Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusMethodNotAllowed || resp.Header.Get("Allow") != http.MethodGet || !strings.HasPrefix(resp.Header.Get("Content-Type"), "application/json") {
			t.Errorf("%s: status %d, %v", method, resp.StatusCode, resp.Header)
		}
	}
	if n := w.tokenCalls(); n != 0 {
		t.Errorf("IMDS was asked %d times", n)
	}
}
