package azure

import (
	"crypto/sha1"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/golang-jwt/jwt/v5"
)

const assertionType = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"

// checkCredential checks the secret or assertion of a token request.
func (e *Emulator) checkCredential(c client, tenant string, form url.Values) *aadError {
	if assertion := form.Get("client_assertion"); assertion != "" {
		if given := form.Get("client_assertion_type"); given != assertionType {
			return &aadError{http.StatusUnauthorized, 7000215, "invalid_client", fmt.Sprintf("The client_assertion_type '%s' is not supported.", given)}
		}
		return e.checkAssertion(c, tenant, assertion)
	}
	secret := form.Get("client_secret")
	if secret == "" {
		return &aadError{http.StatusUnauthorized, 7000216, "invalid_client", "'client_assertion', 'client_secret' or 'request' is required for the 'client_credentials' grant type."}
	}
	for _, known := range c.Secrets {
		if subtle.ConstantTimeCompare([]byte(known), []byte(secret)) == 1 {
			return nil
		}
	}
	return &aadError{http.StatusUnauthorized, 7000215, "invalid_client", fmt.Sprintf("Invalid client secret provided. Ensure the secret being sent in the request is the client secret value, not the client secret ID, for a secret added to app '%s'.", c.ClientID)}
}

// checkAssertion tells the two kinds apart as AAD does: one that the client issued for itself is signed by its certificate, any other is federated.
func (e *Emulator) checkAssertion(c client, tenant, assertion string) *aadError {
	unverified := jwt.MapClaims{}
	token, _, err := jwt.NewParser().ParseUnverified(assertion, unverified)
	if err != nil {
		return &aadError{http.StatusUnauthorized, 50027, "invalid_client", "JWT token is invalid or malformed."}
	}
	issuer, subject := claim(unverified, "iss"), claim(unverified, "sub")
	if strings.EqualFold(issuer, c.ClientID) {
		return e.checkCertificate(c, tenant, assertion, token.Header)
	}
	return checkFederatedAssertion(c, assertion, issuer, subject)
}

func claim(claims jwt.MapClaims, name string) string {
	s, _ := claims[name].(string)
	return s
}

// checkCertificate validates an assertion signed by a registered certificate: RS256 named by x5t (SHA-1) or PS256 named by x5t#S256.
func (e *Emulator) checkCertificate(c client, tenant, assertion string, header map[string]any) *aadError {
	certificate, thumbprint := findCertificate(c.Certificates, header)
	if certificate == nil {
		return &aadError{http.StatusUnauthorized, 700027, "invalid_client", fmt.Sprintf("The certificate with identifier used to sign the client assertion is not registered on application. [Reason - The key was not found., Thumbprint of key used by client: '%s', Please visit the Azure Portal, Graph Explorer or directly use MS Graph to see configured keys for app Id '%s'.]", thumbprint, c.ClientID)}
	}
	claims := jwt.MapClaims{}
	_, err := jwt.ParseWithClaims(assertion, claims,
		func(*jwt.Token) (any, error) { return certificate.PublicKey, nil },
		jwt.WithValidMethods([]string{"RS256", "PS256"}), jwt.WithExpirationRequired())
	switch {
	case errors.Is(err, jwt.ErrTokenExpired), errors.Is(err, jwt.ErrTokenNotValidYet), errors.Is(err, jwt.ErrTokenRequiredClaimMissing):
		return &aadError{http.StatusUnauthorized, 700024, "invalid_client", "Client assertion is not within its valid time range. Please refer to the token's 'nbf' and 'exp' claims."}
	case err != nil:
		return &aadError{http.StatusUnauthorized, 700027, "invalid_client", "Client assertion failed signature validation. [Reason - The provided signature value did not match the expected signature value.]"}
	}
	if !strings.EqualFold(claim(claims, "sub"), c.ClientID) {
		return &aadError{http.StatusUnauthorized, 700021, "invalid_client", "Client assertion application identifier doesn't match 'client_id' parameter."}
	}
	if !slices.ContainsFunc(audiences(claims), func(aud string) bool { return assertionAudience(aud, tenant) }) {
		return &aadError{http.StatusUnauthorized, 700023, "invalid_client", "Client assertion audience claim does not match Realm issuer."}
	}
	return nil
}

