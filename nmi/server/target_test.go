package server

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"

	v1 "github.com/aad-pod-identity/aad-pod-identity/api/v1"
	"github.com/aad-pod-identity/aad-pod-identity/test/azure"
)

// exchange sends a request as it is written, which no client would, and reads
// the answer.
func (w *world) exchange(method, target, headers string) (status int, body string) {
	w.t.Helper()
	dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(webIP)}}
	c, err := dialer.DialContext(w.t.Context(), "tcp", w.address)
	if err != nil {
		w.t.Fatal(err)
	}
	defer c.Close()
	if _, err := fmt.Fprintf(c, "%s %s HTTP/1.1\r\nHost: 169.254.169.254\r\nMetadata: true\r\n%sConnection: close\r\n\r\n", method, target, headers); err != nil {
		w.t.Fatal(err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		w.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		w.t.Fatal(err)
	}
	return resp.StatusCode, string(text)
}

// TestOddTargetsDoNotReachIMDS is about request targets whose path, as net/http
// reads it, is not what the real service would read. The pod has no identity, so
// any token would be the node's.
func TestOddTargetsDoNotReachIMDS(t *testing.T) {
	w := newWorld(t, nil)
	const direct = "http://169.254.169.254" + tokenURL
	for _, target := range []string{
		"http:" + direct,
		"x:" + direct,
		"HTTP:" + direct,
		"http:metadata/identity/oauth2/token?api-version=2018-02-01&resource=" + vault,
		"http:%2fmetadata/identity/oauth2/token?api-version=2018-02-01&resource=" + vault,
	} {
		for _, method := range []string{http.MethodGet, http.MethodOptions, http.MethodConnect} {
			if status, body := w.exchange(method, target, ""); status != http.StatusBadRequest {
				t.Errorf("%s %s: status %d, %s", method, target, status, body)
			}
		}
	}
	if status, body := w.exchange(http.MethodConnect, "169.254.169.254:80", ""); status != http.StatusBadRequest {
		t.Errorf("CONNECT: status %d, %s", status, body)
	}
	// OPTIONS * is answered by net/http itself.
	if status, body := w.exchange(http.MethodGet, "*", ""); status != http.StatusBadRequest {
		t.Errorf("GET *: status %d, %s", status, body)
	}
	// The absolute form alone is ordinary: the pod gets what is its own, nothing.
	if status, body := w.exchange(http.MethodGet, direct, ""); status != http.StatusNotFound {
		t.Errorf("absolute form: status %d, %s", status, body)
	}
	if calls := w.azure.Calls(azure.CallFilter{Service: azure.ServiceIMDS}); len(calls) != 0 {
		t.Errorf("%d requests reached IMDS: %+v", len(calls), calls)
	}
}

// TestNoProtocolSwitch is about a service that would agree to speak another
// protocol, in which the pod's further requests would pass unseen.
func TestNoProtocolSwitch(t *testing.T) {
	upgrade := make(chan string, 1)
	imds := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		upgrade <- r.Header.Get("Upgrade")
		if p := r.Header.Get("Upgrade"); p != "" {
			w.Header().Set("Connection", "Upgrade")
			w.Header().Set("Upgrade", p)
			w.WriteHeader(http.StatusSwitchingProtocols)
		}
	}))
	t.Cleanup(imds.Close)
	endpoint, err := url.Parse(imds.URL)
	if err != nil {
		t.Fatal(err)
	}
	w := newWorld(t, func(o *Options) { o.Metadata = endpoint })
	status, _ := w.exchange(http.MethodGet, "/metadata/versions", "Connection: Upgrade\r\nUpgrade: tunnel\r\n")
	if asked := <-upgrade; status != http.StatusOK || asked != "" {
		t.Errorf("status %d, the service was asked for %q", status, asked)
	}
}

// TestCredentialsOfTheNodeAreNotPassedOn is about the endpoints beside tokens by
// which the service hands out the node's identities.
func TestCredentialsOfTheNodeAreNotPassedOn(t *testing.T) {
	w := newWorld(t, nil)
	w.assign("web", w.demo, v1.AssignedIDAssigned)
	w.setPod("excepted", strangerIP, func(p *corev1.Pod) { p.Spec.ServiceAccountName = "mic" })
	const issue, platform = "/metadata/identity/issuecredential?cred-api-version=2.0", "/metadata/identity/getplatformmetadata?cred-api-version=2.0"
	for _, target := range []string{issue, platform} {
		if r := w.get(webIP, target, nil); r.status != http.StatusNotFound || r.oauth.Code != "not_found" {
			t.Errorf("%s: status %d, %s", target, r.status, r.body)
		}
	}
	if status, body := w.exchange(http.MethodPost, issue, "Content-Length: 0\r\n"); status != http.StatusNotFound || !strings.Contains(body, "not_found") {
		t.Errorf("POST: status %d, %s", status, body)
	}
	// MSAL's probe, to which 400 would mean that there is such a path.
	if r := w.get(webIP, platform, map[string]string{"Metadata": ""}); r.status != http.StatusNotFound {
		t.Errorf("without the header: status %d, %s", r.status, r.body)
	}
	if n := len(w.azure.Calls(azure.CallFilter{Service: azure.ServiceIMDS})); n != 0 {
		t.Errorf("%d requests reached IMDS", n)
	}
	w.get(strangerIP, issue, nil)
	w.get(webIP, "/metadata/identity/info?api-version=2018-02-01", nil)
	if n := len(w.azure.Calls(azure.CallFilter{Service: azure.ServiceIMDS})); n != 2 {
		t.Errorf("%d requests reached IMDS, want those of the excepted pod and for info", n)
	}
}
