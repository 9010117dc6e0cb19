package server

import (
	"context"
	"errors"
	"io"
	"log"
	"net/http"
	"net/http/httputil"
	"net/url"
	"time"

	"github.com/aad-pod-identity/aad-pod-identity/nmi/token"
)

const (
	// proxyTimeout bounds one passed-on request; the first call of scheduled
	// events takes the service up to two minutes.
	proxyTimeout = 3 * time.Minute
	// maxBody bounds, in bytes, the body of a request.
	maxBody = 1 << 20
	// passing is how many requests are with the service at a time, and
	// passingEach how many of one pod. Excepted pods have as many places of their own.
	passing, passingEach = 32, 8
	// asking is the same of requests about the node's identities by other pods, which
	// wait long when there are many.
	asking, askingEach = 4, 1
)

// newProxy passes requests on to the real service as they are: same path, query,
// body and headers but for those of the connection.
func newProxy(endpoint *url.URL, transport http.RoundTripper) *httputil.ReverseProxy {
	return &httputil.ReverseProxy{
		Rewrite: func(p *httputil.ProxyRequest) {
			p.Out.URL.Scheme, p.Out.URL.Host = endpoint.Scheme, endpoint.Host
			p.Out.URL.Opaque = "" // would take the place of the path that was judged
			p.Out.Host = endpoint.Host
			p.Out.URL.RawQuery = p.In.URL.RawQuery
			// After a switch of protocols nobody would judge what the pod asks for.
			p.Out.Header.Del("Upgrade")
			p.Out.Header.Del("Connection")
			if p.Out.Body == nil {
				p.Out.Header.Del("Expect") // a body, which was not passed on
			}
			// ReverseProxy drops these. The service refuses requests that carry
			// them, which protects pods that are proxies themselves.
			for _, h := range []string{"Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto"} {
				if v, ok := p.In.Header[h]; ok {
					p.Out.Header[h] = v
				}
			}
		},
		Transport:    transport,
		ErrorLog:     log.New(io.Discard, "", 0), // the error handler answers, the observer logs
		ErrorHandler: proxyError,
	}
}

func proxyError(w http.ResponseWriter, r *http.Request, err error) {
	var tooLong *http.MaxBytesError
	switch {
	case errors.As(err, &tooLong):
		err = bodyTooLong()
	case errors.Is(err, context.Canceled): // the client left
	default:
		err = &apiError{
			status: http.StatusServiceUnavailable, code: "temporarily_unavailable",
			description: "the instance metadata service cannot be reached", cause: err,
		}
	}
	if n := noteOf(r.Context()); n != nil {
		n.err = err
	}
	respondError(w, err)
}

// proxy passes a request on, when it is the pod's turn.
func (s *Server) proxy(w http.ResponseWriter, r *http.Request) error {
	rationed := token.Rationed(r.URL.Path)
	if rationed && r.Method == http.MethodGet {
		// Few go at a time, which must not wait for a body that is of no use.
		if err := dropBody(w, r); err != nil {
			return err
		}
	}
	ctx, cancel := context.WithTimeout(r.Context(), proxyTimeout)
	defer cancel()
	gate, from := s.passing, source(r)
	switch {
	case token.Excepted(ctx):
		gate = s.excepted
	case rationed:
		gate = s.asking
	}
	if err := gate.enter(ctx, from); err != nil {
		if r.Context().Err() != nil {
			return r.Context().Err()
		}
		return &apiError{
			status: http.StatusServiceUnavailable, code: "temporarily_unavailable",
			description: "the instance metadata service has not answered earlier requests", retryAfter: time.Second, cause: err,
		}
	}
	defer gate.leave(from)
	r = r.WithContext(ctx)
	r.Body = http.MaxBytesReader(w, r.Body, maxBody)
	if s.o.Tracer != nil {
		defer s.spanSince(ctx, spanPassing, time.Now())
	}
	s.forward.ServeHTTP(w, r)
	return nil
}

// proxyExcepted passes an excepted pod's request on, which waits for no other pod's.
func (s *Server) proxyExcepted(w http.ResponseWriter, r *http.Request) error {
	return s.proxy(w, r.WithContext(token.WithException(r.Context())))
}

// serveProxy passes a pod's request on. Whoever is not a pod of this node has no
// business here: processes of the node reach the service directly, and NMI must
// not lend the node's metadata to the network.
func (s *Server) serveProxy(w http.ResponseWriter, r *http.Request, note *note) error {
	if s.o.MetadataHeaderRequired {
		if err := requireMetadata(r.Header); err != nil {
			return err
		}
	}
	v, err := s.caller(r)
	if err != nil {
		return err
	}
	note.pod = v.Pod
	if s.bypassed(v) {
		return s.proxyExcepted(w, r)
	}
	return s.proxy(w, r)
}

// serveInstance passes a request for instance metadata on, or blocks it.
func (s *Server) serveInstance(w http.ResponseWriter, r *http.Request, note *note) error {
	if s.o.BlockInstanceMetadata {
		return forbidden("Request blocked by AAD Pod Identity NMI")
	}
	return s.serveProxy(w, r, note)
}

// serveIdentity refuses what is below /metadata/identity besides tokens and info.
// By issuecredential the service gives out a certificate that gets tokens of any
// identity of the node. Not found is what an older service says, and MSAL then
// goes on to ask for a token. It is said without the header Metadata, too: MSAL
// probes without it, and takes an answer of 400 for a service that has these paths.
// A pod that may use the node's identities may this way too.
func (s *Server) serveIdentity(w http.ResponseWriter, r *http.Request, note *note) error {
	v, err := s.caller(r)
	if err != nil {
		return err
	}
	note.pod = v.Pod
	if s.bypassed(v) {
		return s.proxyExcepted(w, r)
	}
	return &apiError{status: http.StatusNotFound, code: "not_found", description: "of the node's identities, NMI serves tokens only"}
}
