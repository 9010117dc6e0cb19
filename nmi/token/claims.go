package token

import (
	"encoding/base64"
	"encoding/json"
	"strings"
)

// claims are what NMI reads of an access token. Nothing is decided by them that a
// pod could gain by: a token comes straight from IMDS or Azure AD, and they are
// looked at to describe it.
type claims struct {
	ObjectID  string `json:"oid"`
	NotBefore int64  `json:"nbf"`
}

// readClaims reads a token's claims. Tokens are for the resource to read and may
// be opaque to everybody else: the claims are empty then.
func readClaims(accessToken string) claims {
	var c claims
	_, rest, _ := strings.Cut(accessToken, ".")
	payload, _, ok := strings.Cut(rest, ".")
	if !ok {
		return c
	}
	data, err := base64.RawURLEncoding.DecodeString(payload)
	if err != nil || json.Unmarshal(data, &c) != nil {
		return claims{}
	}
	return c
}
