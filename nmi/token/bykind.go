package token

import "context"

// ByKind asks the source that knows the kind of identity.
type ByKind struct {
	// Managed knows managed identities, Principals service principals.
	Managed, Principals Source
}

// Token implements Source.
func (b ByKind) Token(ctx context.Context, req Request) (Token, error) {
	if req.Principal.Credential != "" {
		return b.Principals.Token(ctx, req)
	}
	return b.Managed.Token(ctx, req)
}
