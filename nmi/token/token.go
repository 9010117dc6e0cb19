package token

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/aad-pod-identity/aad-pod-identity/internal/resourceid"
)

// Source gives tokens. Errors about the token, as opposed to the caller's
// context, are of type *Error.
type Source interface {
	Token(ctx context.Context, req Request) (Token, error)
}

// Request names a token: of an identity, for a resource, from a tenant.
type Request struct {
	// ClientID of the identity, or, for stored identities without one,
	// ResourceID. Never both empty: IMDS would take that for the node's
	// system-assigned identity.
	ClientID, ResourceID string
	// Resource is the token's audience, as the pod spells it.
	Resource string
	// TenantID is empty for managed identities, which have but one tenant.
	TenantID string
	// Principal is set if the identity is a service principal.
	Principal Principal
	// Ahead says that nobody has asked for the token yet. An error is then not kept:
	// IMDS may learn of an assignment a moment later.
	Ahead bool

	// version of the principal's credential, by which Versioned tells a token that
	// was got with it from one of an earlier credential.
	version string
}

// Credential says how a service principal proves who it is.
type Credential string

// Kinds of credentials. The zero value is a managed identity, which needs none.
const (
	CredentialSecret      Credential = "secret"      // AzureIdentity type 1
	CredentialCertificate Credential = "certificate" // AzureIdentity type 2
)

// Principal is what a token of a service principal is got with. Whoever names
// another Secret or authority gets another token: knowing a client ID and a tenant
// is no proof.
type Principal struct {
	Credential Credential
	// Secret holds the credential.
	Secret types.NamespacedName
	// Authority is the AzureIdentity's adEndpoint.
	Authority string
}

// Key says which requests get the same token.
type Key struct {
	// Identity is who the token is of, with all by which it is got.
	Identity string
	// Version of the credential; those of one Identity replace each other.
	Version            string
	Resource, TenantID string
}

// Key of the request.
func (r Request) Key() Key {
	k := Key{Resource: r.Resource, TenantID: strings.ToLower(r.TenantID), Version: r.version}
	switch p := r.Principal; {
	case p != Principal{}:
		// Quoted, so that no part can pass for another.
		k.Identity = fmt.Sprintf("principal:%q", []string{string(p.Credential), strings.ToLower(r.ClientID), p.Authority, p.Secret.Namespace, p.Secret.Name})
	case r.ClientID == "":
		k.Identity = "resource:" + resourceid.Key(r.ResourceID)
	default:
		k.Identity = "client:" + strings.ToLower(r.ClientID)
	}
	return k
}

// Token is an access token with what IMDS says about it.
type Token struct {
	AccessToken, RefreshToken, Resource, TokenType, ClientID string
	NotBefore                                                string
	// ObjectID is the identity's object ID as the token says; empty if it says
	// none. It is not part of an answer.
	ObjectID string
	// RequestID is what the endpoint called the request that the token was got by.
	// It is not part of an answer.
	RequestID string
	// ExpiresOn is when the token becomes invalid.
	ExpiresOn time.Time
	// RefreshIn is IMDS's hint when to renew, counted from the answer; 0 if none.
	RefreshIn time.Duration

	json *prepared // nil unless made ahead
}

// wire is a token as IMDS writes it: every value a string. Clients break on
// numbers and dates.
type wire struct {
	AccessToken  text `json:"access_token"`
	ClientID     text `json:"client_id,omitempty"`
	ExpiresIn    text `json:"expires_in"`
	ExpiresOn    text `json:"expires_on"`
	NotBefore    text `json:"not_before"`
	RefreshIn    text `json:"refresh_in,omitempty"`
	RefreshToken text `json:"refresh_token"`
	Resource     text `json:"resource"`
	TokenType    text `json:"token_type"`
}

// text is a string that also reads a JSON number, which some endpoints that
// imitate IMDS send.
type text string

// UnmarshalJSON implements json.Unmarshaler.
func (t *text) UnmarshalJSON(data []byte) error {
	if len(data) > 0 && data[0] != '"' {
		var n json.Number
		if err := json.Unmarshal(data, &n); err != nil {
			return fmt.Errorf("neither a string nor a number: %w", err)
		}
		*t = text(n)
		return nil
	}
	var s string
	if err := json.Unmarshal(data, &s); err != nil {
		return fmt.Errorf("reading a string: %w", err)
	}
	*t = text(s)
	return nil
}

