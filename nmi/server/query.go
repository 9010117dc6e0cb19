package server

import (
	"net/http"
	"net/url"
)

// tokenQuery is what a token request asks for.
type tokenQuery struct {
	resource string
	selector selector
}

// selector narrows the identities of a pod; empty fields select all.
type selector struct{ clientID, resourceID string }

func (s selector) empty() bool { return s == selector{} }

// parseQuery reads the parameters of a token request. Of a repeated parameter the
// first value counts; api-version is not checked, as the 1.8 releases did not.
func parseQuery(raw string) (tokenQuery, error) {
	// Pairs that do not parse are left out: a broken one that matters is missing then.
	q, _ := url.ParseQuery(raw)
	t := tokenQuery{
		resource: q.Get("resource"),
		selector: selector{clientID: q.Get("client_id"), resourceID: q.Get("msi_res_id")},
	}
	if t.selector.resourceID == "" {
		t.selector.resourceID = q.Get("mi_res_id")
	}
	switch {
	case t.resource == "":
		return tokenQuery{}, invalidRequest("parameter resource cannot be empty")
	case q.Get("object_id") != "":
		// Left out, the pod would get a token of an identity it did not mean.
		return tokenQuery{}, invalidRequest("object_id does not name an AzureIdentity; select it by client_id or msi_res_id")
	}
	return t, nil
}

// requireMetadata checks the header that keeps requests forged through a pod's
// URL parameters from getting a token.
func requireMetadata(h http.Header) error {
	if h.Get("Metadata") != "true" {
		return invalidRequest("Required metadata header not specified")
	}
	return nil
}