func audiences(claims jwt.MapClaims) []string {
	list, err := claims.GetAudience()
	if err != nil {
		return nil
	}
	return list
}

// assertionAudience accepts the token endpoints and issuers of the tenant. The host is not compared: the client may reach the emulator by another of its names.
func assertionAudience(audience, tenant string) bool {
	u, err := url.Parse(audience)
	if err != nil || u.Host == "" {
		return false
	}
	first, rest, _ := strings.Cut(strings.Trim(u.Path, "/"), "/")
	return strings.EqualFold(first, tenant) && slices.Contains([]string{"", "v2.0", "oauth2/token", "oauth2/v2.0/token"}, strings.ToLower(rest))
}

// findCertificate returns the registered certificate that the assertion's header names, and the thumbprint that it named.
func findCertificate(registered []string, header map[string]any) (*x509.Certificate, string) {
	var wanted []byte
	for _, name := range []string{"x5t#S256", "x5t"} {
		text, ok := header[name].(string)
		if !ok {
			continue
		}
		// MSAL writes standard base64 here, RFC 7515 the URL alphabet.
		text = strings.NewReplacer("+", "-", "/", "_", "=", "").Replace(text)
		if decoded, err := base64.RawURLEncoding.DecodeString(text); err == nil {
			wanted = decoded
			break
		}
	}
	thumbprint := fmt.Sprintf("%X", wanted)
	for _, text := range registered {
		certificate, err := parseCertificate(text)
		if err != nil {
			continue // checked when it was registered
		}
		short, long := sha1.Sum(certificate.Raw), sha256.Sum256(certificate.Raw)
		if len(wanted) > 0 && (string(short[:]) == string(wanted) || string(long[:]) == string(wanted)) {
			return certificate, thumbprint
		}
	}
	return nil, thumbprint
}

// checkFederatedAssertion validates a token of another issuer against the federated identity credentials, which match exactly, case included.
func checkFederatedAssertion(c client, assertion, issuer, subject string) *aadError {
	unverified := jwt.MapClaims{}
	if _, _, err := jwt.NewParser().ParseUnverified(assertion, unverified); err != nil {
		return &aadError{http.StatusUnauthorized, 50027, "invalid_client", "JWT token is invalid or malformed."}
	}
	given := audiences(unverified)
	at := slices.IndexFunc(c.Federated, func(f FederatedCredential) bool {
		return f.Issuer == issuer && f.Subject == subject && slices.Contains(given, f.Audience)
	})
	if at < 0 {
		return &aadError{http.StatusUnauthorized, 70021, "invalid_client", fmt.Sprintf("No matching federated identity record found for presented assertion. Assertion Issuer: '%s'. Assertion Subject: '%s'. Assertion Audience: '%s'. https://docs.microsoft.com/en-us/azure/active-directory/develop/workload-identity-federation", issuer, subject, strings.Join(given, ","))}
	}
	set, err := parseJWKS(c.Federated[at].JWKS)
	if err != nil {
		return &aadError{http.StatusUnauthorized, 50166, "invalid_client", "Request to External OIDC endpoint failed."}
	}
	_, err = jwt.Parse(assertion, func(t *jwt.Token) (any, error) {
		kid, _ := t.Header["kid"].(string)
		if public, ok := set[kid]; ok {
			return public, nil
		}
		return nil, fmt.Errorf("key %q is not in the issuer's key set", kid)
	}, jwt.WithValidMethods([]string{"RS256"}), jwt.WithExpirationRequired())
	switch {
	case errors.Is(err, jwt.ErrTokenExpired), errors.Is(err, jwt.ErrTokenNotValidYet), errors.Is(err, jwt.ErrTokenRequiredClaimMissing):
		return &aadError{http.StatusUnauthorized, 700024, "invalid_client", "Client assertion is not within its valid time range."}
	case err != nil:
		return &aadError{http.StatusUnauthorized, 5000819, "invalid_client", "The signature of the presented assertion could not be validated: " + err.Error()}
	}
	return nil
}
