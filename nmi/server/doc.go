// Package server is the HTTP surface of NMI: the instance metadata service as a
// pod sees it.
//
// A request is classified by its path (route.go) and its caller found by source
// address (caller.go). For a token, the pod's right to an identity is decided now
// (choose.go, pure), waiting for MIC if need be (wait.go), and only then a token
// source is asked. Everything else goes to the real service (proxy.go). Errors
// are values of type apiError and become a response in one place (respond.go), in
// the real service's shape: JSON with error and error_description, without which
// credential chains of SDKs silently go on to another credential.
package server
