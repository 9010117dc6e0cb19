// Package token gets tokens of managed identities. A Source gives the token for
// a request; sources are stacked: the cache asks the metered source, which asks
// IMDS.
//
// No source knows which pod asks. Whoever calls one has checked, for this very
// request, that the caller may use the identity: a token in the cache is not a
// right to it.
package token
