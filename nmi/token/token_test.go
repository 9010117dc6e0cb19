package token

import (
	"encoding/json"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/types"
)

func TestTokenIsAllStrings(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		in := Token{
			AccessToken: "ey", Resource: "https://vault.azure.net", TokenType: "Bearer", ClientID: "c", NotBefore: "946684800",
			ExpiresOn: time.Now().Add(90 * time.Minute), RefreshIn: time.Hour,
		}
		<-time.After(30 * time.Minute) // it was in the cache
		data, err := json.Marshal(in)
		if err != nil {
			t.Fatal(err)
		}
		var got map[string]string // numbers would not decode
		if err := json.Unmarshal(data, &got); err != nil {
			t.Fatal(err)
		}
		want := map[string]string{
			"access_token": "ey", "client_id": "c", "expires_in": "3600", "expires_on": "946690200", "not_before": "946684800",
			"refresh_token": "", "resource": "https://vault.azure.net", "token_type": "Bearer",
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("token (-want +got):\n%s", diff)
		}
	})
}

// TestPreparedTokensAreTheSame: what is made ahead is what would be made now.
func TestPreparedTokensAreTheSame(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, in := range []Token{
			{},
			{AccessToken: "ey", ClientID: "c", Resource: "https://r", TokenType: "Bearer", NotBefore: "1", ExpiresOn: time.Now().Add(time.Hour)},
			{AccessToken: `"expires_in":"`, Resource: "\"expires_in\":\"5\" <&> \x00 ü", ExpiresOn: time.Now().Add(time.Minute)},
			{AccessToken: "expired", ExpiresOn: time.Now().Add(-time.Minute)},
		} {
			ready := in.prepare()
			<-time.After(time.Second)
			want, err := in.AppendJSON([]byte("before"))
			if err != nil {
				t.Fatal(err)
			}
			for range 2 {
				got, err := ready.AppendJSON([]byte("before"))
				if err != nil || string(got) != string(want) || ready.json == nil {
					t.Errorf("%s, %v, want %s", got, err, want)
				}
			}
		}
	})
}

func TestReadingTokens(t *testing.T) {
	tests := map[string]struct {
		body    string
		want    time.Duration // until it expires
		wantErr bool
	}{
		"strings, as IMDS writes":       {body: `{"access_token":"a","expires_on":"946688400","expires_in":"1"}`, want: time.Hour},
		"numbers, as imitations write":  {body: `{"access_token":"a","expires_on":946688400}`, want: time.Hour},
		"only expires_in":               {body: `{"access_token":"a","expires_in":"60"}`, want: time.Minute},
		"a date, as some endpoints say": {body: `{"access_token":"a","expires_on":"1/1/2000 1:00:00 AM","expires_in":"60"}`, want: time.Minute},
		"no expiry":                     {body: `{"access_token":"a"}`, wantErr: true},
		"no token":                      {body: `{"expires_in":"60"}`, wantErr: true},
		"not an object":                 {body: `"token"`, wantErr: true},
		"a list for a string":           {body: `{"access_token":["a"],"expires_in":"60"}`, wantErr: true},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { // time is 2000-01-01
				var tok Token
				err := json.Unmarshal([]byte(tc.body), &tok)
				if (err != nil) != tc.wantErr {
					t.Fatalf("error %v", err)
				}
				if err == nil && time.Until(tok.ExpiresOn) != tc.want {
					t.Errorf("expires in %v, want %v", time.Until(tok.ExpiresOn), tc.want)
				}
			})
		})
	}
}

func TestKey(t *testing.T) {
	base := Request{ClientID: "ABC", Resource: "https://r"}
	same := map[string]Request{
		"client ID in another case":                       {ClientID: "abc", Resource: "https://r"},
		"the resource ID does not matter beside a client": {ClientID: "abc", ResourceID: "/x", Resource: "https://r"},
	}
	for name, r := range same {
		if r.Key() != base.Key() {
			t.Errorf("%s: another key", name)
		}
	}
	other := map[string]Request{
		"another resource":               {ClientID: "abc", Resource: "https://r/"},
		"another client":                 {ClientID: "abd", Resource: "https://r"},
		"another tenant":                 {ClientID: "abc", Resource: "https://r", TenantID: "t"},
		"a resource ID like a client ID": {ResourceID: "abc", Resource: "https://r"},
	}
	for name, r := range other {
		if r.Key() == base.Key() {
			t.Errorf("%s: the same key", name)
		}
	}
	principal := func(change func(*Request)) Key {
		r := Request{ClientID: "ABC", Resource: "https://r", TenantID: "t", Principal: Principal{
			Credential: CredentialSecret, Authority: "https://login", Secret: types.NamespacedName{Namespace: "ns", Name: "s"},
		}}
		change(&r)
		return r.Key()
	}
	if principal(func(r *Request) { r.ClientID = "abc"; r.TenantID = "T" }) != principal(func(*Request) {}) {
		t.Error("the client ID or tenant of a principal is compared by case")
	}
	// Knowing a client ID and a tenant must not be enough for a token that somebody
	// else got with the credential.
	for name, change := range map[string]func(*Request){
		"another Secret":             func(r *Request) { r.Principal.Secret.Name = "mine" },
		"a Secret elsewhere":         func(r *Request) { r.Principal.Secret.Namespace = "mine" },
		"the same text, cut apart":   func(r *Request) { r.Principal.Secret = types.NamespacedName{Namespace: `ns" "s`} },
		"another authority":          func(r *Request) { r.Principal.Authority = "https://evil" },
		"another kind of credential": func(r *Request) { r.Principal.Credential = CredentialCertificate },
		"another version of it":      func(r *Request) { r.version = "2" },
		"a managed identity":         func(r *Request) { r.Principal = Principal{} },
		"another tenant":             func(r *Request) { r.TenantID = "u" },
	} {
		if principal(change) == principal(func(*Request) {}) {
			t.Errorf("principal, %s: the same key", name)
		}
	}
	if (Request{ResourceID: "/a/resourceGroups/B"}).Key() != (Request{ResourceID: "/A/resourcegroups/b"}).Key() {
		t.Error("resource IDs are compared by case")
	}
}

func TestClaims(t *testing.T) {
	tests := map[string]struct {
		token string
		want  claims
	}{
		"a token":             {"e30.eyJvaWQiOiJvIiwibmJmIjo1fQ.c2ln", claims{ObjectID: "o", NotBefore: 5}},
		"an opaque one":       {"opaque", claims{}},
		"only a dot":          {"a.b", claims{}},
		"not base64":          {"a.%%.c", claims{}},
		"not JSON":            {"a.YQ.c", claims{}},
		"claims of bad types": {"a.eyJvaWQiOiJvIiwibmJmIjoieCJ9.c", claims{}},
	}
	for name, tc := range tests {
		if got := readClaims(tc.token); got != tc.want {
			t.Errorf("%s: %+v", name, got)
		}
	}
}
