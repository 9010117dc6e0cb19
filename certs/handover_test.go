package certs

import (
	"net/http"
	"testing"
	"time"
)

func TestHandover(t *testing.T) {
	type look struct {
		after                time.Duration // since the first look
		trusted, servedWorks bool
		want                 bool
	}
	tests := map[string][]look{
		"the first certificate is served at once, trusted or not": {{0, false, false, true}},
		"a renewed one waits for every API server":                {{0, true, true, false}, {settleTime - 1, true, true, false}, {settleTime, true, true, true}},
		"one of a new authority waits until that is trusted": {
			{0, false, true, false}, {time.Hour, false, true, false}, {time.Hour + 1, true, true, false},
			{time.Hour + 1 + settleTime, true, true, true},
		},
		"trust that is lost is waited for anew": {
			{0, true, true, false}, {settleTime - 1, false, true, false}, {settleTime, true, true, false}, {2*settleTime - 1, true, true, false}, {2 * settleTime, true, true, true},
		},
		"nothing is waited for once the old one is worth nothing": {{0, false, true, false}, {time.Second, false, false, true}},
	}
	for name, looks := range tests {
		t.Run(name, func(t *testing.T) {
			var h handover
			for _, l := range looks {
				if got := h.due([]byte("new"), l.trusted, l.servedWorks, noon.Add(l.after)); got != l.want {
					t.Errorf("after %s: due %v, want %v", l.after, got, l.want)
				}
			}
		})
	}
}

// TestHandoverToAnother: what the one before was waited for does not count.
func TestHandoverToAnother(t *testing.T) {
	var h handover
	if h.due([]byte("a"), true, true, noon) || !h.due([]byte("a"), true, true, noon.Add(settleTime)) {
		t.Error("the first was not waited for")
	}
	if h.due([]byte("b"), true, true, noon.Add(settleTime+time.Second)) {
		t.Error("the next one was not waited for")
	}
	if !h.due([]byte("b"), true, true, noon.Add(2*settleTime+time.Second)) {
		t.Error("the next one was waited for longer")
	}
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func TestNarrowing(t *testing.T) {
	const secrets, configurations = "/api/v1/namespaces/ns/secrets", "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations"
	tests := map[string]struct{ method, url, want string }{
		"a list":                     {http.MethodGet, secrets + "?limit=500", secrets + "?fieldSelector=metadata.name%3Dmine&limit=500"},
		"a watch":                    {http.MethodGet, secrets + "?watch=true", secrets + "?fieldSelector=metadata.name%3Dmine&watch=true"},
		"a cluster-wide list":        {http.MethodGet, configurations, configurations + "?fieldSelector=metadata.name%3Dours"},
		"one object":                 {http.MethodGet, secrets + "/mine", secrets + "/mine"},
		"another resource":           {http.MethodGet, "/api/v1/namespaces/ns/pods", "/api/v1/namespaces/ns/pods"},
		"a creation":                 {http.MethodPost, secrets, secrets},
		"an update":                  {http.MethodPut, secrets + "/mine", secrets + "/mine"},
		"the discovery of resources": {http.MethodGet, "/api/v1", "/api/v1"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			var got string
			n := narrowing{names: map[string]string{"secrets": "mine", "mutatingwebhookconfigurations": "ours"}, next: roundTripper(func(r *http.Request) (*http.Response, error) {
				got = r.URL.RequestURI()
				return &http.Response{Body: http.NoBody}, nil
			})}
			r, err := http.NewRequestWithContext(t.Context(), tt.method, "https://localhost"+tt.url, nil)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := n.RoundTrip(r); err != nil {
				t.Fatal(err)
			}
			if got != tt.want {
				t.Errorf("asked for %s, want %s", got, tt.want)
			}
			if r.URL.RequestURI() != tt.url {
				t.Errorf("the caller's request was changed to %s", r.URL.RequestURI())
			}
		})
	}
}
