package server

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"
)

// tokenQuery is what a token request asks for.
type tokenQuery struct {
	resource string
	selector selector
}

// Parameters of a token request. mi_res_id is another name of msi_res_id.
const (
	paramResource   = "resource"
	paramClientID   = "client_id"
	paramObjectID   = "object_id"
	paramResourceID = "msi_res_id"
	paramMIResource = "mi_res_id"
)

// parseQuery reads the parameters of a token request. Whatever a pod may have
// meant as a selector counts as one or is an error, for without a selector it would
// get a token of an identity that it did not mean: names are read in any case, a
// value that cannot be read is an error, and so are two different ones. The real
// service takes one selector, too. Other parameters are not looked at; the 1.8
// releases did not check api-version either.
func parseQuery(raw string) (tokenQuery, error) {
	values := map[string]string{}
	for pair := range strings.SplitSeq(raw, "&") {
		name, escaped, _ := strings.Cut(pair, "=")
		name, ok := parameter(name)
		if !ok {
			continue
		}
		value, err := url.QueryUnescape(escaped)
		if err != nil {
			return tokenQuery{}, invalidRequest(fmt.Sprintf("parameter %s cannot be read", name))
		}
		if value == "" {
			continue
		}
		if earlier, twice := values[name]; twice && earlier != value {
			return tokenQuery{}, invalidRequest(fmt.Sprintf("parameter %s is there twice, with different values", name))
		}
		values[name] = value
	}
	t := tokenQuery{
		resource: values[paramResource],
		selector: selector{clientID: values[paramClientID], objectID: values[paramObjectID], resourceID: values[paramResourceID]},
	}
	if t.resource == "" {
		return tokenQuery{}, invalidRequest("parameter resource cannot be empty")
	}
	if t.selector.several() {
		return tokenQuery{}, invalidRequest("only one of client_id, object_id and msi_res_id may be given")
	}
	return t, nil
}

// parameter returns the name of one of our parameters.
func parameter(escaped string) (string, bool) {
	name, err := url.QueryUnescape(escaped)
	if err != nil {
		return "", false
	}
	switch name = strings.ToLower(name); name {
	case paramMIResource:
		return paramResourceID, true
	case paramResource, paramClientID, paramObjectID, paramResourceID:
		return name, true
	}
	return "", false
}

// requireMetadata checks the header that keeps requests forged through a pod's
// URL parameters from getting a token.
func requireMetadata(h http.Header) error {
	if h.Get("Metadata") != "true" {
		return invalidRequest("Required metadata header not specified")
	}
	return nil
}
