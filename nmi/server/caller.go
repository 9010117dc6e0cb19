package server

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/aad-pod-identity/aad-pod-identity/nmi/podindex"
)

// podWait is how long a caller that is not known yet is waited for: a container
// can ask before its pod's address has reached us through the API server.
const podWait = 1500 * time.Millisecond

// hostAddress is where processes of the node ask from.
var hostAddress = netip.AddrFrom4([4]byte{127, 0, 0, 1})

// source is the address a request came from; invalid if it cannot be read, which
// net/http does not let happen.
func source(r *http.Request) netip.Addr {
	if c := connOf(r.Context()); c != nil {
		return c.origin.address
	}
	ap, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return netip.Addr{}
	}
	return ap.Addr().Unmap()
}

// fromHost says whether a request came over the loopback interface, which only
// processes in the node's own network can. Both ends are checked: the kernel
// drops loopback sources from elsewhere, and this does not rely on it alone.
func fromHost(r *http.Request) bool {
	if source(r) != hostAddress {
		return false
	}
	local, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
	if !ok {
		return true // not served over a socket
	}
	ap, err := netip.ParseAddrPort(local.String())
	return err == nil && ap.Addr().Unmap().IsLoopback()
}

// caller finds the pod that sent a request. It must be the pod of the connection,
// too: an address can have changed hands since that was opened. And the connection
// must have come in from where that pod is.
func (s *Server) caller(r *http.Request) (podindex.View, error) {
	c := connOf(r.Context())
	var owner types.UID
	if c != nil {
		owner = c.owner()
	}
	v, err := s.find(r.Context(), func() (podindex.View, error) { return s.pods.ByConnection(source(r), owner) })
	if err != nil {
		return v, err
	}
	if c != nil {
		if !c.belongs(v.Pod.UID) {
			return podindex.View{}, foreignConnection()
		}
		if err := c.trusted(r.Context(), s.o.CheckSource); err != nil {
			return podindex.View{}, wrongSource(err)
		}
	}
	return v, nil
}

// named finds the pod that a process of the node asks for.
func (s *Server) named(ctx context.Context, pod types.NamespacedName) (podindex.View, error) {
	v, err := s.find(ctx, func() (podindex.View, error) { return s.pods.ByName(pod) })
	if errors.Is(err, podindex.ErrUnknown) {
		return v, &apiError{
			status: http.StatusNotFound, code: "unknown_pod",
			description: fmt.Sprintf("no pod %s runs on this node", pod), cause: err,
		}
	}
	return v, err
}

// find looks for a pod, one that is not known yet for a short time or until the client
// leaves.
func (s *Server) find(ctx context.Context, look func() (podindex.View, error)) (podindex.View, error) {
	if v, err := look(); err == nil {
		return v, nil // nearly always
	}
	if s.o.Tracer != nil {
		defer s.spanSince(ctx, spanUnknown, time.Now())
	}
	short, cancel := context.WithTimeout(ctx, podWait)
	defer cancel()
	v, err := s.pods.Wait(short, look)
	if err != nil && ctx.Err() != nil {
		return podindex.View{}, ctx.Err()
	}
	return v, err
}

// bypassed says whether the pod's requests go to the node's own managed identity:
// an exception matches it, or it is MIC, which needs that identity to assign the
// others.
func (s *Server) bypassed(v podindex.View) bool {
	return v.Exception != nil ||
		s.o.MICServiceAccount != "" && v.Pod.Namespace == s.o.MICNamespace && v.Pod.ServiceAccount == s.o.MICServiceAccount
}
