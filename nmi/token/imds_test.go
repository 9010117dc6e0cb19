package token_test

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/aad-pod-identity/aad-pod-identity/internal/metric"
	"github.com/aad-pod-identity/aad-pod-identity/nmi/token"
	"github.com/aad-pod-identity/aad-pod-identity/test/azure"
)

const (
	subscription = "11111111-1111-1111-1111-111111111111"
	audience     = "https://vault.azure.net"
)

var (
	vmID     = azure.VMID(subscription, "rg", "vm")
	demoID   = azure.IdentityID(subscription, "rg", "demo")
	otherID  = azure.IdentityID(subscription, "rg", "other")
	newProxy = &http.Transport{}
)

// cloud is an emulated VM with a system-assigned identity and the identity demo;
// the identity other exists and is not on it.
func cloud(t *testing.T) (e *azure.Emulator, demo, other azure.Identity, imds string) {
	t.Helper()
	e, err := azure.New(azure.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if demo, err = e.PutIdentity(azure.Identity{ID: demoID}); err != nil {
		t.Fatal(err)
	}
	if other, err = e.PutIdentity(azure.Identity{ID: otherID}); err != nil {
		t.Fatal(err)
	}
	if _, err := e.PutCompute(azure.Compute{ID: vmID, SystemAssigned: true, UserAssigned: []azure.Assignment{{ID: demoID}}}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	imds, err = e.StartIMDS(ctx, vmID, "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cancel(); e.Close() })
	return e, demo, other, imds
}

func transport(t *testing.T) http.RoundTripper {
	tr := newProxy.Clone()
	t.Cleanup(tr.CloseIdleConnections)
	return tr
}

func TestIMDS(t *testing.T) {
	e, demo, other, url := cloud(t)
	source := token.NewIMDS(url+"/", "agent/1", transport(t))
	get := func(r token.Request) (token.Token, error) {
		r.Resource = audience
		return source.Token(t.Context(), r)
	}

	for name, r := range map[string]token.Request{
		"by client ID":                            {ClientID: demo.ClientID},
		"by client ID in another case":            {ClientID: strings.ToUpper(demo.ClientID)},
		"by resource ID, for lack of a client ID": {ResourceID: demo.ID},
	} {
		tok, err := get(r)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if tok.ClientID != demo.ClientID || tok.Resource != audience || tok.TokenType != "Bearer" || tok.AccessToken == "" || time.Until(tok.ExpiresOn) < time.Hour {
			t.Errorf("%s: got a token of client %s for %s, type %s, until %s", name, tok.ClientID, tok.Resource, tok.TokenType, tok.ExpiresOn)
		}
	}

	var refused *token.Error
	if _, err := get(token.Request{ClientID: other.ClientID}); !errors.As(err, &refused) || !refused.Refused || refused.Description != "Identity not found" {
		t.Errorf("an identity that is not on the VM: %v", err)
	}
	before := len(e.Calls(azure.CallFilter{}))
	if _, err := get(token.Request{}); !errors.As(err, &refused) || !refused.Refused {
		t.Errorf("an identity without client and resource ID: %v", err)
	}
	if n := len(e.Calls(azure.CallFilter{})); n != before {
		t.Error("IMDS was asked without a selector, which means the system-assigned identity")
	}
	for _, c := range e.Calls(azure.CallFilter{Operation: azure.OpIMDSToken}) {
		if c.UserAgent != "agent/1" || c.ForwardedFor != "" {
			t.Errorf("call with user agent %q, forwarded for %q", c.UserAgent, c.ForwardedFor)
		}
	}
}

func TestIMDSRetriesWhatPasses(t *testing.T) {
	for _, status := range []int{404, 410, 429, 500, 501, 503, 511} {
		t.Run(http.StatusText(status), func(t *testing.T) {
			e, demo, _, url := cloud(t)
			if _, err := e.AddFault(azure.Fault{Operation: azure.OpIMDSToken, Status: status, Code: "busy", RetryAfter: 1, Count: 1}); err != nil {
				t.Fatal(err)
			}
			tok, err := token.NewIMDS(url, "agent/1", transport(t)).Token(t.Context(), token.Request{ClientID: demo.ClientID, Resource: audience})
			if err != nil || tok.AccessToken == "" {
				t.Errorf("no token after the fault had passed: %v", err)
			}
		})
	}
}

func TestIMDSTellsRefusalFromInability(t *testing.T) {
	tests := map[string]struct {
		fault   azure.Fault
		refused bool
		status  int
		text    string
	}{
		"unauthorized":        {fault: azure.Fault{Status: 401, Code: "unauthorized_client", Message: "no"}, refused: true, status: 401, text: "no"},
		"a redirect":          {fault: azure.Fault{Status: 302}, status: 302, text: "302"},
		"a page of a captive": {fault: azure.Fault{Status: 200, RawBody: "<html>"}, text: "not a token"},
		"an empty answer":     {fault: azure.Fault{Status: 200, RawBody: "{}"}, text: "not a token"},
		"a broken connection": {fault: azure.Fault{Drop: true}, text: "cannot be reached"},
		"throttled for long":  {fault: azure.Fault{Status: 429, Code: "too_many", RetryAfter: 3600, Message: "later"}, status: 429, text: "later"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			e, demo, _, url := cloud(t)
			tc.fault.Operation = azure.OpIMDSToken
			if _, err := e.AddFault(tc.fault); err != nil {
				t.Fatal(err)
			}
			// What passes by itself is retried for longer than a test should take.
			ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
			defer cancel()
			_, err := token.NewIMDS(url, "agent/1", transport(t)).Token(ctx, token.Request{ClientID: demo.ClientID, Resource: audience})
			var got *token.Error
			if !errors.As(err, &got) {
				t.Fatalf("error %v", err)
			}
			if got.Refused != tc.refused || got.Status != tc.status || !strings.Contains(err.Error(), tc.text) {
				t.Errorf("refused %v, status %d, %q", got.Refused, got.Status, err)
			}
			if got.Status == 429 && got.RetryAfter != time.Hour {
				t.Errorf("retry after %v", got.RetryAfter)
			}
			if strings.Contains(err.Error(), demo.ClientID) {
				t.Errorf("the error shows the client ID: %q", err)
			}
		})
	}
}

func TestIMDSErrorsHideTheClientID(t *testing.T) {
	e, demo, _, url := cloud(t)
	upper := strings.ToUpper(demo.ClientID)
	if _, err := e.AddFault(azure.Fault{
		Operation: azure.OpIMDSToken, Status: 400, Code: "unauthorized_client",
		Message: "AADSTS700016: Application with identifier '" + upper + "' was not found",
	}); err != nil {
		t.Fatal(err)
	}
	_, err := token.NewIMDS(url, "agent/1", transport(t)).Token(t.Context(), token.Request{ClientID: demo.ClientID, Resource: audience})
	var got *token.Error
	if !errors.As(err, &got) || !got.Refused || !strings.Contains(got.Description, "##### REDACTED #####") || strings.Contains(err.Error(), upper) {
		t.Errorf("error %v", err)
	}
}

func TestIMDSBoundsTheAnswer(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for range 1 << 12 {
			if _, err := w.Write([]byte(strings.Repeat(" ", 1<<10))); err != nil {
				return
			}
		}
		_, _ = w.Write([]byte(`{"access_token":"a","expires_in":"60"}`))
	}))
	defer srv.Close()
	if _, err := token.NewIMDS(srv.URL, "agent/1", transport(t)).Token(t.Context(), token.Request{ClientID: "c", Resource: audience}); err == nil {
		t.Error("four megabytes were read")
	}
}

func TestMetered(t *testing.T) {
	_, demo, other, url := cloud(t)
	m := metric.NewNMI(prometheus.NewRegistry())
	s := token.NewMetered(token.NewIMDS(url, "agent/1", transport(t)), m, metric.OpTokenUserAssigned)
	for _, id := range []string{demo.ClientID, other.ClientID} {
		_, err := s.Token(t.Context(), token.Request{ClientID: id, Resource: audience})
		if (err == nil) != (id == demo.ClientID) {
			t.Errorf("error %v", err)
		}
	}
	left, leave := context.WithCancel(t.Context())
	leave()
	if _, err := s.Token(left, token.Request{ClientID: demo.ClientID, Resource: audience}); err == nil {
		t.Error("a token for nobody")
	}
	if n := testutil.ToFloat64(m.IMDSErrors.WithLabelValues(metric.OpTokenUserAssigned)); n != 1 {
		t.Errorf("%v errors counted, want that of the endpoint alone", n)
	}
	if n := testutil.CollectAndCount(m.IMDSDuration); n != 1 {
		t.Errorf("%d durations", n)
	}
}