// prepared is the JSON of a token around the only value in it that changes.
type prepared struct{ head, tail []byte }

// prepare returns the token with its JSON made ahead: a token in the cache is
// written many times.
func (t Token) prepare() Token {
	data, err := t.encode("")
	if err != nil {
		return t // whoever writes it finds out again
	}
	// Within a value a quotation mark would be escaped, so this is the member.
	at := bytes.Index(data, []byte(expiresIn))
	if at < 0 {
		return t
	}
	at += len(expiresIn)
	t.json = &prepared{head: data[:at:at], tail: data[at:]}
	return t
}

const expiresIn = `"expires_in":"`

// AppendJSON appends the token in IMDS's shape. ExpiresIn is counted from now, so
// that a cached token does not claim its first lifetime.
func (t Token) AppendJSON(to []byte) ([]byte, error) {
	left := max(0, int64(time.Until(t.ExpiresOn).Seconds()))
	if t.json != nil {
		const digits = 19 // of the largest number
		to = slices.Grow(to, len(t.json.head)+digits+len(t.json.tail))
		to = append(to, t.json.head...)
		to = strconv.AppendInt(to, left, 10)
		return append(to, t.json.tail...), nil
	}
	data, err := t.encode(strconv.FormatInt(left, 10))
	return append(to, data...), err
}

// MarshalJSON implements json.Marshaler.
func (t Token) MarshalJSON() ([]byte, error) { return t.AppendJSON(nil) }

func (t Token) encode(in string) ([]byte, error) {
	return json.Marshal(wire{
		AccessToken:  text(t.AccessToken),
		ClientID:     text(t.ClientID),
		ExpiresIn:    text(in),
		ExpiresOn:    text(strconv.FormatInt(t.ExpiresOn.Unix(), 10)),
		NotBefore:    text(t.NotBefore),
		RefreshToken: text(t.RefreshToken),
		Resource:     text(t.Resource),
		TokenType:    text(t.TokenType),
	})
}

// UnmarshalJSON reads IMDS's answer.
func (t *Token) UnmarshalJSON(data []byte) error {
	var w wire
	if err := json.Unmarshal(data, &w); err != nil {
		return err
	}
	if w.AccessToken == "" {
		return errors.New("no access_token")
	}
	*t = Token{
		AccessToken: string(w.AccessToken), RefreshToken: string(w.RefreshToken), Resource: string(w.Resource),
		TokenType: string(w.TokenType), ClientID: string(w.ClientID), NotBefore: string(w.NotBefore),
		ObjectID: readClaims(string(w.AccessToken)).ObjectID,
	}
	if on, err := strconv.ParseInt(string(w.ExpiresOn), 10, 64); err == nil {
		t.ExpiresOn = time.Unix(on, 0)
	} else if in, err := strconv.ParseInt(string(w.ExpiresIn), 10, 32); err == nil {
		t.ExpiresOn = time.Now().Add(time.Duration(in) * time.Second)
	} else {
		return fmt.Errorf("neither expires_on %q nor expires_in %q is a number of seconds", w.ExpiresOn, w.ExpiresIn)
	}
	if in, err := strconv.ParseInt(string(w.RefreshIn), 10, 32); err == nil && in > 0 {
		t.RefreshIn = time.Duration(in) * time.Second
	}
	return nil
}

// Codes of errors that are NMI's own.
const (
	codeUnavailable = "unavailable"
	// CodeSecret: the Secret of a service principal cannot be used.
	CodeSecret = "credential_unavailable"
)

// Error says why there is no token.
type Error struct {
	// Refused means that the endpoint understood and said no; asking again
	// without a change does not help. Otherwise it was unreachable or unable.
	Refused bool
	// Code and Description as the endpoint gave them, or our own in its style.
	// They contain no token, secret or client ID of ours.
	Code, Description string
	// Status of the endpoint's answer, 0 when there was none.
	Status int
	// RetryAfter is how long the endpoint asked to wait; 0 if it did not say.
	RetryAfter time.Duration
	// RequestID is what the endpoint called the request; empty if it did not.
	RequestID string

	err error
}

// Error implements error.
func (e *Error) Error() string {
	s := e.Code
	if e.Status != 0 {
		s = fmt.Sprintf("status %d, %s", e.Status, e.Code)
	}
	return "getting a token: " + s + ": " + e.Description
}

// Unwrap gives the cause.
func (e *Error) Unwrap() error { return e.err }
