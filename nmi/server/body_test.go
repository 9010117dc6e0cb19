package server

import (
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"

	v1 "github.com/aad-pod-identity/aad-pod-identity/api/v1"
)

// TestBodyOfATokenRequest: nobody needs one, and who sends one is answered all the same.
func TestBodyOfATokenRequest(t *testing.T) {
	w := newWorld(t, nil)
	w.assign("web", w.demo, v1.AssignedIDAssigned)
	for name, tc := range map[string]struct {
		body   io.Reader
		status int
	}{
		"of a known length":    {strings.NewReader("body"), 200},
		"of an unknown length": {io.MultiReader(strings.NewReader("body")), 200},
		"as long as it may be": {strings.NewReader(strings.Repeat("b", maxBody)), 200},
		"too long":             {strings.NewReader(strings.Repeat("b", maxBody+1)), 413},
	} {
		t.Run(name, func(t *testing.T) {
			if status := w.sendBody(http.MethodGet, webIP, tokenURL, tc.body); status != tc.status {
				t.Errorf("status %d", status)
			}
		})
	}
	if status, body := w.exchange(http.MethodGet, tokenURL, "Transfer-Encoding: chunked\r\n\r\nnot a length\r\n"); status != 400 {
		t.Errorf("a body that cannot be read: status %d, %s", status, body)
	}
}

// sendBody asks with a body and returns the status of the answer.
func (w *world) sendBody(method, from, pathAndQuery string, body io.Reader) int {
	w.t.Helper()
	r, err := http.NewRequestWithContext(w.t.Context(), method, "http://169.254.169.254"+pathAndQuery, body)
	if err != nil {
		w.t.Fatal(err)
	}
	r.Header.Set("Metadata", "true")
	r.Header.Set("Expect", "100-continue")
	resp, err := w.client(from).Do(r)
	if err != nil {
		w.t.Fatal(err)
	}
	if err := resp.Body.Close(); err != nil {
		w.t.Fatal(err)
	}
	return resp.StatusCode
}

// TestBodiesThatArePassedOn: what IMDS rations does not wait there for the body of a
// request that has no use for one.
func TestBodiesThatArePassedOn(t *testing.T) {
	arrived := make(chan string, 1)
	imds := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		arrived <- string(body) + r.Header.Get("Expect")
	}))
	t.Cleanup(imds.Close)
	endpoint, err := url.Parse(imds.URL)
	if err != nil {
		t.Fatal(err)
	}
	w := newWorld(t, func(o *Options) { o.Metadata = endpoint })
	w.setPod("excepted", strangerIP, func(p *corev1.Pod) { p.Spec.ServiceAccountName = "mic" })
	const body, passed = "body", "body100-continue"
	for name, tc := range map[string]struct{ method, from, url, want string }{
		"the node's information":           {http.MethodGet, webIP, "/metadata/identity/info", ""},
		"a path that IMDS may count":       {http.MethodGet, webIP, "/Identity", ""},
		"an excepted pod's token":          {http.MethodGet, strangerIP, tokenURL, ""},
		"an excepted pod's credential":     {http.MethodPost, strangerIP, "/metadata/identity/issuecredential", passed},
		"instance metadata":                {http.MethodGet, webIP, "/metadata/instance", passed},
		"the start of a scheduled event":   {http.MethodPost, webIP, "/metadata/scheduledevents", passed},
		"an excepted pod's other requests": {http.MethodGet, strangerIP, "/metadata/versions", passed},
	} {
		t.Run(name, func(t *testing.T) {
			for length, r := range map[string]io.Reader{"known": strings.NewReader(body), "unknown": io.MultiReader(strings.NewReader(body))} {
				if status := w.sendBody(tc.method, tc.from, tc.url, r); status != http.StatusOK {
					t.Errorf("%s length: status %d", length, status)
				}
				if got := <-arrived; got != tc.want {
					t.Errorf("%s length: %q arrived, want %q", length, got, tc.want)
				}
			}
		})
	}
}
