package server

import (
	"net/http"
	"regexp"
	"strconv"
	"strings"
)

// route is what a path asks for.
type route int

const (
	routeProxy    route = iota // the real service's business
	routeToken                 // a token for the calling pod
	routeHost                  // a token for a pod named by a process of the node
	routeInstance              // instance metadata
	routeIdentity              // what else the service has about the node's identities
	routeSelfTest              // the node's self-test
	routeInvalid               // looks like a token request and is none
)

// The paths also name the routes in metrics.
const (
	tokenPath    = "/metadata/identity/oauth2/token"
	hostPath     = "/host/token"
	instancePath = "/metadata/instance"
	identityPath = "/metadata/identity"
	infoPath     = "/metadata/identity/info"
	otherPath    = "other"
)

func (r route) String() string {
	switch r {
	case routeToken:
		return tokenPath
	case routeHost:
		return hostPath
	case routeInstance:
		return instancePath
	case routeIdentity:
		return identityPath
	case routeSelfTest:
		return SelfTestPath
	case routeInvalid:
		return "invalid"
	default:
		return otherPath
	}
}

// forToken says whether the answer is a token.
func (r route) forToken() bool { return r == routeToken || r == routeHost }

// tokenLike matches a path that another server might take for the token path,
// after normalise: passed on, it could get the node's own tokens.
var tokenLike = regexp.MustCompile(`identity.*oauth2.*token`)

// identityLike matches, after normalise, whatever another server might take for a
// path below /metadata/identity.
var identityLike = regexp.MustCompile(`metadata.*identity`)

// ordinary says whether a request's path is all that it asks for. A target such as
// "http:http://host/path" has no path but an opaque part, which would be passed on
// as it is and understood by the real service; CONNECT names a host.
func ordinary(r *http.Request) bool {
	return r.Method != http.MethodConnect && r.URL.Opaque == "" && (r.URL.Path == "" || r.URL.Path[0] == '/')
}

// classify decides by the decoded path of a request. Only "metadata" is matched
// in any case, and all paths are prefixes, so a trailing slash does no harm.
func classify(path string) route {
	if first, rest, ok := strings.Cut(strings.TrimPrefix(path, "/"), "/"); ok && strings.EqualFold(first, "metadata") && strings.HasPrefix(path, "/") {
		path = "/metadata/" + rest
	}
	switch {
	case strings.HasPrefix(path, tokenPath):
		return routeToken
	case tokenLike.MatchString(normalise(path)), !plain(normalise(path)):
		return routeInvalid
	case strings.HasPrefix(path, hostPath):
		return routeHost
	case identityLike.MatchString(normalise(path)) && strings.TrimSuffix(path, "/") != infoPath:
		return routeIdentity
	case instance(path):
		return routeInstance
	default:
		return routeProxy
	}
}

// instance says whether the path is below /metadata/instance, also when it is
// written in a way that the real service may still understand, since blocking is
// for keeping pods away from it.
func instance(path string) bool {
	segments := strings.FieldsFunc(normalise(path), func(r rune) bool { return r == '/' || r == '\\' })
	kept := segments[:0]
	for _, s := range segments {
		switch {
		case s == ".":
		case s == ".." && len(kept) > 0:
			kept = kept[:len(kept)-1]
		case s == "..":
		default:
			kept = append(kept, s)
		}
	}
	return len(kept) > 1 && kept[0] == "metadata" && strings.HasPrefix(kept[1], "instance")
}

// escape is one percent-encoded byte. Each is decoded by itself: a broken one must
// not keep the others from being seen.
var escape = regexp.MustCompile(`%[0-9A-Fa-f]{2}`)

// plain says whether a path, after normalise, has only what the paths of the real
// service have. Anything else could become a letter there by a decoding that is
// not known here, such as of overlong or full-width characters.
func plain(path string) bool {
	return strings.IndexFunc(path, func(r rune) bool { return r <= ' ' || r > '~' || r == '%' }) < 0
}

// normalise undoes what lenient servers undo: percent-encoding, also repeated,
// and case. Line breaks become spaces so that the pattern sees one line.
func normalise(path string) string {
	const layers = 4
	for range layers {
		decoded := escape.ReplaceAllStringFunc(path, func(e string) string {
			b, _ := strconv.ParseUint(e[1:], 16, 8) // two hexadecimal digits
			return string([]byte{byte(b)})
		})
		if decoded == path {
			break
		}
		path = decoded
	}
	return strings.Map(func(r rune) rune {
		if r < ' ' {
			return ' '
		}
		return r
	}, strings.ToLower(path))
}
