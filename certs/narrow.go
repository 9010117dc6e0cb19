package certs

import (
	"net/http"
	"path"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/transport"
)

// narrowed returns a config whose clients list and watch nothing but one object of
// each resource in names. cert-controller would watch every Secret of the
// namespace, where other people's are; with a field selector for the name, one
// object is all that is asked for, and a role that names it suffices.
func narrowed(config *rest.Config, names map[string]string) *rest.Config {
	config = rest.CopyConfig(config)
	config.Wrap(transport.WrapperFunc(func(next http.RoundTripper) http.RoundTripper {
		return narrowing{next, names}
	}))
	return config
}

type narrowing struct {
	next  http.RoundTripper
	names map[string]string
}

// RoundTrip implements http.RoundTripper.
func (n narrowing) RoundTrip(r *http.Request) (*http.Response, error) {
	// Lists and watches end in the resource, requests for an object in its name.
	if name, ok := n.names[path.Base(r.URL.Path)]; ok && r.Method == http.MethodGet {
		r = r.Clone(r.Context())
		query := r.URL.Query()
		query.Set("fieldSelector", "metadata.name="+name)
		r.URL.RawQuery = query.Encode()
	}
	return n.next.RoundTrip(r)
}
