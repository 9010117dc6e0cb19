package azure

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"strings"
	"time"

	"crypto/rsa"

	"github.com/golang-jwt/jwt/v5"
	"github.com/google/uuid"
)

// armAudiences are what ARM takes as the audience of a token, beside its own URL. A trailing slash makes no difference to ARM.
var armAudiences = []string{
	"https://management.azure.com", "https://management.core.windows.net",
	"https://management.usgovcloudapi.net", "https://management.core.usgovcloudapi.net",
	"https://management.chinacloudapi.cn", "https://management.core.chinacloudapi.cn",
}

// DefaultAudience is the token audience of the environment file. Its trailing slash is Azure's.
const DefaultAudience = "https://management.core.windows.net/"

// subject is whom a token is for.
type subject struct {
	tenant, clientID, objectID string
	// mirid is the resource ID of a managed identity, or of the VM for a system-assigned one.
	mirid string
}

type issued struct {
	token                string
	notBefore, expiresOn time.Time
}

// issue signs a version 1.0 access token, the version that ARM and most resources ask for.
func (k *keys) issue(base string, s subject, audience string, lifetime time.Duration) (issued, error) {
	now := time.Now()
	// Entra backdates by five minutes, for clients whose clock is behind.
	t := issued{notBefore: now.Add(-5 * time.Minute), expiresOn: now.Add(lifetime)}
	claims := jwt.MapClaims{
		"aud": audience, "iss": base + "/" + s.tenant + "/", "idp": base + "/" + s.tenant + "/",
		"iat": t.notBefore.Unix(), "nbf": t.notBefore.Unix(), "exp": t.expiresOn.Unix(),
		"appid": s.clientID, "oid": s.objectID, "sub": s.objectID, "tid": s.tenant,
		"idtyp": "app", "appidacr": "1", "ver": "1.0", "uti": uuid.NewString(),
	}
	if s.mirid != "" {
		claims["xms_mirid"], claims["appidacr"] = s.mirid, "2"
	}
	token := jwt.NewWithClaims(jwt.SigningMethodRS256, claims)
	token.Header["kid"], token.Header["x5t"] = k.kid, k.kid
	var err error
	if t.token, err = token.SignedString(k.signing); err != nil {
		return issued{}, fmt.Errorf("signing a token: %w", err)
	}
	return t, nil
}

// jwks is the key set of the tenant's discovery document.
func (k *keys) jwks() map[string]any {
	return map[string]any{"keys": []any{map[string]any{
		"kty": "RSA", "use": "sig", "alg": "RS256", "kid": k.kid, "x5t": k.kid,
		"n": base64.RawURLEncoding.EncodeToString(k.signing.N.Bytes()),
		"e": base64.RawURLEncoding.EncodeToString(big.NewInt(int64(k.signing.E)).Bytes()),
	}}}
}

// caller is the principal of a validated bearer token.
type caller struct{ objectID, clientID, tenant string }

// errAudience marks a good token that is meant for someone else.
var errAudience = errors.New("wrong audience")

// validate checks a bearer token as ARM does: our signature, our issuer, in time, meant for ARM.
func (k *keys) validate(base, token string) (caller, error) {
	claims := jwt.MapClaims{}
	_, err := jwt.ParseWithClaims(token, claims,
		func(*jwt.Token) (any, error) { return k.signing.Public(), nil },
		jwt.WithValidMethods([]string{"RS256"}), jwt.WithExpirationRequired())
	if err != nil {
		return caller{}, err
	}
	text := func(name string) string { s, _ := claims[name].(string); return s }
	c := caller{objectID: text("oid"), clientID: text("appid"), tenant: text("tid")}
	if text("iss") != base+"/"+c.tenant+"/" {
		return caller{}, fmt.Errorf("the access token is from the wrong issuer '%s'", text("iss"))
	}
	audience := strings.TrimRight(text("aud"), "/")
	if audience != base && !slices.Contains(armAudiences, audience) {
		return caller{}, fmt.Errorf("%w: %s", errAudience, text("aud"))
	}
	return c, nil
}

// parseJWKS reads the RSA keys of a key set, by key ID.
func parseJWKS(data json.RawMessage) (map[string]*rsa.PublicKey, error) {
	var set struct {
		Keys []struct{ Kty, Kid, N, E string } `json:"keys"`
	}
	if err := json.Unmarshal(data, &set); err != nil {
		return nil, fmt.Errorf("jwks: %w", err)
	}
	found := map[string]*rsa.PublicKey{}
	for _, k := range set.Keys {
		if k.Kty != "RSA" {
			continue
		}
		n, err := base64.RawURLEncoding.DecodeString(k.N)
		if err != nil {
			return nil, fmt.Errorf("jwks: modulus of %q: %w", k.Kid, err)
		}
		e, err := base64.RawURLEncoding.DecodeString(k.E)
		if err != nil || len(e) == 0 || len(e) > 4 {
			return nil, fmt.Errorf("jwks: bad exponent of %q", k.Kid)
		}
		found[k.Kid] = &rsa.PublicKey{N: new(big.Int).SetBytes(n), E: int(new(big.Int).SetBytes(e).Int64())}
	}
	if len(found) == 0 {
		return nil, errors.New("jwks: no RSA key, and Entra takes no other")
	}
	return found, nil
}
